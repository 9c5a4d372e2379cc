"""Distances between the surfaces of two masks, in millimetres.

A mask's surface is its voxels that have a background voxel at one of their six faces; distances run between the
centres of voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import GeometryError, InputError
from medai.geometry import IndexBox


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceDistance:
    """How far two surfaces lie apart.

    Attributes:
        mean_mm: average symmetric surface distance: over the voxels of both surfaces together.
        hausdorff95_mm: the larger of the two directed 95th percentiles.
        hausdorff_mm: the largest distance of either direction.
    """

    mean_mm: float
    hausdorff95_mm: float
    hausdorff_mm: float


def surface_distance(
    predicted: NDArray[np.bool_], target: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> SurfaceDistance:
    """Compare the surfaces of two masks on one grid.

    Args:
        predicted: bool.
        target: bool, same shape.
        spacing_mm: voxel size along each axis.

    Raises:
        GeometryError: the masks have different shapes.
        InputError: a mask is empty: it has no surface.
    """
    from scipy import ndimage

    if predicted.shape != target.shape:
        raise GeometryError(f"Masks of shapes {predicted.shape} and {target.shape} cannot be compared.")
    box = IndexBox.of_mask(predicted | target)
    if box is None or not np.any(predicted) or not np.any(target):
        raise InputError("An empty mask has no surface: report the missed nodule instead of a distance.")
    one, other = (_surface(mask[box.slices]) for mask in (predicted, target))
    there = ndimage.distance_transform_edt(~other, sampling=spacing_mm)[one]
    back = ndimage.distance_transform_edt(~one, sampling=spacing_mm)[other]
    return SurfaceDistance(
        mean_mm=float(np.concatenate([there, back]).mean()),
        hausdorff95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        hausdorff_mm=float(max(there.max(), back.max())),
    )


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask at its rim; the array's end counts as outside."""
    from scipy import ndimage

    padded = np.pad(mask, 1)
    inner = ndimage.binary_erosion(padded, ndimage.generate_binary_structure(3, 1))
    return np.asarray((padded & ~inner)[1:-1, 1:-1, 1:-1])
