"""Trainings as processes: seen, refused, queued, stopped, and ended with the server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medai.errors import NotFoundError
from medai.server import background
from medai.server.background import TrainingBusyError, Trainings
from medai.server.train_worker import TrainJob
from medai.workflows.training_queue import TrainingQueue

# Reads its job, says so, and goes on until its input ends.
PATIENT = "import sys; sys.stdin.readline(); print('begun', flush=True); sys.stdin.read(); print('asked'); sys.exit(3)"
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.stdin.readline(); "
    "print('begun', flush=True); time.sleep(60)"
)


def trainings(code: str) -> Trainings:
    return Trainings([sys.executable, "-c", code])


def wait_for(text: str, what: Trainings) -> None:
    for _ in range(400):
        if text in str(what.records()):
            return
        time.sleep(0.02)
    raise AssertionError(f"{text} never came: {what.records()}")


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    return TrainJob(studies=tmp_path, epochs=2, device="cpu", seed=1)


@pytest.mark.parametrize(("code", "status"), [(0, "DONE"), (2, "ERROR"), (3, "STOPPED"), (-9, "ERROR")])
def test_the_record_says_how_it_ended(job: TrainJob, code: int, status: str):
    end = f"import os, sys; print(sys.stdin.readline()); os.kill(os.getpid(), 9) if {code} < 0 else sys.exit({code})"
    one = trainings(end)
    record, ended = one.start(job, {"model": "m"})
    assert record["status"] == "SUBMITTED"
    ended.result(20)
    record = one.record(record["id"])
    assert record["status"] == status
    assert record["end_ts"] >= record["start_ts"]
    assert record["details"]
    assert one.running() is None
    if code >= 0:
        assert TrainJob.model_validate_json(record["details"][-1]) == job


def test_a_second_one_is_refused_or_waits(job: TrainJob):
    one = trainings(PATIENT)
    one.start(job, {})
    wait_for("begun", one)
    with pytest.raises(TrainingBusyError, match="runs already"):
        one.start(job, {})
    one.start(job, {}, enqueue=True)
    assert [record["status"] for record in one.records()] == ["RUNNING", "SUBMITTED"]
    first = one.stop()
    assert first is not None
    assert first["status"] == "STOPPED"
    assert first["details"]
    assert [record["status"] for record in one.records()] == ["STOPPED", "STOPPED"]


def test_stopping_is_asked_first(job: TrainJob):
    one = trainings(PATIENT)
    _, ended = one.start(job, {})
    wait_for("begun", one)
    started = time.monotonic()
    one.stop()
    assert time.monotonic() - started < background.STOP_S
    ended.result(10)
    wait_for("asked", one)


def test_one_that_does_not_listen_is_killed(job: TrainJob, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(background, "STOP_S", 0.2)
    monkeypatch.setattr(background, "TERMINATE_S", 0.2)
    one = trainings(STUBBORN)
    _, ended = one.start(job, {})
    wait_for("begun", one)
    record = one.stop()
    ended.result(10)
    assert record is not None
    assert record["status"] == "STOPPED"


def test_stopping_nothing(job: TrainJob):
    assert trainings(PATIENT).stop() is None


def test_closing_the_server_ends_its_training(job: TrainJob):
    one = trainings(PATIENT)
    _, ended = one.start(job, {})
    wait_for("begun", one)
    one.close()
    assert ended.done()


def test_a_worker_notices_that_its_server_was_killed(job: TrainJob):
    """The server's end of the pipe closes however the server dies."""
    server = (
        "import pathlib, sys, time\nfrom medai.server.background import Trainings\n"
        "from medai.server.train_worker import TrainJob\n"
        f"one = Trainings([sys.executable, '-c', {PATIENT!r}])\n"
        f"one.start(TrainJob(studies=pathlib.Path('.'), epochs=1, device='cpu', seed=1), {{}})\n"
        "while not one.running() or 'begun' not in one.running()['details']: time.sleep(0.02)\n"
        "print(one._tasks[0].process.pid, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    for _ in range(400):
        try:
            os.kill(worker, 0)
            if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
                break
        except (ProcessLookupError, FileNotFoundError):
            break
        time.sleep(0.02)
    else:
        os.kill(worker, signal.SIGKILL)
        raise AssertionError("the worker outlived its server")


def test_the_queue_is_bounded_and_open_trainings_are_never_forgotten(job: TrainJob):
    one = trainings(PATIENT)
    first, _ = one.start(job, {"n": 0})
    wait_for("begun", one)
    for n in range(1, background.LONGEST_QUEUE):
        one.start(job, {"n": n}, enqueue=True)
    with pytest.raises(TrainingBusyError, match=r"64 trainings run or wait already.*DELETE /train/"):
        one.start(job, {}, enqueue=True)
    records = one.records()
    assert len(records) == background.LONGEST_QUEUE
    assert records[0]["id"] == first["id"]
    assert records[0]["status"] == "RUNNING"
    # The running one is found behind all that wait.
    stopped = one.stop()
    assert stopped is not None
    assert stopped["id"] == first["id"]
    assert {record["status"] for record in one.records()} == {"STOPPED"}
    again, ended = one.start(job, {})
    # Now that they have ended, the oldest records go.
    assert len(one.records()) == background.KEPT_TASKS
    assert one.records()[-1]["id"] == again["id"]
    with pytest.raises(NotFoundError, match="no record of a training"):
        one.record(first["id"])
    one.stop()
    ended.result(10)


def test_a_fault_of_ours_ends_the_record(job: TrainJob, tmp_path: Path):
    queue = TrainingQueue(tmp_path)
    one = Trainings([str(tmp_path / "no such interpreter")], queue=queue)
    record, ended = one.start(job, {})
    waiting, last = one.start(job, {}, enqueue=True)
    ended.result(10)
    last.result(10)
    for task in (record, waiting):
        now = one.record(task["id"])
        assert now["status"] == "ERROR"
        assert "its log says why" in now["result"]
    assert one.running() is None
    assert queue.adopt() == ([], [])


def test_a_queue_that_cannot_be_written_starts_nothing(job: TrainJob):
    class FullDisk(TrainingQueue):
        def add(self, task_id: str, job: object, request: object) -> None:
            raise OSError(28, "No space left on device")

    one = Trainings([sys.executable, "-c", PATIENT], queue=FullDisk(job.studies))
    with pytest.raises(OSError, match="No space left"):
        one.start(job, {})
    assert one.records() == []


def test_nothing_starts_while_the_server_ends(job: TrainJob):
    one = trainings(PATIENT)
    one.close()
    with pytest.raises(TrainingBusyError, match="shutting down"):
        one.start(job, {}, enqueue=True)
    one.close()
