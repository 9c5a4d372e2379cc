"""Folders as people have them: links, renamed copies, a study in the middle of its sources, labels beside the scans."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from tests.support.dicom_factory import SeriesRecipe, write_series
from tests.support.lung_voxels import lung_hu
from typer.testing import CliRunner

from medai.cli.main import app
from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.store.case_facts import case_of_origin
from medai.volume_io.writers import write_volume
from medai.workflows import import_study
from medai.workflows.import_study import import_scans, voxel_hash

RECIPE = SeriesRecipe()


@pytest.fixture
def volume(rng):
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([-0.7, -0.8, 2.5, 1.0]))
    return Volume(
        geometry=geometry,
        image_hu=lung_hu((10, 11, 12), -850) + rng.integers(-60, 20, size=(10, 11, 12)).astype(np.int16),
    )


def shifted(volume, by_hu):
    return replace(volume, image_hu=volume.image_hu + np.int16(by_hu))


def write(volume, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)
    return path


def ids(report):
    return sorted(case.case_id for case in report.imported)


def test_a_folder_of_links(tmp_path, volume):
    write_series(tmp_path / "store" / "patient1", RECIPE)
    write(volume, tmp_path / "store" / "volumes" / "b70.nii.gz")
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for name, target in (("p1", "patient1"), ("p2", "volumes"), ("p3", "patient1"), ("gone", "nothing")):
        (chosen / name).symlink_to(tmp_path / "store" / target, target_is_directory=True)
    report = import_scans([chosen], tmp_path / "study")
    assert [name.partition("_")[0] for name in ids(report)] == ["b70", "p1"]
    assert [each.source for each in report.refused] == ["gone"]
    assert "link to something that is not there" in report.refused[0].reason


def test_many_links_to_nothing_are_one_line(tmp_path, volume):
    write(volume, tmp_path / "in" / "a7.nii.gz")
    for n in range(9):
        (tmp_path / "in" / f"slice{n}.dcm").symlink_to(tmp_path / "annex" / str(n))
    report = import_scans([tmp_path / "in"], tmp_path / "study")
    assert [each.source for each in report.refused] == ["in: 9 entries, such as slice0.dcm"]


def test_a_renamed_folder_or_file_is_there_already(tmp_path, volume):
    write_series(tmp_path / "in" / "ct", RECIPE)
    write(volume, tmp_path / "in" / "a7.nii.gz")
    first = import_scans([tmp_path / "in"], tmp_path / "study")
    (tmp_path / "in" / "ct").rename(tmp_path / "in" / "renamed")
    (tmp_path / "in" / "a7.nii.gz").rename(tmp_path / "in" / "b8.nii.gz")
    (tmp_path / "in").rename(tmp_path / "other")
    second = import_scans([tmp_path / "other"], tmp_path / "study")
    assert second.imported == ()
    assert sorted(second.skipped) == ids(first)


def test_a_case_that_was_deleted_can_be_imported_again(tmp_path, volume):
    write(volume, tmp_path / "a7.nii.gz")
    case = import_scans([tmp_path / "a7.nii.gz"], tmp_path / "study").imported[0]
    case.path.unlink()
    assert ids(import_scans([tmp_path / "a7.nii.gz"], tmp_path / "study")) == ["a7"]


def test_a_series_that_has_grown_is_not_taken_for_the_one_that_is_there(tmp_path):
    paths = write_series(tmp_path / "ct", RECIPE)
    (tmp_path / "late").mkdir()
    for path in paths[8:]:
        path.rename(tmp_path / "late" / path.name)
    case = import_scans([tmp_path / "ct"], tmp_path / "study").imported[0]
    report = import_scans([tmp_path / "ct", tmp_path / "late"], tmp_path / "study")
    assert report.skipped == report.imported == ()
    assert f"case '{case.case_id}'" in report.refused[0].reason
    assert "had 8 images; now it has 12" in report.refused[0].reason


@pytest.mark.parametrize("other", ["b7.nrrd", "b7.nii", "b7.mha"])
def test_the_same_scan_in_another_format_is_one_case(tmp_path, volume, other):
    write(volume, tmp_path / "in" / "a7.nii.gz")
    write(volume, tmp_path / "in" / other)
    report = import_scans([tmp_path / "in"], tmp_path / "study")
    assert ids(report) == ["a7"]
    assert report.skipped == ("a7",)


def test_the_same_voxels_whatever_the_order_of_their_axes(volume):
    flipped = Volume(
        geometry=volume.geometry.with_axis_reversed(1), image_hu=np.ascontiguousarray(volume.image_hu[:, ::-1])
    )
    moved = replace(volume, geometry=VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.eye(4)))
    assert voxel_hash(flipped) == voxel_hash(volume)
    assert len({voxel_hash(each) for each in (volume, moved, shifted(volume, 1))}) == 3


def test_a_study_inside_its_source_imports_itself_never(tmp_path, volume):
    source, study = tmp_path / "in", tmp_path / "in" / "study"
    write(volume, source / "a7.nii.gz")
    assert ids(import_scans([source], study)) == ["a7"]
    write(shifted(volume, -900), study / "labels" / "final" / "a7.nii.gz")
    write(shifted(volume, 3), study / ".medai" / "scans" / "cached.nii.gz")
    write_series(study / "incoming" / "ct", RECIPE)
    (study / "datastore_v2.json").write_text(json.dumps({"objects": {}}))
    (source / "link").symlink_to(study, target_is_directory=True)
    report = import_scans([source], study)
    assert [name.partition("_")[0] for name in ids(report)] == ["ct"]
    assert report.skipped == ("a7",)
    told = {each.source: each.reason for each in report.left_out}
    assert "1 scans are cases of this study already" in told["study"]
    assert "labels of this study" in told["study/labels"]
    # The study is its own source: what is in it as DICOM becomes cases, nothing else.
    again = import_scans([study], study)
    assert again.imported == ()
    assert again.refused == ()


def test_labels_of_other_studies_are_no_scans(tmp_path, volume):
    stock, nnunet = tmp_path / "in" / "stock", tmp_path / "in" / "nnunet"
    write(volume, stock / "a7.nii.gz")
    write(shifted(volume, 1), stock / "marked" / "final" / "a7.nii.gz")
    (stock / "datastore_v2.json").write_text(json.dumps({"labels_dir": "marked", "objects": {}}))
    write(shifted(volume, 2), nnunet / "imagesTr" / "lung_001_0000.nii.gz")
    write(shifted(volume, 3), nnunet / "labelsTr" / "lung_001.nii.gz")
    write(shifted(volume, 4), nnunet / "x.seg.nrrd")
    report = import_scans([tmp_path / "in"], tmp_path / "study")
    assert ids(report) == ["a7", "lung_001_0000"]
    assert {each.source for each in report.left_out} == {"stock/marked", "nnunet/labelsTr", "*.seg.nrrd"}
    assert report.to_json()["left_out"][0].keys() == {"source", "reason"}


def test_one_name_in_every_folder(tmp_path, volume):
    for n in (1, 2):
        write(shifted(volume, n), tmp_path / "in" / f"s000{n}" / "ct.nii.gz")
        write(shifted(volume, 10 + n), tmp_path / "in" / f"s000{n}" / "late" / "thorax_b.nii.gz")
    together = import_scans([tmp_path / "in"], tmp_path / "together")
    assert ids(together) == ["s0001", "s0001_late", "s0002", "s0002_late"]
    apart = [import_scans([tmp_path / "in" / f"s000{n}"], tmp_path / "apart") for n in (2, 1)]
    assert {"s0001", "s0002"} <= {name for report in apart for name in ids(report)}


def test_the_labels_of_a_scan_that_is_away_keep_their_name(tmp_path, volume):
    write(shifted(volume, 5), tmp_path / "study" / "labels" / "final" / "a7.nii.gz")
    write(volume, tmp_path / "in" / "a7.nii.gz")
    (name,) = ids(import_scans([tmp_path / "in"], tmp_path / "study"))
    assert name.startswith("a7_")


def test_a_file_that_was_put_there_by_hand_is_known(tmp_path, volume):
    path = write(volume, tmp_path / "in" / "a7.nii.gz")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "a7.nii.gz").write_bytes(path.read_bytes())
    assert import_scans([tmp_path / "in"], tmp_path / "study").skipped == ("a7",)


def test_two_thousand_origins_are_read_quickly(tmp_path):
    folder = tmp_path / ".medai" / "cases"
    folder.mkdir(parents=True)
    facts = {"header": {"Modality": "CT"}, "shape_ijk": [512, 512, 300], "patient_key": "0" * 16}
    for n in range(2000):
        (folder / f"c{n}.json").write_text(json.dumps({**facts, "origin": f"o{n}", "also": [f"v{n}"]}))
    started = time.process_time()
    found = case_of_origin(tmp_path, {f"c{n}" for n in range(1999)})
    assert time.process_time() - started < 1.0
    assert found["o7"] == found["v7"] == "c7"
    assert len(found) == 2 * 1999


def test_an_interrupt_says_what_was_kept_and_how_to_go_on(tmp_path, volume, monkeypatch):
    for n in range(3):
        write(shifted(volume, n), tmp_path / "in" / f"a{n}.nii.gz")
    original, calls = import_study.write_volume, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(import_study, "write_volume", interrupted)
    command = ["import", str(tmp_path / "in"), "--to", str(tmp_path / "study")]
    stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code != 0
    assert "2 imported and kept" in stopped.output
    assert "same command goes on" in stopped.output
    assert list((tmp_path / "study" / ".medai" / "incoming").iterdir()) == []
    monkeypatch.undo()
    again = CliRunner().invoke(app, command)
    assert "1 imported, 2 already there, 0 refused" in again.output


def test_scans_in_forms_that_are_not_read_are_named(tmp_path, volume):
    source = tmp_path / "in"
    write(volume, source / "p1.nii.gz")
    for name in ("p2.hdr", "p2.img", "p3.nii.bz2", "p4.mgz", "p5.zip", "p6.raw", "notes.txt"):
        (source / name).write_bytes(b"content")
    report = import_scans([source], tmp_path / "study")
    assert ids(report) == ["p1"]
    refused = {each.source: each.reason for each in report.refused}
    assert sorted(refused) == ["p2.hdr", "p3.nii.bz2", "p4.mgz"]
    assert "pair of files" in refused["p2.hdr"]
    assert [(each.source, each.reason) for each in report.left_out] == [
        ("p5.zip", "Archives are not looked into: unpack it to import what it holds.")
    ]
    (named,) = import_scans([source / "p2.img"], tmp_path / "other").refused
    assert "Open the .hdr file in 3D Slicer" in named.reason


def test_many_damaged_files_of_a_folder_are_one_line(tmp_path, volume):
    write(volume, tmp_path / "in" / "p1.nii.gz")
    for number in range(12):
        (tmp_path / "in" / f"IM{number:02d}.dcm").write_bytes(b"")
    report = import_scans([tmp_path / "in"], tmp_path / "study")
    assert ids(report) == ["p1"]
    assert [each.source for each in report.refused] == ["in: 12 files"]
    assert "IM00.dcm" in report.refused[0].reason


def test_a_scan_that_was_put_into_the_study_by_hand_is_known_by_its_voxels(tmp_path, volume):
    write(volume, tmp_path / "study" / "p1.nrrd")
    report = import_scans([write(volume, tmp_path / "in" / "p1.nii.gz")], tmp_path / "study")
    assert (ids(report), report.skipped) == ([], ("p1",))
    report = import_scans([write(shifted(volume, 3), tmp_path / "more" / "p1.nii.gz")], tmp_path / "study")
    assert len(report.imported) == 1
