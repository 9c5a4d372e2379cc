"""Clicks as an annotator gives them: the first one in the nodule, the next ones at the worst mistake.

Training and judging a click network use the same simulated annotator, so that what is measured is what was learned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import IndexBox

INNERMOST_MM = 3.0
"""A careful click lies this near the innermost voxel."""


def first_click(case: ClickCase, rng: np.random.Generator, *, careful: bool) -> tuple[int, int, int]:
    """A voxel of the nodule: within 3 mm of its innermost voxel, or anywhere in it."""
    box = IndexBox.of_mask(case.mask)
    if box is None:
        raise InputError(f"Case {case.case_id} has an empty mask: there is nothing to click on.")
    inside = np.argwhere(case.mask[box.slices])
    if careful:
        innermost = np.array(innermost_voxel(case.mask[box.slices], case.volume.geometry.spacing_mm))
        off_mm = np.linalg.norm((inside - innermost) * case.volume.geometry.spacing_mm, axis=1)
        inside = inside[off_mm <= INNERMOST_MM]
    chosen = inside[int(rng.integers(len(inside)))] + box.start_ijk
    return (int(chosen[0]), int(chosen[1]), int(chosen[2]))


def innermost_voxel(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """The voxel of a mask farthest from its rim; what lies beyond the array counts as outside."""
    from scipy import ndimage

    depth_mm = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    i, j, k = np.unravel_index(int(np.argmax(depth_mm)), mask.shape)
    return (int(i), int(j), int(k))


def correcting_click(
    predicted: NDArray[np.bool_], target: NDArray[np.bool_], known: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[tuple[int, int, int], bool] | None:
    """The next click of an annotator: inside the largest connected mistake, mostly at its innermost voxel.

    Args:
        predicted: bool, patch shape.
        target: bool, patch shape.
        known: bool; mistakes elsewhere do not count.
        rng: one click in four lies anywhere in the mistake.

    Returns:
        The voxel and True for a foreground click, or None where nothing is wrong.
    """
    from scipy import ndimage

    wrong = (predicted != target) & known
    box = IndexBox.of_mask(wrong)
    if box is None:
        return None
    wrong = wrong[box.slices]
    signed = np.where(target[box.slices], 1, 2) * wrong
    best: NDArray[np.bool_] | None = None
    best_size = 0
    for kind in (1, 2):
        numbered, count = ndimage.label(signed == kind)
        if count:
            sizes = np.bincount(numbered.ravel())[1:]
            if sizes.max() > best_size:
                best, best_size = numbered == int(np.argmax(sizes)) + 1, int(sizes.max())
    if best is None:
        return None
    if rng.random() < 0.25:
        inside = np.argwhere(best)
        at = inside[int(rng.integers(len(inside)))]
    else:
        at = np.array(innermost_voxel(best, (1.0, 1.0, 1.0)))
    i, j, k = (int(n) for n in at + box.start_ijk)
    return (i, j, k), bool(target[i, j, k])
