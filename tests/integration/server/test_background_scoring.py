"""Scoring by itself: what is due, giving way, stopping, going on after a restart."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from tests.integration.server.conftest import Served, make_study, serve

from medai.server import scoring
from medai.server.case_jobs import JobBusyError
from medai.server.lanes import Lane
from medai.server.scoring import PoolScoring
from medai.store.scoring_turn import ScoringTurn

CASES = ["case.axial", "case_flipped", "case_oblique"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOOK_S", 0.05)
    monkeypatch.setattr(scoring, "OTHERS_TURN_S", 0.01)


@pytest.fixture
def pool(served: Served) -> PoolScoring:
    """The scoring of a served study, not begun."""
    served.client.app.state.scoring._giving_way._quiet_s = 0.05
    return served.client.app.state.scoring


def wait_until(is_so: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError(f"{what} never came")


def scored(served: Served, versions: str = "nodule_click=v1") -> set[str]:
    table = served.app.scores.table()
    return {case_id for case_id, key in zip(table.case_ids, table.version_keys, strict=True) if versions in key}


def status(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.client.get("/info/").json()["scoring"]["uncertainty"]["status"]
    return found


def held_up(served: Served) -> tuple[threading.Event, threading.Event]:
    """Every case is held up in its middle: the first event says that one is there, the second lets all go on."""
    inside, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        inside.set()
        go_on.wait(20)

    served.candidates.before = slowly
    return inside, go_on


def is_idle(served: Served) -> bool:
    return status(served)["state"] == "idle"


def test_new_cases_and_new_champions_are_scored_by_themselves(served: Served, pool: PoolScoring):
    before = children()
    pool.begin()
    wait_until(lambda: scored(served) == set(CASES) and is_idle(served), "the first scores")
    record = served.client.get("/scoring/").json()
    assert (record["status"], record["total"], record["finished"]) == ("DONE", 3, 3)
    assert record["request"] == {"method": "uncertainty", "by_itself": True}

    shutil.copyfile(served.study / "case.axial.nii.gz", served.study / "another.nii.gz")
    wait_until(lambda: "another" in scored(served), "the new case")
    assert served.client.get("/scoring/").json()["total"] == 1, "nothing but the new case is scored"

    # The oldest score first, whatever the names say.
    table = served.app.scores.table()
    oldest_first = [case for _, case in sorted(zip(table.scored_at_s, table.case_ids, strict=True))]
    served.registry.versions["nodule_click"] = "v2"
    wait_until(lambda: len(scored(served, "nodule_click=v2")) == 4, "the new champion's scores")
    again = served.app.scores.table()
    assert [case for _, case in sorted(zip(again.scored_at_s, again.case_ids, strict=True))] == oldest_first
    wait_until(lambda: is_idle(served), "the end")
    assert status(served) == {
        "state": "idle", "by_itself": True, "scored": 8, "left": 0, "failed": 0, "minutes_left": None, "trouble": "",
    }  # fmt: skip
    assert served.client.post("/activelearning/uncertainty", json={"client_id": "u"}).json()["id"]
    assert children() <= before, "a process was started"


def children() -> set[str]:
    """The processes that this one has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


def test_it_pauses_in_the_middle_of_a_case_while_somebody_waits(served: Served, pool: PoolScoring):
    go_on = threading.Event()
    waiting = []

    def somebody_asks() -> None:
        if not waiting:
            waiting.append(served.client.app.state.lanes.submit(Lane.SCAN, go_on.wait, 20))

    served.candidates.before = somebody_asks
    pool.begin()
    wait_until(lambda: status(served)["state"] == "paused", "the pause")
    time.sleep(0.2)
    assert scored(served) == set(), "the first case was begun and has no score yet"
    assert served.client.get("/scoring/").json()["status"] == "RUNNING"
    # A click is answered meanwhile; it waits for nothing that scoring holds.
    assert served.click().status_code == HTTPStatus.OK
    go_on.set()
    wait_until(lambda: scored(served) == set(CASES), "the scores")


def test_stopped_by_somebody_it_stays_stopped(served: Served, pool: PoolScoring):
    inside, go_on = held_up(served)
    pool.begin()
    assert inside.wait(20)
    assert served.client.delete("/scoring/").json()["status"] == "STOPPED"
    go_on.set()
    wait_until(lambda: status(served)["state"] == "stopped", "the stop")
    time.sleep(0.3)
    assert scored(served) == set(), "the case at hand was left in its middle"
    assert ScoringTurn(served.study).take(), "its turn was given back"


