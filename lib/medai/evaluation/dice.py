"""Overlap of two masks, and its mean with an honest interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import GeometryError, InputError


def dice(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Sørensen–Dice coefficient, 2|A∩B| / (|A|+|B|), 0–1; two empty masks agree (1).

    Raises:
        GeometryError: the masks have different shapes.
    """
    if predicted.shape != target.shape:
        raise GeometryError(f"Masks of shapes {predicted.shape} and {target.shape} cannot be compared.")
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(target))
    if total == 0:
        return 1.0
    return 2.0 * int(np.count_nonzero(predicted & target)) / total


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanInterval:
    """A mean with its confidence interval.

    Attributes:
        mean: over cases.
        low: lower end of the interval.
        high: upper end.
        cases: how many.
        patients: how many they come from.
    """

    mean: float
    low: float
    high: float
    cases: int
    patients: int


def mean_by_patient_bootstrap(
    values: Sequence[float],
    patient_ids: Sequence[str],
    rng: np.random.Generator,
    *,
    draws: int = 2000,
    confidence: float = 0.95,
    expanded: bool = False,
) -> MeanInterval:
    """Mean over cases with a percentile bootstrap interval that draws whole patients.

    Nodules of one patient share a scanner and a reader; drawing them one by one would make the interval too narrow.

    Args:
        values: one a case.
        patient_ids: the patient of each case.
        rng: draws the patients.
        draws: bootstrap samples.
        confidence: of the interval, 0–1.
        expanded: make up for what a percentile bootstrap of few patients lacks in width, as Student's t does
            (Hesterberg, What teachers should know about the bootstrap, The American Statistician 2015).

    Raises:
        InputError: no values, or not one patient a value.
    """
    if len(values) == 0 or len(values) != len(patient_ids):
        raise InputError(
            f"{len(values)} values of {len(patient_ids)} patients: give one patient a value, at least one."
        )
    _, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    count = int(patient.max()) + 1
    sums = np.bincount(patient, weights=np.asarray(values, dtype=np.float64), minlength=count)
    sizes = np.bincount(patient, minlength=count)
    drawn = rng.integers(count, size=(draws, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = _expanded_tail(0.5 * (1.0 - confidence), count) if expanded else 0.5 * (1.0 - confidence)
    low, high = np.percentile(means, [100.0 * tail, 100.0 - 100.0 * tail])
    return MeanInterval(
        mean=float(np.mean(values)), low=float(low), high=float(high), cases=len(values), patients=count
    )


def _expanded_tail(tail: float, count: int) -> float:
    """The share of draws to leave out on each side, for the interval of ``count`` patients to be wide enough."""
    from scipy.stats import norm, t

    if count < 2:
        return 0.0
    return float(norm.cdf(math.sqrt(count / (count - 1)) * t.ppf(tail, count - 1)))
