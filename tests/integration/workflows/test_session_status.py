"""Where a session stands, on a real study folder with scores, reservations, a history of labels and of trainings."""

import json
import shutil

import numpy as np
import pytest
from tests.support.scan_files import small_scan
from tests.support.score_factory import VERSIONS, candidate, case_score
from typer.testing import CliRunner

from medai.active_learning.strategies import STRATEGIES
from medai.cli.main import app
from medai.errors import InputError, NotFoundError
from medai.evaluation.promotion import judge
from medai.registry.model_registry import ModelRegistry
from medai.store.annotations import AnnotationLog, Submission
from medai.store.layout import models_folder
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore
from medai.workflows.session_status import study_status

runner = CliRunner(env={"COLUMNS": "300"})
PATIENTS = [f"p{n}" for n in range(8)]


def verdict(gain):
    champion = dict.fromkeys(PATIENTS, 0.7)
    challenger = dict.fromkeys(PATIENTS, 0.7 + gain)
    return judge(champion, challenger, rng=np.random.default_rng(1))


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for n in range(12):
        (folder / f"case{n:02}.nii.gz").write_bytes(small_scan())
    store, label, log = StudyStore(folder), tmp_path / "label.nii.gz", AnnotationLog(folder)
    label.write_bytes(b"label")
    for n in range(3):
        about = Submission(case_id=f"case{n:02}", annotator="ann", nodules=2, volume_ml=1.0, seconds_spent=600.0)
        with log.submitting(about, label) as _:
            store.save_label(f"case{n:02}", label)
    log.close()
    registry = ModelRegistry(models_folder(folder))
    for gain in (-0.01, -0.02):
        registry.record_refusal("nodule_click", verdict(gain), judged_against="starter")
    rng = np.random.default_rng(1)
    scores = ScoreStore(folder)
    scores.put_all(
        case_score(
            f"case{n:02}",
            candidate(0.5 if n == 5 else 0.95),
            at=rng.normal(size=3),
            disagreement=0.05,
            versions=VERSIONS,
        )
        for n in range(10)
    )
    scores.close()
    reservations = Reservations(folder)
    for _ in range(2):
        reservations.choose("bea", open_cases=lambda: ["case10", "case11"], select=lambda offer: offer.free[0])
    return folder


def test_everything_is_in_it(study):
    found = study_status(study, strategy="entropy")
    assert (found.total, found.labelled, found.left, found.scored) == (12, 3, 9, 7)
    assert [(each.annotator, each.case_id) for each in found.at_work] == [("bea", "case11")]
    assert found.skipped == {"bea": ["case10"]}
    assert found.queue[0].case_id == "case05"
    assert found.queue[0].reason.startswith("1 uncertain nodule, 6 mm")
    # Held cases are in nobody's queue, labelled ones neither.
    assert {case.case_id for case in found.queue}.isdisjoint({"case00", "case01", "case02", "case11"})
    assert found.minutes_left > 8 * 3
    (first, second) = found.trainings["nodule_click"]
    assert (first.labels, first.gain, first.published) == (3, 0.0, False)
    assert second.challenger_score == pytest.approx(0.68)


def test_the_advice_rests_on_what_was_seen(study):
    advice = study_status(study).advice
    # Two refused trainings on 3 labels, 1 of 7 open cases in doubt, two models that agree.
    assert "(0 published) had 3 labels more and gained +0.000" in advice.reasons[0]
    assert "1 of 7 scored open cases (14 %)" in advice.reasons[1]
    assert "differ by 0.05 on average over 7 open cases" in advice.reasons[2]
    assert not advice.is_worth_it


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_queue_can_be_shown_by_every_strategy(study, strategy):
    found = study_status(study, strategy=strategy, queue_length=20)
    assert len(found.queue) == 8
    assert all(case.reason for case in found.queue)


def test_the_minutes_are_learnt_from_the_history(study):
    # Ten minutes a case of two nodules, where the guess was five and a half.
    slow = study_status(study).minutes_left
    shutil.rmtree(study / ".medai" / "annotations")
    (study / ".medai" / "annotations.db").unlink()
    assert slow > study_status(study).minutes_left


def test_looking_changes_nothing(study):
    before = {path: path.read_bytes() for path in study.rglob("*.json")}
    study_status(study)
    assert {path: path.read_bytes() for path in study.rglob("*.json")} == before


def test_a_new_study_can_be_asked(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(small_scan())
    found = study_status(tmp_path)
    assert (found.labelled, found.left, found.scored, found.minutes_left) == (0, 1, 0, None)
    assert found.queue[0].reason == "not looked at by the model yet"
    assert found.advice.is_worth_it


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no study folder"):
        study_status(tmp_path / "nowhere")
    with pytest.raises(InputError, match="choose one of default, random"):
        study_status(tmp_path, strategy="luck")


def test_the_command_says_it_in_words_and_json(study, tmp_path):
    result = runner.invoke(app, ["status", str(study), "--strategy", "entropy", "--json", str(tmp_path / "s.json")])
    assert result.exit_code == 0, result.output
    for words in ("3 of 12 cases labelled; 9 left", "hardly worth it", "Dice 0.700 → 0.680", "case05", "bea", "case11"):
        assert words in result.output
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["advice"]["is_worth_it"] is False
    assert content["queue"][0] == {"case_id": "case05", "reason": content["queue"][0]["reason"]}
    assert content["trainings"]["nodule_click"][0]["gain"] == 0.0
