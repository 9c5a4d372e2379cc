"""How much a label counts in training: corrected ones more than accepted ones, doubtful ones less.

A label that was accepted as proposed tells the network what it says already; where an annotator changed the outline,
there is something to learn. But an outline that hardly overlaps what was proposed for the same nodules is as often a
slip as a lesson, and where readers disagree the truth is not known so well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.domain.annotation import Annotation, Correction, ReviewState

CORRECTION_GAIN = 2.0
"""Weight that a Dice of 0 to the proposal would add; half of the outline redrawn counts twice an accepted one."""
MOST_GAIN = 1.0
UNLIKELY_DICE = 0.2
UNLIKELY_WEIGHT = 0.5
"""Of an outline that overlaps the proposal by less, where no nodule came or went and no reviewer has approved it."""
LEAST_AGREEMENT = 0.25
"""A nodule that readers outline quite differently still shows where a nodule is."""


def label_weight(annotation: Annotation | None) -> float:
    """How often a submitted label is drawn, over one that was accepted as proposed.

    Args:
        annotation: how it came about; None where that is not known.

    Returns:
        0 for one that must not train (flagged, in quarantine, replaced by a later one of the same annotator); 1 for
        one that was accepted or of which nothing is known; up to 2 for a corrected one.
    """
    if annotation is None:
        return 1.0
    if not annotation.trains:
        return 0.0
    correction = annotation.correction
    if correction is None:
        return 1.0
    if _is_unlikely(correction) and annotation.review is not ReviewState.APPROVED:
        return UNLIKELY_WEIGHT
    return 1.0 + min(MOST_GAIN, CORRECTION_GAIN * (1.0 - min(1.0, max(0.0, correction.dice))))


def readers_weight(readers: NDArray[np.float32] | None) -> float:
    """How much a soft label counts: the mean certainty of the voxels that any reader counts to the nodule.

    Args:
        readers: mean of the readers' masks, 0–1; None for one reader's label.

    Returns:
        1 where all agree (or there is one), ``LEAST_AGREEMENT`` at least.
    """
    if readers is None:
        return 1.0
    touched = readers[readers > 0]
    if touched.size == 0:
        return 1.0
    return max(LEAST_AGREEMENT, float(np.mean(np.abs(2.0 * touched - 1.0))))


def _is_unlikely(correction: Correction) -> bool:
    """True where the same nodules were outlined in quite another way."""
    return correction.dice < UNLIKELY_DICE and not correction.nodules_added and not correction.nodules_removed
