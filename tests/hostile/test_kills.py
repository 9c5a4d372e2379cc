"""Processes killed at random moments while they delete cases and import scans.

Submit, train, publish and rollback are killed in ``tests/integration/faults``, a real server with its clients in
``test_server_killed`` there; ``-m slow`` does all of it, more than a hundred kills.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines, make_study
from tests.support.kills import KILLS, Victims

from medai.domain import LabelMap, Segment, Volume
from medai.geometry import VolumeGeometry
from medai.store.case_facts import read_facts
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map, read_volume
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.import_study import import_scans

pytestmark = pytest.mark.timeout(1800)

FEW, MANY = 2, 25
KILL_COUNTS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
SCANS = 12


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    modules = ["medai.store.study", "medai.workflows.import_study", "medai.volume_io.readers", "nibabel"]
    environment = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    with Victims(modules, environment=environment) as victims:
        yield victims


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}


@pytest.mark.parametrize("kills", KILL_COUNTS)
def test_deletions_killed_leave_a_case_whole_or_gone(victims, tmp_path: Path, kills: int, rng, report):
    study = make_study(tmp_path / "study")
    own = set(affines())
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes((study / "case.axial.nii.gz").read_bytes())
    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    labels[6:11, 7:12, 8:13] = 1
    geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affines()["case.axial"])
    label = tmp_path / "label.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),)), label)
    removed: set[str] = set()
    for kill in itertools.count():
        ended = victims.kill(
            "delete",
            study=str(study),
            scan=str(scan),
            label=str(label),
            first=10_000 * kill,
            rng=rng,
            within_s=0.5,
        )
        removed |= set(ended.values("removed"))
        open_cases = set(ended.values("added")) - removed
        store = StudyStore(study)
        left = set(store.image_ids()) - own
        assert not left & removed
        # At most the case at hand is there, and then with all it had.
        for case_id in left & open_cases:
            assert np.count_nonzero(read_label_map(store.label_path(case_id, "final")).labels) == 125
        for case_id in left:
            assert read_volume(store.image_path(case_id)).geometry.shape_ijk == SHAPE_IJK
        final = study / "labels" / "final"
        labelled = {name.removesuffix(".nii.gz") for name in file_names(final)} if final.is_dir() else set()
        assert labelled <= left
        for case_id in left:
            store.remove_image(case_id)
        assert {name.removesuffix(".nii.gz") for name in file_names(study)} - {"datastore_v2.json"} == own
        if kill >= kills - 1 and len(removed) >= kills:
            break
    report(f"delete: {KILLS['delete']} kills, {len(removed)} cases deleted")


@pytest.mark.parametrize("kills", KILL_COUNTS)
def test_imports_killed_leave_whole_scans_and_go_on(victims, tmp_path: Path, kills: int, rng, report):
    source = tmp_path / "source"
    source.mkdir()
    expected = {}
    for number, affine in zip(range(SCANS), itertools.cycle(affines().values()), strict=False):
        image_hu = rng.normal(-800, 100, SHAPE_IJK).astype(np.int16)
        image_hu[5:9, 5:9, 5:9] = number
        volume = Volume(geometry=VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine), image_hu=image_hu)
        write_volume(volume, source / f"scan{number:02d}.nrrd")
        expected[f"scan{number:02d}"] = volume
    told = 0
    for kill in range(kills):
        study = tmp_path / f"study{kill}"
        ended = victims.kill("bring", source=str(source), study=str(study), rng=rng, within_s=0.6)
        imported = set(ended.values("imported"))
        told += len(imported)
        if study.is_dir():
            store = StudyStore(study)
            assert imported <= set(store.image_ids())
            for case_id in store.image_ids():
                np.testing.assert_array_equal(
                    read_volume(store.image_path(case_id)).image_hu, expected[case_id].image_hu
                )
                assert read_facts(study, case_id)["case_id"] == case_id
        again = import_scans([source], study)
        assert {case.case_id for case in again.imported} | set(again.skipped) == set(expected)
        assert imported <= set(again.skipped)
        assert again.refused == ()
        # What a killed import was writing goes once nobody can be writing it any more.
        for leftover in (study / ".medai" / "incoming").iterdir():
            os.utime(leftover, (0, 0))
        assert import_scans([source], study).imported == ()
        assert list((study / ".medai" / "incoming").iterdir()) == []
    report(f"import: {KILLS['bring']} kills, {told} scans told as imported before them")
