"""Two models on the same patients: the mean difference and how sure it is.

Both models are scored on the same cases, so only the differences matter; and two scans of one patient are alike, so
patients are what is averaged and drawn again, not scans. numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medai.errors import InputError

RESAMPLES = 4000
"""Bootstrap draws. The share below zero is then known to better than 0.01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The challenger's scores minus the champion's, patient by patient.

    Attributes:
        case_count: scans compared.
        patient_count: patients compared; each counts once, however many scans it has.
        champion_mean: mean of the patients' mean scores.
        challenger_mean: the same of the challenger.
        difference: ``challenger_mean`` minus ``champion_mean``; above 0 the challenger is better.
        low: lower end of the 90 % bootstrap interval of the difference.
        high: upper end of it.
        probability_worse: share (0–1) of bootstrap draws in which the challenger is worse.
        worst_case: the case in which the challenger loses most (or gains least).
        worst_difference: its difference.
        worst_patient_difference: mean difference of the patient in whom the challenger loses most (or gains least).
    """

    case_count: int
    patient_count: int
    champion_mean: float
    challenger_mean: float
    difference: float
    low: float
    high: float
    probability_worse: float
    worst_case: str
    worst_difference: float
    worst_patient_difference: float


def paired_difference(
    champion_score: Mapping[str, float],
    challenger_score: Mapping[str, float],
    *,
    patient_of_case: Mapping[str, str] | None = None,
    rng: np.random.Generator,
) -> PairedDifference:
    """Compare two models that were scored on the same cases; a higher score is better.

    Args:
        champion_score: case id to score; finite.
        challenger_score: scores of exactly the same cases; finite.
        patient_of_case: case id to patient; None: each case is a patient of its own.
        rng: draws the bootstrap samples.

    Returns:
        Means, difference and its 90 % percentile bootstrap interval over patients.

    Raises:
        InputError: no case, different cases, or a score that is not a finite number.
    """
    cases = _common_cases(champion_score, challenger_score)
    patients = [patient_of_case[case] if patient_of_case is not None else case for case in cases]
    champion = np.array([champion_score[case] for case in cases], dtype=np.float64)
    challenger = np.array([challenger_score[case] for case in cases], dtype=np.float64)
    for name, scores in (("champion", champion), ("challenger", challenger)):
        bad = [case for case, score in zip(cases, scores, strict=True) if not np.isfinite(score)]
        if bad:
            raise InputError(f"The {name} has no finite score for {', '.join(bad)}: evaluate it there again.")

    _, group = np.unique(patients, return_inverse=True)
    per_patient = np.bincount(group)
    champion_by_patient = np.bincount(group, weights=champion) / per_patient
    challenger_by_patient = np.bincount(group, weights=challenger) / per_patient
    difference = challenger_by_patient - champion_by_patient
    draws = difference[rng.integers(difference.size, size=(RESAMPLES, difference.size))].mean(axis=1)
    low, high = np.percentile(draws, [5.0, 95.0])
    worst = int(np.argmin(challenger - champion))
    return PairedDifference(
        case_count=len(cases),
        patient_count=int(difference.size),
        champion_mean=float(champion_by_patient.mean()),
        challenger_mean=float(challenger_by_patient.mean()),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        probability_worse=float(np.mean(draws < 0)),
        worst_case=cases[worst],
        worst_difference=float(challenger[worst] - champion[worst]),
        worst_patient_difference=float(difference.min()),
    )


def _common_cases(champion_score: Mapping[str, float], challenger_score: Mapping[str, float]) -> list[str]:
    """The case ids, sorted; both models must have been scored on the same ones."""
    if not champion_score:
        raise InputError("No case to compare the two models on.")
    only_one = sorted(champion_score.keys() ^ challenger_score.keys())
    if only_one:
        raise InputError(f"Both models must be scored on the same cases; only one was on {', '.join(only_one)}.")
    return sorted(champion_score)
