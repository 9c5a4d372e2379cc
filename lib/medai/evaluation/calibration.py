"""Whether probabilities mean what they say: reliability bins, their expected calibration error, and rank agreement.

numpy and scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medai.errors import InputError

BINS = 10
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReliabilityBins:
    """Predictions sorted into bins of equal width: how probable they were called, and how often they were true.

    Attributes:
        weight: predictions a bin (or shares of them), float64.
        probability: sum of the probabilities a bin, weighted alike.
        positives: predictions that were true a bin, weighted alike.
    """

    weight: NDArray[np.float64]
    probability: NDArray[np.float64]
    positives: NDArray[np.float64]

    @classmethod
    def of(cls, probability: ArrayLike, truth: ArrayLike, *, bins: int = BINS) -> ReliabilityBins:
        """Sort predictions.

        Args:
            probability: 0–1, any shape.
            truth: bool, same shape.
            bins: how many, of equal width; 1 belongs to the last.

        Raises:
            InputError: different shapes.
        """
        values = np.asarray(probability, dtype=np.float64).ravel()
        is_true = np.asarray(truth, dtype=bool).ravel()
        if values.shape != is_true.shape:
            raise InputError(f"{values.size} probabilities and {is_true.size} truths cannot be compared.")
        number = np.clip((values * bins).astype(np.int64), 0, bins - 1)
        sums = [
            np.asarray(np.bincount(number, weights=weights, minlength=bins), dtype=np.float64)
            for weights in (np.ones(values.size), values, is_true.astype(np.float64))
        ]
        return cls(weight=sums[0], probability=sums[1], positives=sums[2])

    @classmethod
    def mean(cls, parts: Iterable[ReliabilityBins]) -> ReliabilityBins:
        """Several sets of predictions, each of the same total weight however many it has; empty sets are left out.

        Raises:
            InputError: none has a prediction.
        """
        used = [part for part in parts if part.weight.sum() > 0]
        if not used:
            raise InputError("There is no prediction to be calibrated.")
        shares = [1.0 / (float(part.weight.sum()) * len(used)) for part in used]
        return cls(
            weight=np.sum([part.weight * share for part, share in zip(used, shares, strict=True)], axis=0),
            probability=np.sum([part.probability * share for part, share in zip(used, shares, strict=True)], axis=0),
            positives=np.sum([part.positives * share for part, share in zip(used, shares, strict=True)], axis=0),
        )

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between probability and frequency, over bins by weight; NaN without a prediction."""
        total = float(self.weight.sum())
        return float(np.abs(self.probability - self.positives).sum() / total) if total > 0 else math.nan

    def rows(self) -> list[dict[str, float]]:
        """Each bin that is not empty: its limits, its share of all, mean probability and frequency of the truth."""
        count = len(self.weight)
        total = float(self.weight.sum())
        return [
            {
                "low": n / count,
                "high": (n + 1) / count,
                "share": float(self.weight[n]) / total,
                "mean_probability": float(self.probability[n] / self.weight[n]),
                "observed": float(self.positives[n] / self.weight[n]),
            }
            for n in range(count)
            if self.weight[n] > 0
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """Spearman's rank correlation with its 95 % interval by patient bootstrap; NaN where it does not exist.

    Attributes:
        rho: −1 to 1.
        low: lower end.
        high: upper end.
        p_value: of no correlation, two-sided; of cases, not patients.
    """

    rho: float
    low: float
    high: float
    p_value: float


def rank_agreement(
    one: Sequence[float],
    other: Sequence[float],
    patient_ids: Sequence[str],
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> RankAgreement:
    """Whether two figures order cases alike.

    Args:
        one: a figure a case.
        other: another figure a case.
        patient_ids: the patient of each case; whole patients are drawn.
        rng: draws them.
        draws: bootstrap samples.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    rho = _spearman(first, second)
    if not math.isfinite(rho):
        return RankAgreement(rho=math.nan, low=math.nan, high=math.nan, p_value=math.nan)
    _, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    cases_of = [np.flatnonzero(patient == n) for n in range(int(patient.max()) + 1)]
    sampled = []
    for drawn in rng.integers(len(cases_of), size=(draws, len(cases_of))):
        cases = np.concatenate([cases_of[n] for n in drawn])
        sampled.append(_spearman(first[cases], second[cases]))
    finite = np.asarray(sampled)[np.isfinite(sampled)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite.size else (math.nan, math.nan)
    return RankAgreement(rho=rho, low=float(low), high=float(high), p_value=_p_value(rho, len(first)))


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's correlation of the ranks; NaN for fewer than three cases or a figure that is the same for all."""
    from scipy.stats import rankdata

    if len(one) < 3:
        return math.nan
    a, b = rankdata(one), rankdata(other)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _p_value(rho: float, count: int) -> float:
    from scipy.stats import t

    if abs(rho) >= 1:
        return 0.0
    statistic = abs(rho) * math.sqrt((count - 2) / (1 - rho * rho))
    return float(2 * t.sf(statistic, count - 2))
