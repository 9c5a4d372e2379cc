"""``medai annotations``: the history on the screen and as JSON, and the way out of quarantine."""

import json

import pytest
from typer.testing import CliRunner

from medai.cli.main import app
from medai.domain.annotation import Correction
from medai.errors import NotFoundError
from medai.store.annotations import AnnotationLog, Submission

runner = CliRunner(env={"COLUMNS": "400"})


@pytest.fixture
def study(tmp_path):
    label = tmp_path / "label.nii.gz"
    label.write_bytes(b"label")
    log = AnnotationLog(tmp_path)
    fine = log.record(Submission(case_id="one", annotator="ann", proposal_model="m", proposal_version="v3"), label)
    correction = Correction(
        dice=0.5, added_path_length_mm=12.0, volume_change_ml=0.25, nodules_added=1, nodules_removed=0
    )
    log.set_measures(fine.annotation_id, correction, "")
    log.record(Submission(case_id="two", quarantine_reason="it has 5000 separate parts"), label)
    log.close()
    return tmp_path


def run(*args):
    result = runner.invoke(app, ["annotations", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.output


def test_it_says_who_from_what_how_much_and_why_not(study):
    screen = run(study)
    for words in ("ann", "m v3", "Dice 0.50, path 12 mm, +0.25 ml, +1 -0 nodules", "it has 5000 separate parts"):
        assert words in screen


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_id_can_be_copied_from_a_narrow_screen(study, columns):
    log = AnnotationLog(study)
    label = study / "label.nii.gz"
    log.record(
        Submission(case_id="1.3.6.1.4.1.14519.5.2.1.6279.6001.108197895896446896160048741492", annotator="ann"), label
    )
    ids = [each.annotation_id for each in log.all()]
    log.close()
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["annotations", str(study)])
    assert len(ids) == 3
    assert all(annotation_id in result.output for annotation_id in ids)
    assert "…" not in result.output
    assert max(map(len, result.output.splitlines())) <= columns
    assert "1.3.6.1.4.1.14519.5.2.1.6279" in result.output


def test_quarantined_alone(study):
    result = runner.invoke(app, ["annotations", str(study), "--quarantined", "--json", "-"])
    found = json.loads(result.stdout)
    assert [(a["case_id"], a["trains"]) for a in found["annotations"]] == [("two", False)]


def test_a_released_label_trains(study, tmp_path):
    log = AnnotationLog(study)
    (odd,) = log.withheld()
    result = tmp_path / "result.json"
    assert "(case two) may train" in run(study, "--release", odd.annotation_id, "--json", result)
    assert json.loads(result.read_text())["released"]["trains"]
    assert log.withheld() == []
    assert "No label fits" in run(study, "--quarantined")
    log.close()


def test_a_study_without_a_history_says_so(tmp_path):
    result = runner.invoke(app, ["annotations", str(tmp_path)])
    assert isinstance(result.exception, NotFoundError)
    assert "no history of annotations yet" in str(result.exception)
    assert not (tmp_path / ".medai").exists()
