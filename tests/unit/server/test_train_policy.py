"""Trainings that begin by themselves, with processes that only pretend to train."""

import sys
import time

import pytest

from medai.errors import InputError
from medai.server.background import Trainings
from medai.server.train_policy import GIVEN_UP_WORDS, INTERRUPTED_WORDS, TrainPolicy
from medai.server.train_worker import TrainJob
from medai.workflows.training_policy import TrainingPolicy
from medai.workflows.training_queue import TrainingQueue

PATIENT = "import sys; sys.stdin.readline(); print('begun', flush=True); print(repr(sys.stdin.read())); sys.exit(3)"
QUICK = "import sys; sys.stdin.readline()"
BY_HAND = TrainingPolicy()


class Server:
    """What of a server the policy needs."""

    def __init__(self, study, policy=BY_HAND, code=PATIENT):
        self.now_s = 1e9
        self.study = study
        self.queue = TrainingQueue(study)
        self.trainings = Trainings([sys.executable, "-c", code], queue=self.queue)
        self.policy = TrainPolicy(
            policy, self.trainings, self.queue, self.job, task="nodule_click", now=lambda: self.now_s
        )
        self.policy.begin()

    def job(self, request=None):
        return TrainJob(studies=self.study, epochs=2, device="cpu", seed=1)

    def close(self):
        self.policy.close()
        self.trainings.close()

    def statuses(self):
        return [record["status"] for record in self.trainings.records()]

    def wait_for(self, text):
        for _ in range(600):
            if text in str(self.trainings.records()):
                return
            time.sleep(0.02)
        raise AssertionError(f"{text} never came: {self.trainings.records()}")


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(**named):
        started.append(Server(tmp_path, **named))
        return started[-1]

    yield start
    for server in started:
        server.close()


def test_after_so_many_labels_a_training_starts_and_says_why(serve):
    server = serve(policy=TrainingPolicy(after_labels=2))
    server.policy.label_submitted()
    assert server.trainings.records() == []
    assert server.policy.view() == {"policy": "Trains after 2 submitted labels", "labels_since_training": 1}
    server.policy.label_submitted()
    server.wait_for("begun")
    (record,) = server.trainings.records()
    assert "2 labels submitted" in record["details"][0]
    assert record["request"] == {"model": "nodule_click", "started_by": "policy"}


def test_while_one_runs_the_next_waits_and_no_third_is_asked_for(serve):
    server = serve(policy=TrainingPolicy(after_labels=1))
    server.policy.label_submitted()
    server.wait_for("begun")
    for _ in range(3):
        server.policy.label_submitted()
    assert server.statuses() == ["RUNNING", "SUBMITTED"]
    assert server.policy.view()["waiting"] == 1
    assert server.trainings.stop()["status"] == "STOPPED"
    assert server.statuses() == ["STOPPED", "STOPPED"]
    assert server.policy.check()  # the labels that came in while one waited
    assert not server.policy.check()


def test_by_the_clock_only_with_a_new_label(serve):
    server = serve(policy=TrainingPolicy(every_minutes=30))
    server.now_s += 31 * 60
    assert not server.policy.check()
    server.policy.label_submitted()
    assert len(server.trainings.records()) == 1


def test_by_hand_nothing_is_counted_or_said(serve):
    server = serve()
    server.policy.label_submitted()
    assert server.trainings.records() == []
    assert server.policy.view() == {}
    assert not server.policy.check()


def test_a_job_that_cannot_be_made_fails_no_submission(serve, caplog):
    server = serve(policy=TrainingPolicy(after_labels=1))
    server.policy._make_job = lambda request: (_ for _ in ()).throw(InputError("no such device"))
    server.policy.label_submitted()
    assert "no such device" in caplog.text
    assert server.trainings.records() == []


def test_what_a_closed_server_left_is_begun_again_and_kept_in_order(serve):
    first = serve()
    running, _ = first.trainings.start(first.job(), {"model": "a"})
    first.trainings.start(first.job(), {"model": "b"}, enqueue=True)
    first.wait_for("begun")
    first.close()
    # The process was told that the server is gone, not that somebody wants it to stop.
    assert "''" in str(first.trainings.records()[0]["details"])
    second = serve()
    second.wait_for("begun")
    assert [record["request"] for record in second.trainings.records()] == [{"model": "a"}, {"model": "b"}]
    assert second.trainings.records()[0]["id"] == running["id"]
    assert second.trainings.records()[0]["details"][0] == INTERRUPTED_WORDS


def test_what_was_stopped_stays_stopped(serve):
    first = serve()
    first.trainings.start(first.job(), {})
    first.trainings.start(first.job(), {}, enqueue=True)
    first.wait_for("begun")
    first.trainings.stop()
    first.wait_for(r"stop\\n")
    first.close()
    assert serve().trainings.records() == []


def test_what_ended_is_not_begun_again(serve):
    first = serve(code=QUICK)
    _, ended = first.trainings.start(first.job(), {})
    ended.result(20)
    first.close()
    assert serve().trainings.records() == []


def test_one_that_its_server_died_of_twice_is_reported(serve, tmp_path):
    dead = TrainingQueue(tmp_path)
    dead.add("t", {}, {"model": "m"})
    dead.begun("t")
    dead.begun("t")
    dead._alive.release()  # as the operating system does
    (record,) = serve().trainings.records()
    assert record["status"] == "ERROR"
    assert record["result"] == GIVEN_UP_WORDS
    assert record["request"] == {"model": "m"}


def test_a_job_of_another_release_is_left_out(serve, tmp_path, caplog):
    dead = TrainingQueue(tmp_path)
    dead.add("t", {"colour": "red"}, {})
    dead._alive.release()
    assert serve().trainings.records() == []
    assert "cannot be begun again" in caplog.text
    assert TrainingQueue(tmp_path).adopt() == ([], [])