def test_asked_again_it_goes_on(served: Served, pool: PoolScoring):
    pool.begin()
    served.client.delete("/scoring/")
    record = served.client.post("/scoring/uncertainty?run_sync=true").json()
    assert record["request"]["method"] == "uncertainty"
    wait_until(lambda: scored(served) == set(CASES) and is_idle(served), "the scores")


def test_asked_again_before_the_stopped_one_has_ended_it_goes_on_too(served: Served, pool: PoolScoring):
    inside, go_on = held_up(served)
    pool.begin()
    assert inside.wait(20)
    stopped = served.client.delete("/scoring/").json()
    asked = served.client.post("/scoring/uncertainty").json()
    assert asked["id"] != stopped["id"], "the stopped one is no answer"
    again = served.client.post("/scoring/uncertainty").json()
    assert again["id"] == asked["id"], "while that one waits, asking changes nothing"
    go_on.set()
    wait_until(lambda: scored(served) == set(CASES) and is_idle(served), "the scores")
    assert [record["status"] for record in served.client.get("/scoring/?all=true").json()[:2]] == ["STOPPED", "DONE"]


def test_what_was_to_begin_by_itself_when_it_was_stopped_does_not(served: Served, pool: PoolScoring):
    pool.stop()
    with pytest.raises(JobBusyError):
        pool.start({}, by_itself=True)


def test_a_broken_scan_is_tried_once_and_again_when_it_was_replaced(served: Served, pool: PoolScoring):
    broken = served.study / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    pool.begin()
    wait_until(lambda: scored(served) == set(CASES) and is_idle(served), "the others")
    jobs = len(served.client.get("/scoring/?all=true").json())
    time.sleep(0.3)
    assert len(served.client.get("/scoring/?all=true").json()) == jobs, "it is not tried for ever"
    assert status(served)["failed"] == 1
    shutil.copyfile(served.study / "case.axial.nii.gz", broken)
    wait_until(lambda: "broken" in scored(served), "the replaced scan")
    assert status(served)["failed"] == 0


def test_it_rests_while_another_process_scores(served: Served, pool: PoolScoring):
    other = ScoringTurn(served.study)
    assert other.take()
    pool.begin()
    wait_until(lambda: status(served)["state"] == "another process scores this study", "the rest")
    assert scored(served) == set()
    other.give_back()
    wait_until(lambda: scored(served) == set(CASES), "the scores")


def test_without_weights_it_says_so_once_and_goes_on_when_there_are(
    served: Served, pool: PoolScoring, caplog: pytest.LogCaptureFixture
):
    weights = served.registry.versions.pop("nodule_detection")
    pool.begin()
    wait_until(lambda: status(served)["trouble"], "the trouble")
    time.sleep(0.3)
    assert caplog.text.count("Cases are not scored") == 1
    served.registry.versions["nodule_detection"] = weights
    wait_until(lambda: scored(served) == set(CASES), "the scores")
    wait_until(lambda: not status(served)["trouble"], "the end of it")


def test_a_champion_that_cannot_be_loaded_does_not_make_it_score_for_ever(served: Served, pool: PoolScoring):
    """The former champion answers then: its scores are not from the version that is due."""
    served.client.post("/scoring/uncertainty?run_sync=true")
    served.app.shelf._refused["nodule_click"] = "v2"
    served.registry.versions["nodule_click"] = "v2"
    pool.begin()
    wait_until(lambda: pool.status()["scored"] == 6 and is_idle(served), "the scores of the former one")
    time.sleep(0.3)
    assert pool.status()["scored"] == 6
    assert scored(served) == set(CASES)


def test_a_restart_goes_on_with_what_is_missing(tmp_path: Path):
    study = make_study(tmp_path / "study")
    first = serve(study)
    served = next(first)
    score = served.client.app.state.scoring._method.score("case_oblique")
    served.app.scores.put(score)
    first.close()
    # Another folder: MONAI Label keeps the app of a folder for the life of the process.
    second = serve(shutil.copytree(study, tmp_path / "after"))
    served = next(second)
    served.client.app.state.scoring.begin()
    wait_until(lambda: scored(served) == set(CASES), "the others")
    wait_until(lambda: served.client.get("/scoring/").json()["status"] == "DONE", "the end")
    result = served.client.get("/scoring/").json()["result"]
    second.close()
    assert sorted(result) == ["case.axial", "case_flipped"]
