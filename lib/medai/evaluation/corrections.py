"""How much of a proposal an annotator changed: what a proposal saved, and what a training should look at hardest.

Everything is computed in the box that holds both labels, so that a whole scan costs what its nodules cost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import LabelMap
from medai.domain.annotation import Correction
from medai.domain.crumbs import is_crumb
from medai.errors import GeometryError
from medai.evaluation.dice import dice
from medai.geometry import IndexBox, VolumeGeometry

_CORNERS = np.ones((3, 3, 3), dtype=bool)


def correction_of(submitted: LabelMap, proposal: LabelMap) -> Correction:
    """Compare a submitted label with the proposal it began from.

    Args:
        submitted: what the annotator accepted.
        proposal: what a model had drawn, on the same grid.

    Returns:
        Dice over all nodules together; the outline drawn anew, in mm (added path length of Vaassen et al. 2020,
        doi:10.1016/j.phro.2019.12.001: outline voxels of the submitted label that are not outline voxels of the
        proposal, slice by slice, times the mean side of a pixel); the change in volume, ml; nodules added and removed,
        crumbs of an edit or of a model left out.

    Raises:
        GeometryError: the two are on different grids.
    """
    submitted_labels, proposed_labels = in_common_box(submitted, proposal)
    ours, theirs = submitted_labels != 0, proposed_labels != 0
    axis = slice_axis(submitted.geometry)
    in_slice_mm = [side for index, side in enumerate(submitted.geometry.spacing_mm) if index != axis]
    added = outline(ours, axis) & ~outline(theirs, axis)
    changed = int(np.count_nonzero(ours)) - int(np.count_nonzero(theirs))
    return Correction(
        dice=dice(ours, theirs),
        added_path_length_mm=float(np.count_nonzero(added) * np.mean(in_slice_mm)),
        volume_change_ml=changed * submitted.geometry.voxel_volume_mm3 / 1000.0,
        nodules_added=_untouched(submitted_labels, theirs, submitted.geometry.voxel_volume_mm3),
        nodules_removed=_untouched(proposed_labels, ours, submitted.geometry.voxel_volume_mm3),
    )


def labels_dice(first: LabelMap, second: LabelMap) -> float:
    """Dice of two labels of one scan, all their nodules together, 0–1; 1 where both are empty.

    Raises:
        GeometryError: the two are on different grids.
    """
    one, other = in_common_box(first, second)
    return dice(one != 0, other != 0)


def in_common_box(first: LabelMap, second: LabelMap) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The voxels of two label maps in the smallest box that holds what is labelled in either; empty where nothing is.

    Raises:
        GeometryError: the two are on different grids.
    """
    if not first.geometry.is_same_grid(second.geometry):
        raise GeometryError(
            f"Two labels of one scan must share its grid; one is on {first.geometry.describe()}, the other on "
            f"{second.geometry.describe()}. Compare labels of the same scan."
        )
    boxes = [box for box in (IndexBox.of_mask(first.labels), IndexBox.of_mask(second.labels)) if box is not None]
    if not boxes:
        return first.labels[:0, :0, :0], second.labels[:0, :0, :0]
    union = boxes[0].union(boxes[-1])
    return first.labels[union.slices], second.labels[union.slices]


def slice_axis(geometry: VolumeGeometry) -> int:
    """The axis that an annotator leafs through: the one closest to head–foot."""
    return int(np.argmax(np.abs(geometry.directions_ras[2])))


def outline(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """The voxels of a mask that touch something else, or the border, inside their slice (sides, not corners).

    Args:
        mask: bool, indexed [i, j, k].
        axis: across the slices.
    """
    if mask.size == 0:
        return mask
    cross = ndimage.generate_binary_structure(3, 1)
    across = [slice(None)] * 3
    for neighbour in (0, 2):
        across[axis] = slice(neighbour, neighbour + 1)
        cross[tuple(across)] = False
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask, structure=cross, border_value=0)
    return mask & ~inner


def _untouched(labels: NDArray[np.generic], other: NDArray[np.bool_], voxel_volume_mm3: float) -> int:
    """Connected parts of each value that can be nodules and that no voxel of ``other`` lies in."""
    count = 0
    for value in np.unique(labels[labels != 0]):
        numbered, found = ndimage.label(labels == value, structure=_CORNERS)
        sizes = np.bincount(numbered.ravel(), minlength=found + 1)
        touched = np.bincount(numbered[other], minlength=found + 1)
        count += sum(not is_crumb(int(size), voxel_volume_mm3) for size in sizes[1:][touched[1:] == 0])
    return count
