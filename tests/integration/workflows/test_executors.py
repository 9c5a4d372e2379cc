"""What holds for every executor; on Ray with a real cluster of several processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.case_work import MakeTracedWork, TracedWork

from medai.errors import InputError, ModelError
from medai.workflows import ray_executor
from medai.workflows.executors import CaseExecutor, CaseOutcome, InProcessExecutor
from medai.workflows.ray_executor import RayExecutor

WORKERS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local cluster for the module: starting it is most of the cost."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers give way to every other process (niceness 15): on a busy machine they would wait for ever.
        patch.setenv("RAY_worker_niceness", "0")
        with ray_executor.connected(workers=WORKERS):
            yield


@pytest.fixture(params=["one thread", "threads", "ray"])
def executor(request: pytest.FixtureRequest) -> CaseExecutor:
    if request.param == "ray":
        request.getfixturevalue("cluster")
        return RayExecutor()
    return InProcessExecutor(workers=1 if request.param == "one thread" else WORKERS)


@pytest.fixture
def work(tmp_path: Path) -> TracedWork:
    return TracedWork(folder=tmp_path)


def results(outcomes: list[CaseOutcome[str]]) -> dict[str, str | None]:
    assert len({outcome.case_id for outcome in outcomes}) == len(outcomes), "a case has two outcomes"
    return {outcome.case_id: outcome.result for outcome in outcomes}


def wait_until(is_so: Callable[[], object], seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.02)):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def test_every_case_is_done_once_and_the_models_are_loaded_once_a_worker(executor: CaseExecutor, work: TracedWork):
    cases = [f"case{number}" for number in range(12)]
    outcomes = list(executor.run(cases, MakeTracedWork(work)))
    assert results(outcomes) == {case_id: case_id.upper() for case_id in cases}
    assert all(outcome.attempts == 1 and not outcome.error and outcome.worker for outcome in outcomes)
    assert set(work.count("begun").values()) == {1}
    assert work.count("loaded")["models"] == len(work.processes("loaded")) <= WORKERS


def test_cases_are_begun_in_the_callers_order(executor: CaseExecutor, work: TracedWork):
    cases = [f"case{number:02d}" for number in (5, 3, 9, 1, 8, 2, 7)]
    list(executor.run(iter(cases), MakeTracedWork(work)))
    begun = work.order()
    assert sorted(begun) == sorted(cases)
    # A worker may be held up between taking a case and noting it, for as long as it likes: only the others' cases,
    # one each, can be overtaken by any one case.
    for place, case_id in enumerate(begun):
        overtaken = set(cases[: cases.index(case_id)]) - set(begun[:place])
        assert len(overtaken) < WORKERS


def test_a_case_that_cannot_be_used_is_final_and_ends_nothing(executor: CaseExecutor, work: TracedWork):
    outcomes = list(executor.run(["a", "bad1", "b"], MakeTracedWork(work)))
    assert results(outcomes) == {"a": "A", "bad1": None, "b": "B"}
    bad = next(outcome for outcome in outcomes if outcome.case_id == "bad1")
    assert (bad.error, bad.is_fault, bad.attempts) == ("bad1 is no scan", False, 1)


def test_a_fault_is_tried_again_and_told_without_its_text(
    executor: CaseExecutor, work: TracedWork, caplog: pytest.LogCaptureFixture
):
    outcomes = list(executor.run(["once1", "faulty1", "b"], MakeTracedWork(work)))
    assert results(outcomes) == {"once1": "ONCE1", "faulty1": None, "b": "B"}
    found = {outcome.case_id: outcome for outcome in outcomes}
    assert found["once1"].attempts == 2
    assert (found["faulty1"].error, found["faulty1"].is_fault) == ("ZeroDivisionError: see the log", True)
    assert found["faulty1"].attempts == work.count("begun")["faulty1"] == 3
    assert "secret" in caplog.text


def test_a_stop_begins_nothing_new(executor: CaseExecutor, work: TracedWork):
    stop = threading.Event()
    seen = []
    for outcome in executor.run([f"case{n}" for n in range(50)], MakeTracedWork(work), should_stop=stop.is_set):
        seen.append(outcome.case_id)
        stop.set()
    assert 1 <= len(seen) <= 2 * WORKERS
    assert work.count("ended").keys() == set(seen), "what ran was finished and given back"


def test_cases_are_taken_one_at_a_time(executor: CaseExecutor, work: TracedWork):
    taken = []

    def source() -> Iterator[str]:
        for number in range(8):
            taken.append(number)
            yield f"case{number}"

    for number, _ in enumerate(executor.run(source(), MakeTracedWork(work))):
        assert len(taken) <= number + 1 + WORKERS


def test_nothing_to_do_loads_nothing(executor: CaseExecutor, work: TracedWork):
    assert list(executor.run([], MakeTracedWork(work))) == []
    assert not work.count("loaded")


def test_models_that_cannot_be_loaded_are_said(executor: CaseExecutor, tmp_path: Path):
    work = TracedWork(folder=tmp_path, refuses_to_load=True)
    with pytest.raises(ModelError, match=r"There are no weights\."):
        list(executor.run(["a"], MakeTracedWork(work)))


def test_a_worker_killed_in_mid_run_costs_no_case(cluster: None, tmp_path: Path):
    """SIGKILL for a process of a real cluster: its case is done by another, each case has one outcome."""
    work = TracedWork(folder=tmp_path, seconds=0.2, together=2)
    cases = [f"case{number:02d}" for number in range(20)]
    killed: dict[int, str] = {}

    def kill_one() -> None:
        wait_until(lambda: len(work.processes("begun")) >= 2 and work.running())
        process, case_id = next(iter(work.running().items()))
        killed[process] = case_id
        os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    stored: list[str] = []
    outcomes = []
    for outcome in RayExecutor().run(cases, MakeTracedWork(work)):
        stored.append(outcome.case_id)
        outcomes.append(outcome)
    killer.join()
    assert len(killed) == 1
    assert sorted(stored) == cases
    assert results(outcomes) == {case_id: case_id.upper() for case_id in cases}
    assert set(work.count("ended").values()) == {1}
    again = [outcome for outcome in outcomes if outcome.attempts == 2]
    assert len(again) <= 1
    assert os.getpid() not in work.processes("begun")
    assert len(work.processes("begun")) >= 2


def test_a_case_that_kills_its_workers_does_not_end_the_others(cluster: None, work: TracedWork):
    outcomes = list(RayExecutor().run(["a", "deadly1", "b", "c"], MakeTracedWork(work)))
    assert results(outcomes) == {"a": "A", "deadly1": None, "b": "B", "c": "C"}
    deadly = next(outcome for outcome in outcomes if outcome.case_id == "deadly1")
    assert (deadly.error, deadly.is_fault, deadly.attempts) == ("its worker died", True, 3)


def test_the_local_cluster_listens_on_loopback_alone(cluster: None):
    """Ray otherwise listens on every address of the machine."""
    import psutil

    listening = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        # Workers of earlier tests may be ending.
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections(kind="tcp")
            listening += [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN]
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_a_killed_driver_left_is_swept_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ray_executor.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ray_executor, "SOCKET_PATH_ROOM", 1000)
    killed, alive = tmp_path / "medai-ray-99999999-abc", tmp_path / f"medai-ray-{os.getpid()}-abc"
    for folder in (killed, alive):
        folder.mkdir()
    mine = ray_executor._cluster_folder()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, mine.name])
    monkeypatch.setattr(ray_executor, "SOCKET_PATH_ROOM", 10)
    short = ray_executor._cluster_folder()
    assert short.parent == Path("/tmp"), "a long temporary folder leaves no room for the sockets' names"
    short.rmdir()


def test_no_cluster_at_an_address(monkeypatch: pytest.MonkeyPatch, work: TracedWork):
    class NoCluster:
        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init(**_: object) -> None:
            raise ConnectionError("nobody answers")

    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    with pytest.raises(InputError, match="no Ray cluster at 'elsewhere:6379'"):
        list(RayExecutor(address="elsewhere:6379").run(["a"], MakeTracedWork(work)))


def test_ray_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, work: TracedWork):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'medai\[ray\]'"):
        list(RayExecutor().run(["a"], MakeTracedWork(work)))
