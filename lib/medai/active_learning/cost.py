"""What a label costs: minutes, expected from what the models see, and learnt from how long the annotators took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError

LEAST_MINUTES = 0.25
"""Nobody opens a scan, looks through it and submits it in less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationCost:
    """Minutes a case takes; the numbers before anything was measured are a guess, and say so in the decision record.

    Attributes:
        minutes_a_case: to open a scan and look through it.
        minutes_a_nodule: to check or outline one nodule.
        minutes_a_ml: for what there is to outline.
    """

    minutes_a_case: float = 3.0
    minutes_a_nodule: float = 1.0
    minutes_a_ml: float = 0.5

    def __post_init__(self) -> None:
        if min(self.minutes_a_case, self.minutes_a_nodule, self.minutes_a_ml) < 0:
            raise InputError(f"A label cannot cost less than nothing: {self}.")

    def minutes(self, *, nodules: float, volume_ml: float) -> float:
        """What a case with so much in it takes."""
        return float(self.minutes_of(np.array([nodules]), np.array([volume_ml]))[0])

    def minutes_of(self, nodules: NDArray[np.float64], volume_ml: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of many cases at once."""
        found = self.minutes_a_case + self.minutes_a_nodule * nodules + self.minutes_a_ml * volume_ml
        return np.asarray(np.maximum(found, LEAST_MINUTES))


def fit_cost(
    minutes: Sequence[float],
    nodules: Sequence[float],
    volume_ml: Sequence[float],
    *,
    prior: AnnotationCost | None = None,
    prior_cases: float = 10.0,
) -> AnnotationCost:
    """Learn the cost from annotations whose time is known.

    Non-negative least squares, held to the prior by as much as ``prior_cases`` annotations of it would. Times beyond
    three times the median are cut there: somebody went for coffee.

    Args:
        minutes: of each annotation.
        nodules: that it holds.
        volume_ml: that it holds.
        prior: what is believed before.
        prior_cases: how strongly.

    Raises:
        InputError: the three are not of one length.
    """
    from scipy.optimize import nnls

    prior = prior or AnnotationCost()
    if not len(minutes) == len(nodules) == len(volume_ml):
        raise InputError(
            f"{len(minutes)} times, {len(nodules)} counts and {len(volume_ml)} volumes do not belong together."
        )
    if not minutes:
        return prior
    spent = np.minimum(np.asarray(minutes, dtype=np.float64), 3.0 * float(np.median(minutes)))
    rows = np.stack([np.ones(len(spent)), np.asarray(nodules, float), np.asarray(volume_ml, float)], axis=1)
    believed: NDArray[np.float64] = np.array([prior.minutes_a_case, prior.minutes_a_nodule, prior.minutes_a_ml])
    pull = np.sqrt(prior_cases) * np.eye(3)
    weights, _ = nnls(np.concatenate([rows, pull]), np.concatenate([spent, pull @ believed]))
    return AnnotationCost(
        minutes_a_case=float(weights[0]), minutes_a_nodule=float(weights[1]), minutes_a_ml=float(weights[2])
    )
