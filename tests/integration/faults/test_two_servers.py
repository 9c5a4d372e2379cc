"""Two servers (processes) on one study: what each was told is done is there afterwards, and nothing is there twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.integration.faults.test_killed_processes import CASE, TASK, check_served, make_starter
from tests.integration.server.conftest import make_study
from tests.integration.server.test_submit_killed import recorder_of
from tests.support.kills import Ended, Victims

from medai.registry import STARTER, ModelRegistry
from medai.registry.history import EventKind
from medai.store.reservations import Reservations
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map
from medai.workflows.training_queue import TrainingQueue

pytestmark = pytest.mark.timeout(1800)

SERVERS = 3
FEW, MANY = 6, 60


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Victims]]:
    """Programs that work at the same time."""
    modules = ["medai.server.annotation_recorder", "medai.registry", "medai.evaluation.promotion"]
    workers = [Victims([*modules, "medai.workflows.training_queue"]) for _ in range(SERVERS)]
    for worker in workers:
        worker.__enter__()
    yield workers
    for worker in workers:
        worker.__exit__()


@pytest.fixture(params=[pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)])
def rounds(request: pytest.FixtureRequest) -> int:
    """How often each server does it."""
    return int(request.param)


def at_once(servers: list[Victims], operation: str, arguments: list[dict]) -> list[Ended]:
    """All servers do it at the same time."""
    for server, own in zip(servers, arguments, strict=True):
        server.start(operation, **own)
    ended = [server.finish() for server in servers]
    assert [each.code for each in ended] == [0] * len(servers), ended
    return ended


def test_labels_of_one_case_are_all_kept_and_the_latest_is_shown(servers, tmp_path, rounds):
    study = make_study(tmp_path / "study")
    ended = at_once(
        servers,
        "submit",
        [
            {"study": str(study), "folder": str(tmp_path), "case_id": CASE, "first": 1000 * n, "count": rounds}
            for n in range(SERVERS)
        ],
    )
    answered = [number for each in ended for number in each.values("number")]
    assert len(answered) == SERVERS * rounds
    recorder = recorder_of(study)
    recorder.resume()
    found = recorder.log.of_case(CASE)
    numbers = [int(np.count_nonzero(read_label_map(recorder.log.path(each)).labels)) - 1 for each in found]
    assert sorted(numbers) == sorted(answered)
    for n in range(SERVERS):
        own = [number for number in numbers if number // 1000 == n]
        assert own == sorted(own)
        assert {each.annotator for each in found} == {f"ann {1000 * other}" for other in range(SERVERS)}
    store = StudyStore(study)
    assert store.label_path(CASE, "final").read_bytes() == recorder.log.path(found[-1]).read_bytes()
    assert store.label_info(CASE, "final")["number"] == numbers[-1]
    assert [each.annotation_id for each in found if each.is_current] == [found[-1].annotation_id]
    recorder.close()


def test_no_case_is_handed_out_twice(servers, tmp_path, rounds):
    cases = [f"case_{n:03d}" for n in range(SERVERS * rounds)]
    ended = at_once(
        servers,
        "reserve",
        [{"study": str(tmp_path), "client_id": f"client {n}", "cases": cases, "count": rounds} for n in range(SERVERS)],
    )
    given = [case_id for each in ended for case_id in each.values("case_id")]
    assert sorted(given) == cases
    held = {each.case_id: each.client_id for each in Reservations(tmp_path).active()}
    assert held == {
        case_id: f"client {n}, {number}"
        for n, each in enumerate(ended)
        for number, case_id in enumerate(each.values("case_id"))
    }


def test_no_publish_is_lost_and_each_was_judged_against_the_one_before(servers, tmp_path, rounds):
    registry = ModelRegistry(tmp_path / "models", starter_folder=make_starter(tmp_path / "starters"), keep=100)
    ended = at_once(
        servers,
        "challenge",
        [
            {
                "models": str(registry.folder),
                "starters": str(tmp_path / "starters"),
                "task": TASK,
                "folder": str(tmp_path),
                "name": f"server {n}",
                "count": min(rounds, 25),
            }
            for n in range(SERVERS)
        ],
    )
    judged_against = {
        said["version_id"]: said["judged_against"] for each in ended for said in each.said if "version_id" in said
    }
    history = registry.history(TASK)
    line = [STARTER, *(event.version_id for event in history)]
    assert {event.kind for event in history} == {EventKind.PUBLISHED}
    assert len(history) == len(judged_against) == SERVERS * min(rounds, 25)
    assert judged_against == dict(zip(line[1:], line[:-1], strict=True))
    assert check_served(registry) == line[-1]


def test_every_training_that_was_asked_for_is_in_the_queue(servers, tmp_path, rounds):
    ended = at_once(
        servers, "queue", [{"study": str(tmp_path), "name": f"server {n}", "count": rounds} for n in range(SERVERS)]
    )
    asked = {name for each in ended for name in each.values("added")}
    assert len(asked) == SERVERS * rounds
    # The servers have ended without a word: what had not ended is taken over, once.
    again, given_up = TrainingQueue(tmp_path).adopt()
    assert given_up == []
    assert {entry.task_id for entry in again} == {name for name in asked if int(name.split()[-1]) % 2 == 0}
    assert len(again) == len({entry.task_id for entry in again})
    assert TrainingQueue(tmp_path).labels_since() >= 1
