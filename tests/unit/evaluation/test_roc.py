import math

import numpy as np
import pytest
from scipy import stats

from medai.errors import InputError
from medai.evaluation.roc import auc_by_patient, auc_gain, brier, delong_p, quadratic_kappa, roc_auc

SCORES = [0.1, 0.4, 0.35, 0.8, 0.8]
POSITIVE = [False, False, True, True, False]
"""Six pairs: 0.35 beats 0.1 alone, 0.8 beats 0.1 and 0.4 and ties with 0.8: 3.5 of 6."""


def test_auc_by_hand_with_a_tie():
    assert roc_auc(SCORES, POSITIVE) == pytest.approx(3.5 / 6)


def test_auc_is_mann_whitneys_statistic():
    rng = np.random.default_rng(1)
    scores, positive = np.round(rng.normal(size=60), 1), rng.random(60) < 0.4
    statistic = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert roc_auc(scores, positive) == pytest.approx(statistic / (positive.sum() * (~positive).sum()))


def test_turning_a_score_round_turns_its_auc_round():
    assert roc_auc(np.negative(SCORES), POSITIVE) == pytest.approx(1 - 3.5 / 6)


@pytest.mark.parametrize(
    ("scores", "positive", "words"),
    [
        ([1.0, 2.0], [True, True], "2 positive and 0 negative"),
        ([1.0, math.nan], [True, False], "1 of 2 scores are not finite"),
        ([1.0, 2.0], [True], "2 scores and 1 labels"),
    ],
)
def test_scores_that_have_no_auc_are_refused(scores, positive, words):
    with pytest.raises(InputError, match=words):
        roc_auc(scores, positive)


def test_delong_by_hand():
    # Placements of the first score: positives 1, 1/2, 1 (mean 5/6); negatives 1, 2/3. Of the second, which is all
    # ties: 1/2 everywhere. The variance is that of the first alone: var(1, .5, 1)/3 + var(1, 2/3)/2.
    first, second = [3.0, 1.0, 4.0, 0.0, 2.0], [0.0] * 5
    positive = [True, True, True, False, False]
    variance = np.var([1, 0.5, 1], ddof=1) / 3 + np.var([1, 2 / 3], ddof=1) / 2
    expected = 2 * stats.norm.sf((5 / 6 - 0.5) / math.sqrt(variance))
    assert delong_p(first, second, positive) == pytest.approx(expected)


def test_delong_of_the_same_order_says_no_difference():
    assert delong_p(SCORES, np.multiply(SCORES, 3), POSITIVE) == 1.0


def test_delong_is_right_five_times_in_a_hundred_where_nothing_differs():
    rng = np.random.default_rng(2)
    positive = np.arange(80) < 40
    p_values = []
    for _ in range(200):
        truth = positive + rng.normal(0, 1, 80)
        p_values.append(delong_p(truth + rng.normal(0, 1, 80), truth + rng.normal(0, 1, 80), positive))
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.10


def test_an_interval_holds_its_auc_and_widens_with_fewer_patients():
    rng = np.random.default_rng(3)
    positive = rng.random(200) < 0.5
    scores = positive + rng.normal(size=200)
    patients = [f"p{n}" for n in range(200)]
    alone = auc_by_patient(scores, positive, patients, np.random.default_rng(0), draws=300)
    assert alone.low < alone.value < alone.high
    assert (alone.positives, alone.negatives) == (int(positive.sum()), int((~positive).sum()))
    # Each nodule four times: no more is known, so that the interval by patient stays as it is.
    repeated = auc_by_patient(
        np.repeat(scores, 4),
        np.repeat(positive, 4),
        np.repeat(patients, 4).tolist(),
        np.random.default_rng(0),
        draws=300,
    )
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_a_better_score_gains_and_the_same_one_does_not():
    rng = np.random.default_rng(4)
    positive = rng.random(150) < 0.5
    good, poor = positive + rng.normal(0, 0.7, 150), positive + rng.normal(0, 2.5, 150)
    patients = [f"p{n // 2}" for n in range(150)]
    gain = auc_gain(good, poor, positive, patients, np.random.default_rng(0), draws=400)
    assert gain.low > 0
    assert gain.p_bootstrap < 0.02
    assert gain.p_delong < 0.01
    none = auc_gain(good, good, positive, patients, np.random.default_rng(0), draws=100)
    assert (none.value, none.p_bootstrap, none.p_delong) == (0.0, 1.0, 1.0)


def test_kappa_by_hand():
    # Ratings 1, 2, 3 against 1, 3, 3: observed disagreement 1, expected by chance (4+1+4+1+1+4+...)/3.
    one, other = [1, 2, 3], [1, 3, 3]
    expected = sum((a - b) ** 2 for a in one for b in other) / 3
    assert quadratic_kappa(one, other, highest=3) == pytest.approx(1 - 1 / expected)
    assert quadratic_kappa(one, one, highest=3) == 1.0


def test_kappa_agrees_with_scikit_learn_where_it_is_there():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    one = rng.integers(1, 6, 90)
    other = np.clip(one + rng.integers(-1, 2, 90), 1, 5)
    assert quadratic_kappa(one, other) == pytest.approx(metrics.cohen_kappa_score(one, other, weights="quadratic"))


def test_kappa_refuses_what_is_no_rating():
    with pytest.raises(InputError, match="do not fit a scale of 1 to 5"):
        quadratic_kappa([1, 6], [1, 2])
    with pytest.raises(InputError, match="2 and 1 ratings"):
        quadratic_kappa([1, 2], [1])
    assert math.isnan(quadratic_kappa([2, 2], [2, 2]))


def test_brier_by_hand():
    assert brier([0.9, 0.2], [True, False]) == pytest.approx((0.01 + 0.04) / 2)
