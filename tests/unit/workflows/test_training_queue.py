"""The queue on disk: what a dead server leaves behind is begun again once."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medai.workflows.training_queue import TrainingQueue


def queue_file(study: Path) -> Path:
    return study / ".medai" / "training" / "queue.json"


def server_killed_while_training(study: Path, task_id: str, *, begin: bool = True) -> None:
    """Another process that queues (or takes over) a training and is killed under it."""
    code = (
        "import pathlib, sys, time\nfrom medai.workflows.training_queue import TrainingQueue\n"
        f"queue = TrainingQueue(pathlib.Path({str(study)!r}))\n"
        f"queue.adopt()[0] or queue.add({task_id!r}, {{'epochs': 3}}, {{'model': 'm'}})\n"
        f"{begin} and queue.begun({task_id!r})\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()


def test_nothing_is_written_by_looking(tmp_path):
    queue = TrainingQueue(tmp_path)
    assert queue.adopt() == ([], [])
    assert queue.labels_since() == 0
    assert queue.asked_at_s() is None
    queue.close()
    assert list(tmp_path.iterdir()) == []


def test_what_runs_under_a_killed_server_is_begun_again_once_and_then_reported(tmp_path):
    server_killed_while_training(tmp_path, "t")
    server_killed_while_training(tmp_path, "t")
    third = TrainingQueue(tmp_path)
    again, given_up = third.adopt()
    assert again == []
    assert [(entry.task_id, entry.job, entry.starts) for entry in given_up] == [("t", {"epochs": 3}, 2)]
    assert third.adopt() == ([], [])


def test_what_waits_is_begun_however_often_servers_die(tmp_path):
    for _ in range(3):
        server_killed_while_training(tmp_path, "t", begin=False)
    again, given_up = TrainingQueue(tmp_path).adopt()
    assert [entry.task_id for entry in again] == ["t"]
    assert given_up == []


def test_a_living_servers_trainings_are_its_own(tmp_path):
    one, other = TrainingQueue(tmp_path), TrainingQueue(tmp_path)
    one.add("t", {}, {})
    one.begun("t")
    assert other.adopt() == ([], [])
    one.close()
    again, given_up = other.adopt()
    # A server that closes did not die of its training.
    assert [(entry.task_id, entry.starts) for entry in again] == [("t", 0)]
    assert given_up == []
    assert TrainingQueue(tmp_path).adopt() == ([], [])


def test_what_has_ended_is_forgotten(tmp_path):
    queue = TrainingQueue(tmp_path)
    queue.add("a", {}, {})
    queue.add("b", {}, {})
    queue.ended("a")
    queue.close()
    assert [entry.task_id for entry in TrainingQueue(tmp_path).adopt()[0]] == ["b"]


def test_labels_are_counted_from_one_training_to_the_next(tmp_path):
    queue = TrainingQueue(tmp_path)
    assert [queue.label_submitted() for _ in range(3)] == [1, 2, 3]
    assert TrainingQueue(tmp_path).labels_since() == 3
    queue.add("t", {}, {})
    assert queue.labels_since() == 0
    assert queue.asked_at_s() == pytest.approx(queue_file(tmp_path).stat().st_mtime, abs=60)


@pytest.mark.parametrize("content", ["", "[]", '{"trainings": 3}', '{"trainings": [{"task_id": "a"}]}'])
def test_a_damaged_queue_is_begun_anew(tmp_path, content, caplog):
    queue_file(tmp_path).parent.mkdir(parents=True)
    queue_file(tmp_path).write_text(content)
    queue = TrainingQueue(tmp_path)
    assert queue.adopt() == ([], [])
    assert "is damaged" in caplog.text
    queue.add("t", {}, {})
    assert [entry["task_id"] for entry in json.loads(queue_file(tmp_path).read_text())["trainings"]] == ["t"]
