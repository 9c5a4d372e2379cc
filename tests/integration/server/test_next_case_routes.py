"""``/activelearning`` with scores: the words of the reply, skips, priors; and ``/medai/status``."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from tests.integration.server.conftest import make_study, serve
from tests.integration.server.test_study_routes import label_file, submit

from medai.active_learning.strategies import STRATEGIES


def ask(served: Any, strategy: str, client: str = "ann") -> dict[str, Any]:
    reply = served.client.post(f"/activelearning/{strategy}", json={"client_id": client})
    assert reply.status_code == HTTPStatus.OK, reply.text
    return reply.json()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_answers_with_its_reason(served, strategy):
    served.candidates.probabilities = (0.55,)
    assert ask(served, strategy, "early")["reason"] == "not looked at by the model yet"
    served.client.post("/scoring/uncertainty?run_sync=true")
    sample = ask(served, strategy)
    assert sample["strategy"] == strategy
    assert sample["reason"].startswith("1 uncertain nodule, ")
    assert sample["PatientID"].startswith(f"{sample['id']} (1 uncertain nodule, ")
    assert sample["expected_minutes"] > 3
    assert sample["skipped_before"] is False


def test_a_skipped_case_comes_back_last_and_says_so(served):
    seen = [ask(served, "first")["id"] for _ in range(3)]
    assert len(set(seen)) == 3
    again = ask(served, "first")
    assert (again["id"], again["skipped_before"]) == (seen[0], True)
    # The two that ann passed over are ben's to have.
    assert ask(served, "first", "ben")["id"] in seen[1:]


def test_the_other_study_of_the_patient_comes_after_a_submit(tmp_path: Path):
    study = make_study(tmp_path / "study")
    facts = study / ".medai" / "cases"
    facts.mkdir(parents=True)
    for case_id in ("case.axial", "case_oblique"):
        (facts / f"{case_id}.json").write_text(json.dumps({"patient_key": "one"}))
    for served in serve(study):
        assert ask(served, "first")["id"] == "case.axial"
        assert ask(served, "random", "ben")["id"] == "case_flipped"
        assert submit(served, label_file(tmp_path, "case.axial")).status_code == HTTPStatus.OK
        sample = ask(served, "first")
        assert sample["id"] == "case_oblique"
        assert sample["reason"].startswith("the other study of the patient you have just finished")


def test_the_status_shows_the_session(served, tmp_path: Path):
    served.candidates.probabilities = (0.55,)
    served.client.post("/scoring/uncertainty?run_sync=true")
    assert ask(served, "first")["id"] == "case.axial"
    assert submit(served, label_file(tmp_path, "case.axial")).status_code == HTTPStatus.OK
    assert ask(served, "first")["id"] == "case_flipped"
    status = served.client.get("/medai/status?strategy=entropy&queue=3").json()
    assert (status["total"], status["labelled"], status["left"], status["scored"]) == (3, 1, 2, 2)
    assert [(each["annotator"], each["case_id"]) for each in status["at_work"]] == [("ann", "case_flipped")]
    assert [case["case_id"] for case in status["queue"]] == ["case_oblique"]
    assert status["queue"][0]["reason"].startswith("1 uncertain nodule")
    assert status["advice"]["is_worth_it"] is True
    assert status["minutes_left"] > 3


@pytest.mark.parametrize(("query", "says"), [("strategy=luck", "choose one of default"), ("queue=999", "0 to 200")])
def test_the_status_refuses_what_it_does_not_know(served, query, says):
    reply = served.client.get(f"/medai/status?{query}")
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert says in reply.text
