"""A coarse look at a scan's values: a few hundred thousand voxels of any scan, without what is no measurement.

Scanners and converters fill what they have not measured (outside the circle of reconstruction) with a constant such as
-1024, -2000, -2048 or -3024. It says nothing about the scale of the values, so it is left out: a lowest value that
many voxels share and that stands alone below all others.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume

SAMPLE_MM = 4.0
"""Every so many millimetres a voxel is looked at; finer in small scans."""

_FEWEST, _MOST = 40_000, 250_000
_FILL_SHARE = 0.002
_FILL_GAP_HU = 200.0
_HIGHEST_FILL_HU = -900.0
"""Nothing is filled in with the value of lung."""
_FILL_NEIGHBOURS = 0.1
_FILLS = 2
_BLURRED_FILL_HU = -1500.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VoxelSample:
    """Voxels of a scan, every few millimetres.

    Attributes:
        single: values of single voxels [in-plane, in-plane, slice].
        smooth: means of 2×2 neighbours in the slice, of the same shape: noise is halved, edges are not moved.
        measured: False where the scanner or a converter has filled in a constant.
        spacing_mm: between the voxels looked at, in the axes' order.
        size_mm: extent of the scan along the same axes.
    """

    single: NDArray[np.float32]
    smooth: NDArray[np.float32]
    measured: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]

    @property
    def values(self) -> NDArray[np.float32]:
        """The smoothed values that are measurements, flat."""
        return self.smooth[self.measured]


def sample_voxels(volume: Volume) -> VoxelSample:
    """Look at a scan every few millimetres.

    Args:
        volume: any scan; a memory map is read in part alone.
    """
    geometry = volume.geometry
    slice_axis = int(np.argmax(np.abs(geometry.affine_ijk_to_ras_mm[2, :3]) / np.asarray(geometry.spacing_mm)))
    image = np.moveaxis(volume.image_hu, slice_axis, 2)
    order = [axis for axis in range(3) if axis != slice_axis] + [slice_axis]
    a, b, c = (geometry.spacing_mm[axis] for axis in order)
    spacing_mm = (a, b, c)
    step = _steps(image.shape, spacing_mm)
    # The neighbours in the slice, as far as the scan has them; all four pictures have one shape.
    reach = [1 if n > 1 else 0 for n in image.shape[:2]]
    pictures = [
        image[i : image.shape[0] - reach[0] + i : step[0], j : image.shape[1] - reach[1] + j : step[1], :: step[2]]
        for i in range(reach[0] + 1)
        for j in range(reach[1] + 1)
    ]
    single = pictures[0].astype(np.float32)
    fills = _fill_values(single)
    measured = np.ones(single.shape, dtype=np.bool_)
    smooth = np.zeros(single.shape, dtype=np.float32)
    for picture in pictures:
        smooth += picture.astype(np.float32)
        for value in fills:
            measured &= picture != value
    smooth /= len(pictures)
    if not measured.any():
        measured[:] = True
    size_mm = (image.shape[0] * a, image.shape[1] * b, image.shape[2] * c)
    between = (a * step[0], b * step[1], c * step[2])
    return VoxelSample(single=single, smooth=smooth, measured=measured, spacing_mm=between, size_mm=size_mm)


def without_fill(sample: VoxelSample) -> VoxelSample:
    """The sample without what is far darker than air: a fill that noise, resampling or compression has blurred."""
    return dataclasses.replace(sample, measured=sample.measured & (sample.smooth > _BLURRED_FILL_HU))


def _steps(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[int, int, int]:
    """Every how many voxels one is looked at, along each axis."""
    wanted_mm = SAMPLE_MM
    while True:
        step = [max(1, int(wanted_mm / s)) for s in spacing_mm]
        count = np.prod([-(-n // s) for n, s in zip(shape, step, strict=True)])
        if count < _FEWEST and max(step) > 1:
            wanted_mm /= 1.5
        elif count > _MOST:
            wanted_mm *= 1.25
        else:
            return step[0], step[1], step[2]


def _fill_values(single: NDArray[np.float32]) -> list[float]:
    """The constants that were filled in, lowest first."""
    found: list[float] = []
    left = single.ravel()
    while len(found) < _FILLS:
        lowest = left.min()
        same = np.count_nonzero(left == lowest)
        above = np.count_nonzero(left <= lowest + _FILL_GAP_HU) - same
        if (
            lowest > _HIGHEST_FILL_HU
            or same < _FILL_SHARE * left.size
            or above > _FILL_NEIGHBOURS * same
            or same == left.size
        ):
            break
        found.append(float(lowest))
        left = left[left > lowest]
    return found
