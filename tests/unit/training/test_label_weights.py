import numpy as np
import pytest

from medai.domain.annotation import Annotation, Correction, ReviewState
from medai.training.label_weights import LEAST_AGREEMENT, UNLIKELY_WEIGHT, label_weight, readers_weight


def annotation(dice=None, *, added=0, **changed):
    correction = None
    if dice is not None:
        correction = Correction(
            dice=dice, added_path_length_mm=0.0, volume_change_ml=0.0, nodules_added=added, nodules_removed=0
        )
    known = {
        "annotation_id": "1",
        "case_id": "c",
        "tag": "final",
        "annotator": "a",
        "submitted_at_s": 0.0,
        "seconds_spent": None,
        "proposal_model": None,
        "proposal_version": None,
        "file_name": "f",
        "sha256": "",
        "nodules": 1,
        "volume_ml": 1.0,
        "correction": correction,
    }
    return Annotation(**{**known, **changed})


def test_a_label_without_history_counts_once():
    assert label_weight(None) == label_weight(annotation()) == 1.0


@pytest.mark.parametrize(("dice", "weight"), [(1.0, 1.0), (0.9, 1.2), (0.5, 2.0), (0.3, 2.0)])
def test_the_more_was_corrected_the_more_it_counts(dice, weight):
    assert label_weight(annotation(dice)) == pytest.approx(weight)


def test_an_unlikely_outline_counts_less_until_a_reviewer_approves_it():
    assert label_weight(annotation(0.1)) == UNLIKELY_WEIGHT
    assert label_weight(annotation(0.1, review=ReviewState.APPROVED)) == 2.0


def test_a_nodule_that_was_missed_is_no_slip():
    assert label_weight(annotation(0.0, added=1)) == 2.0


@pytest.mark.parametrize(
    "changed", [{"review": ReviewState.FLAGGED}, {"quarantine_reason": "empty"}, {"is_own_latest": False}]
)
def test_what_must_not_train_counts_nothing(changed):
    assert label_weight(annotation(0.5, **changed)) == 0.0


def test_soft_labels_weigh_less_the_more_readers_disagree():
    agreed = np.zeros((4, 5, 6), np.float32)
    agreed[1:3, 1:3, 1:3] = 1.0
    doubted = agreed.copy()
    doubted[3, 1:3, 1:3] = 0.5
    assert readers_weight(None) == readers_weight(agreed) == 1.0
    assert readers_weight(doubted) == pytest.approx(8 / 12)
    assert readers_weight(agreed * 0.5) == LEAST_AGREEMENT
    assert readers_weight(agreed * 0) == 1.0
