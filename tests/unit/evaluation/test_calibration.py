"""Reliability bins and rank agreement, on figures that can be worked out by hand."""

import math

import numpy as np
import pytest

from medai.errors import InputError
from medai.evaluation.calibration import ReliabilityBins, rank_agreement


def test_error_of_two_bins_by_hand() -> None:
    # Four of 0.9, three of them true: off by 0.15. Four of 0.1, two true: off by 0.4. Mean of both: 0.275.
    bins = ReliabilityBins.of([0.9] * 4 + [0.1] * 4, [1, 1, 1, 0, 1, 1, 0, 0], bins=2)
    assert bins.expected_calibration_error == pytest.approx(0.275)
    rows = bins.rows()
    assert [row["share"] for row in rows] == [0.5, 0.5]
    assert [row["observed"] for row in rows] == [0.5, 0.75]
    assert [row["mean_probability"] for row in rows] == pytest.approx([0.1, 0.9])


def test_one_belongs_to_the_last_bin_and_empty_bins_are_left_out() -> None:
    rows = ReliabilityBins.of([1.0, 0.0], [True, False]).rows()
    assert [(row["low"], row["high"]) for row in rows] == [(0.0, 0.1), (0.9, 1.0)]


def test_honest_probabilities_have_no_error(rng: np.random.Generator) -> None:
    probability = rng.random((20, 21, 22))
    bins = ReliabilityBins.of(probability, rng.random(probability.shape) < probability)
    assert bins.expected_calibration_error < 0.03


def test_a_set_of_many_weighs_as_much_as_a_set_of_few() -> None:
    right, wrong = ReliabilityBins.of([1.0] * 1000, [True] * 1000), ReliabilityBins.of([1.0], [False])
    assert ReliabilityBins.mean([right, wrong]).expected_calibration_error == pytest.approx(0.5)
    empty = ReliabilityBins.of([], [])
    assert ReliabilityBins.mean([right, empty, wrong]).expected_calibration_error == pytest.approx(0.5)
    assert math.isnan(empty.expected_calibration_error)
    with pytest.raises(InputError, match="no prediction"):
        ReliabilityBins.mean([empty])


def test_ranks_that_agree_and_disagree(rng: np.random.Generator) -> None:
    values = rng.random(30)
    patients = [str(n // 2) for n in range(30)]
    up = rank_agreement(values.tolist(), np.exp(values).tolist(), patients, rng, draws=50)
    assert (up.rho, up.p_value) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert rank_agreement(values.tolist(), (-values).tolist(), patients, rng, draws=50).rho == pytest.approx(-1.0)
    noise = rank_agreement(values.tolist(), rng.random(30).tolist(), patients, rng, draws=200)
    assert noise.low <= noise.rho <= noise.high
    assert noise.high - noise.low > 0.2


def test_ranks_as_scipy_has_them(rng: np.random.Generator) -> None:
    from scipy.stats import spearmanr

    one, other = rng.integers(0, 6, 25).astype(float), rng.integers(0, 6, 25).astype(float)
    found = rank_agreement(one.tolist(), other.tolist(), [str(n) for n in range(25)], rng, draws=5)
    expected = spearmanr(one, other)
    assert (found.rho, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0], [3.0, 3.0, 3.0]])
def test_no_agreement_of_too_few_or_constant_figures(values: list[float], rng: np.random.Generator) -> None:
    found = rank_agreement(values, list(range(len(values))), ["p"] * len(values), rng)
    assert math.isnan(found.rho)
