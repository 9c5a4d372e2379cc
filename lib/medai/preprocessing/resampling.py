"""Resampling between grids that share their axes: to a coarser or isotropic copy of a scan and back.

Lungs and candidates are found on copies of 1–3 mm, which are many times smaller than the scan. Because such a copy
keeps the scan's axes (only spacing and origin change), three small matrix products do the work of a general resampler
at the speed of BLAS, whatever the memory layout of the scan and without ever holding it in float32 whole. A new sample
depends on a few old ones, so that the matrices are nearly all zero: they are multiplied in bands, a few rows with the
columns that these use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry

_CHUNK_VOXELS = 1 << 20
"""Voxels turned to float32 at a time: 4 MB stay in a core's cache."""
_BAND_ROWS = 16
"""Rows of a weight matrix that are multiplied at once: fewer multiply fewer zeros, more keep BLAS busy."""

_Band = tuple[slice, slice, NDArray[np.float32]]


def axis_weights(
    size_in: int, size_out: int, *, first_index: float, step: float, antialias: bool = True
) -> NDArray[np.float32]:
    """Interpolation weights along one axis.

    Linear interpolation where the new samples are closer together than the old ones; a triangle as wide as the new
    spacing where they are further apart, so that noise is averaged and thin structures do not alias. Samples outside
    the old axis take its border value.

    Args:
        size_in: number of old samples.
        size_out: number of new samples.
        first_index: position of the first new sample on the old axis, in old samples.
        step: distance of new samples, in old samples; positive.
        antialias: False for plain linear interpolation at any step.

    Returns:
        Weights of shape (size_out, size_in); every row sums to 1.
    """
    positions = np.clip(first_index + step * np.arange(size_out), 0, size_in - 1)
    width = max(1.0, step) if antialias else 1.0
    distance = np.abs(positions[:, None] - np.arange(size_in)[None, :])
    weights = np.clip(1 - distance / width, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def resample_to_grid(
    image: NDArray[np.generic], source: VolumeGeometry, target: VolumeGeometry, *, antialias: bool = True
) -> NDArray[np.float32]:
    """Bring an image onto another grid with the same axes.

    Args:
        image: indexed [i, j, k], shape ``source.shape_ijk``, any real type; may be a memory map.
        source: the image's grid.
        target: the wanted grid; same directions as ``source``, any spacing, origin and shape.
        antialias: see ``axis_weights``.

    Returns:
        float32, shape ``target.shape_ijk``, in memory in the order of the image's axes. Outside the source the border
        value is repeated.

    Raises:
        GeometryError: the axes of the two grids point in different directions.
    """
    if np.max(np.abs(source.directions_ras - target.directions_ras)) > 1e-3:
        raise GeometryError(
            "Fast resampling keeps the axes of a scan, these grids are turned against each other: "
            f"{source.directions_ras.round(3).tolist()} and {target.directions_ras.round(3).tolist()}."
        )
    first_ijk = source.ras_to_ijk(target.origin_ras_mm)
    step_ijk = np.asarray(target.spacing_mm) / np.asarray(source.spacing_mm)
    weights = [
        axis_weights(
            source.shape_ijk[axis],
            target.shape_ijk[axis],
            first_index=float(first_ijk[axis]),
            step=float(step_ijk[axis]),
            antialias=antialias,
        )
        for axis in range(3)
    ]
    # Slowest axis first, so that a chunk is contiguous in memory and one pass over the scan is enough.
    order = sorted(range(3), key=lambda axis: -abs(image.strides[axis]))
    result = _separable(image.transpose(order), [weights[axis] for axis in order])
    return result.transpose(np.argsort(order))


def _separable(image: NDArray[np.generic], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Apply one weight matrix along each axis; the first axis last, the others chunk by chunk."""
    used = [np.flatnonzero(w.any(axis=0)) for w in weights]
    box = [slice(int(u[0]), int(u[-1]) + 1) for u in used]
    region = image[tuple(box)]
    bands_0, bands_1, bands_2 = (_bands(w[:, b]) for w, b in zip(weights, box, strict=True))
    size_0, size_1, size_2 = (w.shape[0] for w in weights)
    in_plane = np.empty((region.shape[0], size_1, size_2), dtype=np.float32)
    step = max(1, _CHUNK_VOXELS // (region.shape[1] * region.shape[2]))
    for begin in range(0, region.shape[0], step):
        chunk = region[begin : begin + step].astype(np.float32)
        rows = np.empty((*chunk.shape[:2], size_2), dtype=np.float32)
        for new, old, band in bands_2:
            np.matmul(chunk[..., old], band.T, out=rows[..., new])
        for new, old, band in bands_1:
            np.matmul(band, rows[:, old], out=in_plane[begin : begin + step, new])
    flat = in_plane.reshape(in_plane.shape[0], -1)
    result = np.empty((size_0, flat.shape[1]), dtype=np.float32)
    for new, old, band in bands_0:
        np.matmul(band, flat[old], out=result[new])
    return result.reshape(size_0, size_1, size_2)


def _bands(weights: NDArray[np.float32]) -> list[_Band]:
    """Cut a weight matrix into bands of rows: the rows, the columns they use, and the weights there."""
    bands: list[_Band] = []
    for begin in range(0, weights.shape[0], _BAND_ROWS):
        rows = weights[begin : begin + _BAND_ROWS]
        used = np.flatnonzero(rows.any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(begin, begin + rows.shape[0]), columns, np.ascontiguousarray(rows[:, columns])))
    return bands


def coarse_geometry(geometry: VolumeGeometry, spacing_mm: float) -> VolumeGeometry:
    """The grid of a working copy: ``spacing_mm`` along each axis, or the scan's own spacing where that is coarser."""
    return geometry.resampled([max(spacing_mm, s) for s in geometry.spacing_mm])


def resample_region(volume: Volume, box: IndexBox, spacing_mm: Sequence[float]) -> Volume:
    """A region of a scan at another spacing.

    Args:
        volume: the scan.
        box: the region in the scan's index space; clipped to the scan.
        spacing_mm: wanted spacing along i, j, k.

    Returns:
        float32 volume that covers the box.
    """
    target = volume.geometry.crop(box.clip(volume.geometry.shape_ijk)).resampled(spacing_mm)
    image = resample_to_grid(volume.image_hu, volume.geometry, target)
    return Volume(geometry=target, image_hu=image, case_id=volume.case_id, header=volume.header)
