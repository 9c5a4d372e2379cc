"""A writer is killed at every step of a save: the study is as before or as after, never between."""

import os
import signal
import subprocess
import sys

import pytest

from medai.store.study import StudyStore

KILLED_AT = """
import os, pathlib, signal, sys
import medai.store.atomic as atomic
study, label, step = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
from medai.store.study import StudyStore
store = StudyStore(study)
steps = 0
def counted(function):
    def call(*arguments, **options):
        global steps
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return function(*arguments, **options)
    return call
# every call that changes a name or flushes one
for owner, name in ((pathlib.Path, "replace"), (pathlib.Path, "unlink"), (os, "fsync")):
    setattr(owner, name, counted(getattr(owner, name)))
store.save_label("a", label, "final", {"by": "new"})
"""


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(b"scan")
    old = tmp_path / "old.nii.gz"
    old.write_bytes(b"old")
    StudyStore(folder).save_label("a", old, "final", {"by": "old"})
    return folder


@pytest.mark.parametrize("extension", [".nii.gz", ".seg.nrrd"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_label_with_its_own_info(study, tmp_path, extension):
    label = tmp_path / f"new{extension}"
    outcomes = []
    for step in range(40):
        label.write_bytes(f"new {step}".encode())
        process = subprocess.run([sys.executable, "-c", KILLED_AT, study, label, str(step)], check=False)
        store = StudyStore(study)
        content, by = store.label_path("a", "final").read_bytes(), store.label_info("a", "final")["by"]
        assert (content, by) in ((b"old", "old"), (f"new {step}".encode(), "new")), step
        outcomes.append(by)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        old = tmp_path / "old.nii.gz"
        store.save_label("a", old, "final", {"by": "old"})
    assert outcomes[0] == "old"
    assert outcomes[-1] == "new"
    assert len(outcomes) > 10
    assert [p.name for p in (study / "labels/final").iterdir() if not p.name.startswith(".")] == [f"a{extension}"]


def test_what_a_killed_writer_left_is_swept_later(study):
    leftovers = [study / ".medai-tmp-x", study / "labels/final/.medai-tmp-y", study / ".medai/.medai-tmp-z"]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    StudyStore(study)
    assert all(leftover.exists() for leftover in leftovers)
    for leftover in leftovers:
        os.utime(leftover, (0, 0))
    StudyStore(study)
    assert not any(leftover.exists() for leftover in leftovers)
