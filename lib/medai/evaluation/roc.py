"""How well a score tells two groups apart, and two scores against each other: AUC, its interval, DeLong's paired test.

Two nodules of one patient are alike, so intervals and paired tests draw patients again; DeLong's test, which takes
nodules for independent, is given beside them because the literature reports it. Agreement of ordered ratings is
Cohen's kappa with quadratic weights. numpy and scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medai.errors import InputError

DRAWS = 2000
"""Bootstrap samples: percentiles at 2.5 % are then known to a few thousandths of an AUC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auc:
    """Area under the ROC curve with its 95 % interval by patient bootstrap.

    Attributes:
        value: 0–1; the share of pairs of a positive and a negative that the score puts in the right order.
        low: lower end; NaN where too few patients are there to draw from.
        high: upper end.
        positives: cases of the one group.
        negatives: cases of the other.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AucGain:
    """AUC of one score minus that of another on the same cases.

    Attributes:
        value: above 0 the first score is better.
        low: lower end of the 95 % interval by patient bootstrap.
        high: upper end of it.
        p_bootstrap: two-sided, by the same draws.
        p_delong: two-sided, DeLong's test; cases are taken for independent.
    """

    value: float
    low: float
    high: float
    p_bootstrap: float
    p_delong: float


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve by the Mann–Whitney statistic; a tie counts half.

    Args:
        scores: a number a case, higher for positives.
        positive: bool, a case each.

    Raises:
        InputError: a group is empty, a score is not finite, or the lengths differ.
    """
    values, group = _checked(scores, positive)
    from scipy.stats import rankdata

    ranks = rankdata(values)
    count = int(group.sum())
    wins = float(ranks[group].sum()) - count * (count + 1) / 2
    return wins / (count * (len(values) - count))


def auc_by_patient(
    scores: ArrayLike, positive: ArrayLike, patient_ids: Sequence[str], rng: np.random.Generator, *, draws: int = DRAWS
) -> Auc:
    """AUC with its 95 % interval: whole patients are drawn again.

    Args:
        scores: a number a case, higher for positives.
        positive: bool, a case each.
        patient_ids: the patient of each case.
        rng: draws patients.
        draws: bootstrap samples; those that lack a group are left out.
    """
    values, group = _checked(scores, positive)
    value = roc_auc(values, group)
    drawn = [
        roc_auc(values[cases], group[cases])
        for cases in _patient_draws(patient_ids, rng, draws)
        if 0 < group[cases].sum() < len(cases)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) >= draws / 2 else (math.nan, math.nan)
    return Auc(
        value=value,
        low=float(low),
        high=float(high),
        positives=int(group.sum()),
        negatives=int((~group).sum()),
    )


