"""What a radiologist measures of an outlined nodule: axes in the axial plane, mean diameter, volume, attenuation type.

Pure functions of a mask, its grid and the Hounsfield units under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind
from medai.errors import InputError
from medai.geometry import VolumeGeometry

SOLID_ABOVE_HU = -300.0
"""A voxel from here on is solid: at −300 HU a solid component was found with 90 % sensitivity and 88 % specificity
against two radiologists (Scholten et al., Eur Radiol 2015;25:488–496, doi 10.1007/s00330-014-3427-z)."""
NON_SOLID_BELOW_FRACTION = 0.10
"""With less of the core solid there is no solid component. The best cut published for −300 HU is 6.1 % of the volume
("Threshold segmentation of pulmonary subsolid nodules on CT images", 102 nodules, Chinese Journal of Lung Cancer);
vessels that cross ground glass add a few per cent in the LIDC-IDRI nodules that readers call non-solid."""
SOLID_FROM_FRACTION = 0.6
"""With more of the core solid the nodule is solid; chosen on the readers' texture ratings of LIDC-IDRI."""
RIM_MM = 1.0
"""Partial volume at the border reaches about one in-plane voxel: it says nothing of the nodule's kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxialSize:
    """Axes of a nodule in the axial slice where it is largest.

    Attributes:
        long_axis_mm: greatest extent.
        short_axis_mm: greatest extent at right angles to the long axis.
        slice_index: index of that slice along the slice axis of the mask's array.
    """

    long_axis_mm: float
    short_axis_mm: float
    slice_index: int

    @property
    def mean_diameter_mm(self) -> float:
        """Mean of both axes to 0.1 mm, as Fleischner 2017 and Lung-RADS v2022 measure."""
        return round((self.long_axis_mm + self.short_axis_mm) / 2, 1)


def volume_mm3(mask: NDArray[np.bool_], geometry: VolumeGeometry) -> float:
    """Voxels inside times voxel volume, cubic millimetres."""
    return float(np.count_nonzero(mask)) * geometry.voxel_volume_mm3


def slice_axis(geometry: VolumeGeometry) -> int:
    """The array axis that runs most nearly from feet to head: slices across it are axial."""
    return int(np.argmax(np.abs(geometry.directions_ras[2])))


def axial_size(mask: NDArray[np.bool_], geometry: VolumeGeometry) -> AxialSize:
    """Measure long and short axis in the axial slice with the largest area.

    The outline runs half way between the voxels inside and outside: the mean diameter of a ball comes out within half a
    voxel (0.0–0.5 mm above, measured on balls of 4–30 mm at in-plane spacings of 0.6–0.85 mm).

    Args:
        mask: bool, indexed [i, j, k]; a box of the scan is enough.
        geometry: grid of the scan or the box; only axes and spacing are used.

    Returns:
        The axes.

    Raises:
        InputError: the mask is empty.
    """
    axis = slice_axis(geometry)
    areas = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
    if not areas.any():
        raise InputError("An empty mask has no size: outline the nodule first.")
    index = int(np.argmax(areas))
    in_plane_mm = [s for a, s in enumerate(geometry.spacing_mm) if a != axis]
    outline = _outline(np.take(mask, index, axis=axis)) * np.asarray(in_plane_mm)
    hull = _convex_hull(outline)
    distances = np.linalg.norm(hull[:, None] - hull[None], axis=-1)
    first, second = np.unravel_index(int(np.argmax(distances)), distances.shape)
    long_axis_mm = float(distances[first, second])
    along = (hull[second] - hull[first]) / long_axis_mm
    return AxialSize(
        long_axis_mm=long_axis_mm,
        short_axis_mm=_longest_chord(hull @ along, hull @ np.array([-along[1], along[0]])),
        slice_index=index,
    )


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Points half way between neighbours inside and outside, in voxels, shape (n, 2)."""
    padded = np.pad(mask, 1)
    rows = np.argwhere(padded[1:] != padded[:-1]) + np.array([0.5, 0.0])
    columns = np.argwhere(padded[:, 1:] != padded[:, :-1]) + np.array([0.0, 0.5])
    return np.asarray(np.concatenate([rows, columns]) - 1.0)


def _convex_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of the convex hull in order (Andrew's monotone chain), shape (n, 2)."""

    def half(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for x, y in ordered:
            while len(chain) > 1:
                (x_0, y_0), (x_1, y_1) = chain[-2:]
                if (x_1 - x_0) * (y - y_0) - (y_1 - y_0) * (x - x_0) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    ordered = sorted({(float(x), float(y)) for x, y in points})
    return np.array(half(ordered) + half(ordered[::-1]))


def _longest_chord(along: NDArray[np.float64], across: NDArray[np.float64]) -> float:
    """Longest line inside a convex outline at right angles to the first coordinate; corners are in hull order."""
    upper, lower = np.full(along.shape, -np.inf), np.full(along.shape, np.inf)
    for begin in range(along.size):
        end = (begin + 1) % along.size
        left, right = sorted((begin, end), key=lambda n: along[n])
        covered = (along >= along[left]) & (along <= along[right])
        if math.isclose(along[left], along[right], abs_tol=1e-9):
            ends = across[[left, right]]
            upper[covered] = np.maximum(upper[covered], ends.max())
            lower[covered] = np.minimum(lower[covered], ends.min())
            continue
        edge = np.interp(along[covered], along[[left, right]], across[[left, right]])
        upper[covered] = np.maximum(upper[covered], edge)
        lower[covered] = np.minimum(lower[covered], edge)
    return float(np.max(upper - lower))


def attenuation_kind(image_hu: NDArray[np.generic], mask: NDArray[np.bool_], geometry: VolumeGeometry) -> NoduleKind:
    """Tell solid, part-solid and non-solid nodules apart by the share of solid voxels in the nodule's core.

    The core is the mask without the rim of partial volume; where a small nodule is all rim, its brightest third.

    Args:
        image_hu: Hounsfield units under the mask, same shape.
        mask: bool, indexed [i, j, k].
        geometry: grid of the scan or the box; only spacing is used.

    Returns:
        The kind.

    Raises:
        InputError: the mask is empty.
    """
    if not mask.any():
        raise InputError("An empty mask has no attenuation type: outline the nodule first.")
    inside_hu = np.asarray(image_hu)[mask].astype(np.float64)
    depth_mm = _depth_mm(mask, geometry.spacing_mm)[mask]
    core = depth_mm > RIM_MM
    if core.sum() >= max(8.0, 0.1 * inside_hu.size):
        solid = float(np.mean(inside_hu[core] >= SOLID_ABOVE_HU))
    else:
        brightest = np.sort(inside_hu)[-max(1, inside_hu.size // 3) :]
        solid = float(np.mean(brightest >= SOLID_ABOVE_HU))
    if solid >= SOLID_FROM_FRACTION:
        return NoduleKind.SOLID
    return NoduleKind.PART_SOLID if solid >= NON_SOLID_BELOW_FRACTION else NoduleKind.NON_SOLID


def _depth_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Distance of each voxel inside to the nearest one outside, less half an in-plane voxel: to the outline."""
    from scipy import ndimage

    padded = np.pad(mask, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=spacing_mm)
    return np.asarray(depth[1:-1, 1:-1, 1:-1] - 0.5 * min(spacing_mm))
