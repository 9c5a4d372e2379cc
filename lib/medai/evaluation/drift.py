"""How far a task's models have drifted from the best that was known of them, one subgroup of the old cases at a time.

A gate that compares each challenger with the present champion accepts many small losses one after the other. So each
subgroup has an anchor, which its losses are counted from: the first champion, until a later one was better there
beyond the bootstrap's doubt; then that one. Beyond doubt, because the best of many equal models looks better than it
is, and an anchor that any lucky draw could lift would in the end refuse every challenger.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medai.evaluation.paired import PairedDifference, paired_difference

LEAST_SHARED = 0.5
"""Share of a subgroup's cases that a former champion must have been scored on to stand for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerScores:
    """What a former champion scored.

    Attributes:
        version_id: which one.
        score: case id to score (0–1, higher is better); cases whose truth has changed since are left out.
    """

    version_id: str
    score: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFromAnchor:
    """A challenger against the anchor of a subgroup.

    Attributes:
        version_id: the anchor.
        figures: the anchor in the champion's place, on the cases that both were scored on.
    """

    version_id: str
    figures: PairedDifference


def drift_from_anchor(
    cases: Collection[str],
    former: Sequence[FormerScores],
    challenger_score: Mapping[str, float],
    *,
    patient_of_case: Mapping[str, str] | None = None,
    rng: np.random.Generator,
) -> DriftFromAnchor | None:
    """Compare a challenger with the anchor of a subgroup.

    Args:
        cases: ids of the subgroup's cases.
        former: the champions before, the first one first.
        challenger_score: of all cases.
        patient_of_case: case id to patient; None: each case is a patient of its own.
        rng: draws the bootstrap samples.

    Returns:
        The comparison; None where no former champion was scored on enough of these cases.
    """

    def compared(before: Mapping[str, float], after: Mapping[str, float]) -> PairedDifference | None:
        shared = [case for case in cases if case in before and case in after]
        if not shared or len(shared) < LEAST_SHARED * len(cases):
            return None
        return paired_difference(
            {case: before[case] for case in shared},
            {case: after[case] for case in shared},
            patient_of_case=patient_of_case,
            rng=rng,
        )

    anchor: FormerScores | None = None
    for each in former:
        if anchor is None:
            anchor = each if compared(each.score, challenger_score) else None
        elif (gain := compared(anchor.score, each.score)) is not None and gain.low > 0:
            anchor = each
    figures = None if anchor is None else compared(anchor.score, challenger_score)
    return None if anchor is None or figures is None else DriftFromAnchor(version_id=anchor.version_id, figures=figures)