def auc_gain(
    first: ArrayLike,
    second: ArrayLike,
    positive: ArrayLike,
    patient_ids: Sequence[str],
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> AucGain:
    """Compare two scores of the same cases.

    Args:
        first: the score that may be better.
        second: the one it is held against.
        positive: bool, a case each.
        patient_ids: the patient of each case.
        rng: draws patients.
        draws: bootstrap samples.
    """
    one, group = _checked(first, positive)
    other, _ = _checked(second, positive)
    value = roc_auc(one, group) - roc_auc(other, group)
    gains = np.array(
        [
            roc_auc(one[cases], group[cases]) - roc_auc(other[cases], group[cases])
            for cases in _patient_draws(patient_ids, rng, draws)
            if 0 < group[cases].sum() < len(cases)
        ]
    )
    low, high = np.percentile(gains, [2.5, 97.5]) if len(gains) >= draws / 2 else (math.nan, math.nan)
    below, above = np.count_nonzero(gains <= 0) + 1, np.count_nonzero(gains >= 0) + 1
    return AucGain(
        value=value,
        low=float(low),
        high=float(high),
        p_bootstrap=min(1.0, 2 * min(below, above) / (len(gains) + 1)) if len(gains) else math.nan,
        p_delong=delong_p(one, other, group),
    )


def delong_p(first: ArrayLike, second: ArrayLike, positive: ArrayLike) -> float:
    """Two-sided p of equal AUCs of two scores on the same cases (DeLong, DeLong and Clarke-Pearson, 1988).

    Returns:
        0–1; 1 where the two scores order all pairs alike.

    Raises:
        InputError: fewer than two cases in a group, or scores that cannot be used.
    """
    from scipy.stats import norm

    one, group = _checked(first, positive)
    other, _ = _checked(second, positive)
    if min(group.sum(), (~group).sum()) < 2:
        raise InputError("DeLong's test needs two cases in each group at least.")
    placements = [_placements(values, group) for values in (one, other)]
    of_positives = np.array([p for p, _ in placements])
    of_negatives = np.array([n for _, n in placements])
    covariance = np.cov(of_positives) / of_positives.shape[1] + np.cov(of_negatives) / of_negatives.shape[1]
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = float(of_positives[0].mean() - of_positives[1].mean())
    if variance <= 1e-15:
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return float(2 * norm.sf(abs(difference) / math.sqrt(variance)))


def quadratic_kappa(first: ArrayLike, second: ArrayLike, *, lowest: int = 1, highest: int = 5) -> float:
    """Cohen's kappa with quadratic weights of two sets of ordered ratings: 1 agreement, 0 chance.

    Args:
        first: whole ratings within the scale.
        second: ratings of the same cases.
        lowest: lowest rating of the scale.
        highest: highest one.

    Returns:
        The kappa; NaN where both give every case the same one rating.

    Raises:
        InputError: the lengths differ, there is no case, or a rating lies outside the scale.
    """
    one, other = np.asarray(first, dtype=np.int64).ravel(), np.asarray(second, dtype=np.int64).ravel()
    if one.shape != other.shape or one.size == 0:
        raise InputError(f"{one.size} and {other.size} ratings cannot be compared: rate the same cases twice.")
    for ratings in (one, other):
        if ratings.min() < lowest or ratings.max() > highest:
            raise InputError(
                f"Ratings from {ratings.min()} to {ratings.max()} do not fit a scale of {lowest} to {highest}."
            )
    count = highest - lowest + 1
    observed = np.zeros((count, count))
    np.add.at(observed, (one - lowest, other - lowest), 1.0)
    by_chance = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / one.size
    steps = np.arange(count)
    weights = (steps[:, None] - steps[None]) ** 2.0
    expected = float((weights * by_chance).sum())
    return 1 - float((weights * observed).sum()) / expected if expected > 0 else math.nan


def brier(probability: ArrayLike, positive: ArrayLike) -> float:
    """Mean squared distance of a probability from what came true: 0 is best, 0.25 is always saying one half."""
    values, group = np.asarray(probability, dtype=np.float64), np.asarray(positive, dtype=np.float64)
    return float(np.mean((values - group) ** 2))


def _placements(values: NDArray[np.float64], group: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    from scipy.stats import rankdata

    positives, negatives = values[group], values[~group]
    ranks = rankdata(np.concatenate([positives, negatives]))
    m, n = len(positives), len(negatives)
    of_positives = (ranks[:m] - rankdata(positives)) / n
    of_negatives = 1 - (ranks[m:] - rankdata(negatives)) / m
    return np.asarray(of_positives), np.asarray(of_negatives)


def _patient_draws(patient_ids: Sequence[str], rng: np.random.Generator, draws: int) -> list[NDArray[np.int64]]:
    """Cases of each bootstrap sample of patients."""
    _, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    cases_of = [np.flatnonzero(patient == n) for n in range(int(patient.max()) + 1)]
    return [
        np.concatenate([cases_of[n] for n in drawn])
        for drawn in rng.integers(len(cases_of), size=(draws, len(cases_of)))
    ]


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Finite scores and a group of each sort."""
    values, group = np.asarray(scores, dtype=np.float64).ravel(), np.asarray(positive, dtype=bool).ravel()
    if values.shape != group.shape:
        raise InputError(f"{values.size} scores and {group.size} labels cannot be compared.")
    if not np.all(np.isfinite(values)):
        raise InputError(f"{int(np.sum(~np.isfinite(values)))} of {values.size} scores are not finite numbers.")
    if not group.any() or group.all():
        raise InputError(
            f"An AUC needs cases of both groups: there are {int(group.sum())} positive and {int((~group).sum())} "
            "negative ones."
        )
    return values, group
