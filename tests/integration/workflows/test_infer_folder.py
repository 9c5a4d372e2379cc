"""Every scan of a folder: answered once, passed over, refused, resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.fake_models import BoxClicks, FixedCandidates, SwappableRegistry
from tests.support.scan_factory import make_scan, named_geometry

from medai.errors import InputError
from medai.inference.scan import ScanPipeline
from medai.volume_io.readers import read_label_map
from medai.volume_io.writers import write_volume
from medai.workflows import infer_folder as module
from medai.workflows.executors import InProcessExecutor
from medai.workflows.infer_folder import FolderReport, FolderTask, infer_folder, scans_in
from medai.workflows.ray_executor import RayExecutor

VERSIONS = {"nodule_click": "v1", "nodule_detection": "v1", "nodule_classification": "v1"}


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two scans of known format, one damaged, and what is no scan."""
    folder = tmp_path / "scans"
    (folder / "notes").mkdir(parents=True)
    volume = make_scan(named_geometry("axial"), rng).volume
    write_volume(volume, folder / "one.nii.gz")
    write_volume(volume, folder / "two.nrrd")
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    (folder / "notes" / "readme.txt").write_text("no scan")
    (folder / ".hidden.nii.gz").write_bytes(b"no scan")
    return folder


class Bench:
    """Runs with stand-ins for the networks."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.registry = SwappableRegistry()
        self.task = FolderTask(folder=folder, out=folder.parent / "out")
        self.predicted = 0
        patch.setattr(module, "load_pipeline", self.load)

    def load(self, *_: Any, **__: Any) -> ScanPipeline:
        def count() -> None:
            self.predicted += 1

        candidates = FixedCandidates(centres_ijk=((48, 45, 30),), before=count)
        return ScanPipeline(candidates, BoxClicks(), model_versions=dict(self.registry.versions))

    def run(self, **options: Any) -> FolderReport:
        return infer_folder(self.task, InProcessExecutor(), registry=self.registry, **options)


@pytest.fixture
def bench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(folder, monkeypatch)


def test_scans_are_files_and_dicom_folders(folder: Path):
    (folder / "series").mkdir()
    (folder / "series" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert list(scans_in(folder)) == ["broken", "one", "series", "two"]
    assert scans_in(folder / "series") == {}, "one series is one scan"
    (folder / "one.nrrd").write_bytes(b"")
    with pytest.raises(InputError, match=r"'one\.nii\.gz' and 'one\.nrrd' would be answered under one name"):
        scans_in(folder)


def test_every_scan_is_answered_and_a_damaged_one_is_named(bench: Bench):
    steps = []
    report = bench.run(on_step=lambda done, total, _: steps.append((done, total)))
    assert list(report.scans) == ["one", "two"]
    assert "broken" in report.failed
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    label_map = read_label_map(bench.task.out / "two.seg.nrrd")
    assert len(label_map.segments) == len(report.scans["two"]["nodules"]) == 1
    assert json.loads((bench.task.out / "one.json").read_text()) == report.scans["one"]
    assert report.to_json()["executor"] == "this process"


def test_what_was_answered_by_the_same_models_is_passed_over(bench: Bench, folder: Path):
    bench.run()
    assert bench.predicted == 2
    report = bench.run()
    assert report.passed_over == ("one", "two")
    assert bench.predicted == 2
    # A label map without its record is one that a kill left; a changed scan is another scan.
    (bench.task.out / "one.json").unlink()
    os.utime(folder / "two.nrrd", (1, 1))
    assert bench.run().passed_over == ()
    assert bench.predicted == 4
    bench.registry.versions["nodule_click"] = "v2"
    assert bench.run().passed_over == ()
    assert bench.run(again=True).passed_over == ()
    assert bench.predicted == 8


def test_what_cannot_be_done_is_said(bench: Bench, tmp_path: Path):
    with pytest.raises(InputError, match=r"\.seg\.nrrd, \.nrrd, \.nii\.gz, not '\.png'"):
        infer_folder(
            FolderTask(folder=bench.task.folder, out=bench.task.out, ending=".png"),
            InProcessExecutor(),
            registry=bench.registry,
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no scans"):
        infer_folder(FolderTask(folder=tmp_path / "empty", out=tmp_path), InProcessExecutor(), registry=bench.registry)


def test_which_of_the_two_is_meant(folder: Path, tmp_path: Path):
    from medai.cli.infer_folder import is_folder_of_scans

    label_map, answers = tmp_path / "out.seg.nrrd", tmp_path / "out"
    assert is_folder_of_scans(folder, answers)
    assert is_folder_of_scans(folder, label_map), "and then --out is refused"
    assert not is_folder_of_scans(folder / "one.nii.gz", label_map)
    series = tmp_path / "patient" / "series"
    series.mkdir(parents=True)
    (series / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert not is_folder_of_scans(series, answers)
    assert not is_folder_of_scans(series.parent, label_map), "one DICOM scan with its series in a folder"
    assert is_folder_of_scans(series.parent, answers)


def medai(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medai.cli", "infer", "scan", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_refuses_what_does_not_fit(folder: Path, tmp_path: Path):
    done = medai("--image", str(folder), "--out", str(tmp_path / "out.nrrd"))
    assert done.returncode == 2
    assert "--out takes a folder where --image is one" in done.stderr
    done = medai("--image", str(folder / "one.nii.gz"), "--out", str(tmp_path / "out.nrrd"), "--workers", "2")
    assert done.returncode == 2
    assert "--workers is for a folder of scans" in done.stderr


@pytest.mark.slow
def test_real_models_answer_alike_in_this_process_and_on_ray(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    shutil.copyfile(folder / "one.nii.gz", folder / "three.nii.gz")
    here = infer_folder(FolderTask(folder=folder, out=folder.parent / "here"), InProcessExecutor())
    there = infer_folder(FolderTask(folder=folder, out=folder.parent / "there"), RayExecutor(workers=2))
    assert list(here.scans) == list(there.scans) == ["one", "three", "two"]
    assert here.failed == there.failed
    for name in here.scans:
        one, other = (read_label_map(folder.parent / where / f"{name}.seg.nrrd") for where in ("here", "there"))
        assert np.array_equal(one.labels, other.labels)
        assert here.scans[name]["nodules"] == there.scans[name]["nodules"]
    assert len(there.workers) == 2
