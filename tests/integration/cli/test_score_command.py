"""``medai score`` as a process: finished, killed, resumed, beside another one, on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import PROJECT_ROOT
from tests.support.case_work import TracedWork
from tests.support.fake_scoring import VERSIONS
from tests.support.score_factory import candidate, case_score

from medai.store.scores import ScoreStore

CASES = [f"case{number:02d}" for number in range(12)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of empty files: the work that stands in does not read them."""
    folder = tmp_path / "study"
    folder.mkdir()
    for case_id in CASES:
        (folder / f"{case_id}.nii.gz").write_bytes(b"")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> TracedWork:
    folder = tmp_path / "trace"
    folder.mkdir()
    return TracedWork(folder=folder)


@pytest.fixture
def start(study: Path, work: TracedWork) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command; whatever still runs is killed at the end."""
    started = []

    def begin(*options: str, seconds: float = 0.2, together: int = 1) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_scoring", str(work.folder), str(seconds), str(together),
             "score", str(study), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROJECT_ROOT,
            env={**os.environ, "RAY_worker_niceness": "0"},
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def wait_until(is_so: Callable[[], Any], seconds: float = 120) -> None:
    for _ in range(int(seconds / 0.05)):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


def scored(study: Path) -> set[str]:
    store = ScoreStore(study)
    try:
        return set(store.table().case_ids)
    finally:
        store.close()


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


def test_it_scores_what_is_missing_and_nothing_else(study: Path, work: TracedWork, start):
    store = ScoreStore(study)
    store.put(case_score("case03", candidate(0.5), versions=VERSIONS))
    store.put(case_score("case07", candidate(0.5), versions={**VERSIONS, "nodule_click": "older"}))
    store.close()
    report = result(start("--json", "-", seconds=0.0))
    assert (report["scored"], report["failed"], report["left"]) == (11, {}, 0)
    assert report["model_versions"] == VERSIONS
    assert work.order() == [case_id for case_id in CASES if case_id not in ("case03", "case07")] + ["case07"]
    again = result(start("--json", "-"))
    assert again["scored"] == 0
    assert "case03" not in work.count("begun")


def test_killed_it_goes_on_where_it_was(study: Path, work: TracedWork, start):
    first = start()
    wait_until(lambda: len(work.count("ended")) >= 4)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    kept = scored(study)
    assert len(kept) >= 3
    report = result(start("--json", "-"))
    assert report["scored"] == len(CASES) - len(kept)
    assert scored(study) == set(CASES)
    repeated = [case_id for case_id, times in work.count("begun").items() if times > 1]
    assert len(repeated) <= 1, "only the case at hand is done again"
    assert not kept & set(repeated)


def test_one_that_fails_is_named_and_the_others_are_scored(study: Path, start):
    (study / "bad1.nii.gz").write_bytes(b"")
    report = result(start("--json", "-", seconds=0.0))
    assert report["scored"] == len(CASES)
    assert report["failed"] == {"bad1": "bad1 is no scan"}
    process = start()
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert error.strip().splitlines()[-1] == "medai: None of the 1 cases could be scored; bad1: bad1 is no scan"


def test_a_second_one_waits_for_its_turn(study: Path, work: TracedWork, start):
    first = start("--json", "-")
    wait_until(lambda: work.count("begun"))
    second = start("--json", "-")
    assert result(first)["scored"] == len(CASES)
    assert result(second)["scored"] == 0
    assert set(work.count("begun").values()) == {1}


def test_an_address_needs_ray(study: Path, start):
    process = start("--address", "auto")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "'--executor ray'" in error


def ray_processes(session: int) -> list[str]:
    """What still runs of a command's session."""
    left = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            left.append(entry.parent.name)
    return left


def test_on_ray_a_killed_worker_costs_no_case_and_a_killed_driver_leaves_nothing(
    study: Path, work: TracedWork, start, monkeypatch: pytest.MonkeyPatch
):
    first = start("--executor", "ray", "--workers", "3", seconds=0.4, together=2)
    wait_until(lambda: len(work.count("ended")) >= 4, seconds=300)
    assert first.pid not in work.processes("begun")
    assert len(work.processes("begun")) >= 2
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    wait_until(lambda: not ray_processes(first.pid))
    kept = scored(study)
    assert 1 <= len(kept) < len(CASES)

    before = work.processes("begun")
    second = start("--executor", "ray", "--workers", "3", "--json", "-", seconds=0.4, together=2)
    wait_until(lambda: set(work.running()) - before, seconds=300)
    victim = next(iter(set(work.running()) - before))
    os.kill(victim, signal.SIGKILL)
    report = result(second)
    assert report["scored"] == len(CASES) - len(kept), "each case once"
    assert report["failed"] == {}
    assert scored(study) == set(CASES)
    assert sum(report["workers"].values()) == report["scored"]
    assert len(report["workers"]) >= 2
