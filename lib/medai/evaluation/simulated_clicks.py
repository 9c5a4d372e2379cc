"""Clicks as an annotator gives them: the first one in the nodule, the next ones at the worst mistake.

Training and judging a click network use the same simulated annotator, so that what is measured is what was learned.
Training also draws clicks that are less well placed; judging follows the field's rule, in which the correction is no
matter of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import IndexBox

INNERMOST_MM = 3.0
"""A careful click lies this near the innermost voxel."""


class ClickPlace(StrEnum):
    """Where in a nodule the first click lies: within 3 mm of its innermost voxel, any of its voxels, or just there."""

    CENTRE = "centre"
    ANYWHERE = "anywhere"
    INNERMOST = "innermost"


def first_click(case: ClickCase, rng: np.random.Generator, *, careful: bool) -> tuple[int, int, int]:
    """A voxel of the nodule: within 3 mm of its innermost voxel, or anywhere in it."""
    return placed_click(case, ClickPlace.CENTRE if careful else ClickPlace.ANYWHERE, rng)


def placed_click(case: ClickCase, place: ClickPlace, rng: np.random.Generator) -> tuple[int, int, int]:
    """A voxel of the nodule.

    Args:
        case: the nodule.
        place: where; each voxel that fits is as likely as any other.
        rng: draws it, except at the innermost voxel.

    Raises:
        InputError: the mask is empty.
    """
    box = IndexBox.of_mask(case.mask)
    if box is None:
        raise InputError(f"Case {case.case_id} has an empty mask: there is nothing to click on.")
    spacing_mm = case.volume.geometry.spacing_mm
    inside = np.argwhere(case.mask[box.slices])
    if place is not ClickPlace.ANYWHERE:
        innermost = np.array(innermost_voxel(case.mask[box.slices], spacing_mm))
        off_mm = np.linalg.norm((inside - innermost) * spacing_mm, axis=1)
        inside = innermost[None] if place is ClickPlace.INNERMOST else inside[off_mm <= INNERMOST_MM]
    chosen = inside[int(rng.integers(len(inside)))] + box.start_ijk
    return (int(chosen[0]), int(chosen[1]), int(chosen[2]))


def innermost_voxel(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """The voxel of a mask farthest from its rim; what lies beyond the array counts as outside."""
    from scipy import ndimage

    depth_mm = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    i, j, k = np.unravel_index(int(np.argmax(depth_mm)), mask.shape)
    return (int(i), int(j), int(k))


def correcting_click(
    predicted: NDArray[np.bool_],
    target: NDArray[np.bool_],
    known: NDArray[np.bool_],
    rng: np.random.Generator | None,
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> tuple[tuple[int, int, int], bool] | None:
    """The next click of an annotator: inside the largest connected mistake, mostly at its innermost voxel.

    Args:
        predicted: bool, patch shape.
        target: bool, patch shape.
        known: bool; mistakes elsewhere do not count.
        rng: one click in four lies anywhere in the mistake; None: every click is at the innermost voxel.
        spacing_mm: voxel size, by which a voxel is innermost.

    Returns:
        The voxel and True for a foreground click, or None where nothing is wrong.
    """
    wrong = (predicted != target) & known
    box = IndexBox.of_mask(wrong)
    if box is None:
        return None
    best = _largest_mistake(wrong[box.slices], target[box.slices])
    if rng is not None and rng.random() < 0.25:
        inside = np.argwhere(best)
        at = inside[int(rng.integers(len(inside)))]
    else:
        at = np.array(innermost_voxel(best, spacing_mm))
    i, j, k = (int(n) for n in at + box.start_ijk)
    return (i, j, k), bool(target[i, j, k])


def _largest_mistake(wrong: NDArray[np.bool_], target: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest region, connected by faces, of voxels that were missed or of voxels that were added."""
    from scipy import ndimage

    best, best_size = wrong, 0
    for kind in (target, ~target):
        numbered, count = ndimage.label(wrong & kind)
        if count:
            sizes = np.bincount(numbered.ravel())[1:]
            if sizes.max() > best_size:
                best, best_size = numbered == int(np.argmax(sizes)) + 1, int(sizes.max())
    return best
