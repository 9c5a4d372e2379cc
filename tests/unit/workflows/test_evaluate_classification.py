from dataclasses import replace

import numpy as np
import pytest
from tests.support.rated_balls import rated_balls, write_folder

from medai.clinical.measurements import volume_mm3
from medai.domain import NoduleAssessment, NoduleKind, RatedProbability
from medai.errors import CancelledByUserError, InputError
from medai.geometry import IndexBox
from medai.inference.click import ClickResult
from medai.workflows.classification_report import (
    ClassificationConfig,
    RatedOutline,
    RatedScore,
    malignancy_figures,
    texture_figures,
)
from medai.workflows.evaluate_classification import evaluate_classification


class BySize:
    """Rates by volume alone."""

    def assess(self, volume, box, mask):
        rating = float(np.clip(np.log(volume_mm3(mask, volume.geometry)) - 2.0, 1.0, 5.0))
        return _assessment(rating)


class WholeTruth:
    """Outlines what is bright in the crop."""

    def segment(self, volume, *, foreground_ijk, background_ijk=()):
        mask = np.asarray(volume.image_hu) > -400
        box = IndexBox.of_shape(mask.shape)
        return ClickResult(box=box, mask=mask, probability=mask.astype(np.float32), looked_at=box, uncertainty=0.0)


def _assessment(rating, kind=NoduleKind.SOLID):
    value = 1 / (1 + np.exp(-2 * (rating - 3)))
    return NoduleAssessment(
        malignancy=RatedProbability(value=value, low=0.0, high=1.0),
        malignancy_rating=rating,
        ratings={"malignancy": rating, "texture": 5.0},
        kind=kind,
        kind_probabilities={kind: 1.0},
    )


def _score(number, voted, rating, kind=NoduleKind.SOLID, answer=NoduleKind.SOLID):
    return RatedScore(
        case_id=f"case_{number}",
        patient_id=f"patient_{number}",
        diameter_mm=5.0 + number % 3,
        voted={"malignancy": voted},
        kind=kind,
        reference=_assessment(rating, answer),
        own=None,
    )


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, rated_balls(15))


def test_a_folder_is_rated_with_both_outlines(folder):
    report = evaluate_classification(folder, BySize(), WholeTruth())
    figures = report.to_json()
    assert (figures["n"], figures["n_undecided"], figures["n_nodules"]) == (12, 3, 15)
    assert figures["auc"] == figures["auc_own_outline"] == 1.0
    assert figures["auc_ci95"] == [1.0, 1.0]
    assert figures["size_only_auc"] > 0.95
    assert figures["auc_gain_p"] is not None
    assert figures["outline"] == "reference"
    assert figures["texture"]["n"] == 15
    assert figures["attributes"]["malignancy"]["spearman"] > 0.9
    assert len(figures["per_case"]) == 15
    assert {"case_id", "malignancy", "own_outline"} <= figures["per_case"][0].keys()


def test_without_an_outliner_there_are_no_figures_of_our_outlines(folder):
    figures = evaluate_classification(folder, BySize(), None, ClassificationConfig(limit=6)).to_json()
    assert figures["n_nodules"] == 6
    assert figures["auc_own_outline"] is None
    assert figures["auc_reference_outline"] == figures["auc"]


def test_one_damaged_case_is_named_and_the_others_count(folder):
    (folder / "masks" / "ball_3.nii.gz").write_bytes(b"no mask")
    report = evaluate_classification(folder, BySize(), None)
    assert list(report.skipped) == ["ball_3"]
    assert len(report.scores) == 14


def test_a_stop_and_a_folder_without_ratings(folder):
    with pytest.raises(CancelledByUserError, match="stopped"):
        evaluate_classification(folder, BySize(), None, should_stop=lambda: True)
    table = (folder / "nodules.csv").read_text(encoding="utf-8").replace("malignancy", "other")
    (folder / "nodules.csv").write_text(table, encoding="utf-8")
    with pytest.raises(InputError, match="column 'malignancy'"):
        evaluate_classification(folder, BySize(), None)


def test_the_worst_cases_come_first(folder):
    report = evaluate_classification(folder, BySize(), None)
    wrong = _score(99, voted=1.0, rating=4.9)
    worst = replace(report, scores=(*report.scores, wrong)).worst_cases(2)
    assert worst[0] is wrong
    assert worst[0].error() == pytest.approx(1 / (1 + np.exp(-3.8)))


def test_figures_by_hand():
    scores = [_score(0, 5.0, 4.0), _score(1, 4.0, 2.0), _score(2, 1.0, 3.0), _score(3, 2.0, 1.0)]
    figures = malignancy_figures(scores, RatedOutline.REFERENCE, seed=1)
    assert figures["auc"] == 0.75
    # Diameters 5 and 6 against 7 and 5: one tie and one win of four.
    assert figures["size_only_auc"] == pytest.approx(1.5 / 4)
    assert (figures["n_malignant"], figures["n_benign"]) == (2, 2)
    few = malignancy_figures(scores[:2], RatedOutline.REFERENCE, seed=1)
    assert few["auc"] is None
    assert few["n"] == 2


def test_kinds_by_hand():
    part, non = NoduleKind.PART_SOLID, NoduleKind.NON_SOLID
    scores = [
        _score(0, 1.0, 1.0),
        _score(1, 1.0, 1.0),
        _score(2, 1.0, 1.0, kind=part),
        _score(3, 1.0, 1.0, kind=non, answer=non),
    ]
    figures = texture_figures(scores, RatedOutline.REFERENCE)
    assert figures["accuracy"] == 0.75
    assert figures["balanced_accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["confusion"]["part-solid"] == {"non-solid": 0, "part-solid": 0, "solid": 1}


def test_a_configuration_that_asks_for_nothing_is_refused():
    with pytest.raises(InputError, match="At least one nodule"):
        ClassificationConfig(limit=0)
