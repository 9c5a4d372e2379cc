"""Draws thousands of short tapered tubes into a volume of voxel shares, a batch at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.geometry import VolumeGeometry
from medai.phantom.trees import Pieces

FULL = 255
"""Value of a voxel that a tube fills; shares are stored as bytes."""

_BATCH_POINTS = 1_000_000


def draw_tubes(share_kji: NDArray[np.uint8], pieces: Pieces, geometry: VolumeGeometry) -> None:
    """Raise each voxel to the share of it that the fullest tube covers.

    A tube thinner than a voxel is drawn as wide as a voxel and as much fainter, which is what a scanner shows.

    Args:
        share_kji: C-ordered bytes indexed [k, j, i], changed in place.
        pieces: tubes in RAS millimetres.
        geometry: grid of ``share_kji``.
    """
    spacing = np.asarray(geometry.spacing_mm)
    start_mm, stop_mm = (geometry.ras_to_ijk(p) * spacing for p in (pieces.start_mm, pieces.stop_mm))
    width = float(np.prod(spacing) ** (1 / 3))
    reach = (pieces.radius_mm.max(axis=1) + 0.87 * float(spacing.max()))[:, None]
    low = np.ceil((np.minimum(start_mm, stop_mm) - reach) / spacing).astype(int)
    high = np.floor((np.maximum(start_mm, stop_mm) + reach) / spacing).astype(int) + 1
    shape = np.asarray(geometry.shape_ijk)
    inside = np.all((high > 0) & (low < shape) & (high > low), axis=1)
    size = np.maximum(high - low, 1)
    # Pieces of like size share a batch: round sizes up to steps of two voxels (small) or an eighth (large).
    step = 2 ** np.maximum(1, np.log2(size).astype(int) - 2)
    size = -(-size // step) * step
    flat = share_kji.reshape(-1)
    for box in np.unique(size[inside], axis=0):
        chosen = np.flatnonzero(inside & np.all(size == box, axis=1))
        per_batch = max(1, _BATCH_POINTS // int(np.prod(box)))
        for first in range(0, len(chosen), per_batch):
            which = chosen[first : first + per_batch]
            _draw_batch(
                flat, shape, spacing, width, low[which], box, start_mm[which], stop_mm[which], pieces.radius_mm[which]
            )


def _draw_batch(
    flat: NDArray[np.uint8],
    shape: NDArray[np.int_],
    spacing: NDArray[np.float64],
    width: float,
    low: NDArray[np.int_],
    box: NDArray[np.int_],
    start_mm: NDArray[np.float64],
    stop_mm: NDArray[np.float64],
    radius_mm: NDArray[np.float32],
) -> None:
    """Draw tubes whose boxes all have the same size."""
    index = [(low[:, axis, None] + np.arange(box[axis])) for axis in range(3)]
    position = [(index[axis] * spacing[axis] - start_mm[:, axis, None]).astype(np.float32) for axis in range(3)]
    i, j, k = position[0][:, None, None, :], position[1][:, None, :, None], position[2][:, :, None, None]
    along = (stop_mm - start_mm).astype(np.float32)
    a, b, c = (along[:, axis, None, None, None] for axis in range(3))
    t = np.clip((i * a + j * b + k * c) / (a * a + b * b + c * c + 1e-6), 0, 1)
    distance = np.sqrt((i - t * a) ** 2 + (j - t * b) ** 2 + (k - t * c) ** 2)
    r0, r1 = (radius_mm[:, end, None, None, None] for end in range(2))
    radius = r0 + (r1 - r0) * t
    # A linear edge one voxel wide puts width²/3 · π into a cross-section of no radius: scale thin tubes by that.
    drawn = np.maximum(radius, 0.5 * width)
    share = np.clip((drawn - distance) / width + 0.5, 0, 1) * np.minimum(1, 3 * np.square(radius / width))
    value = (share * FULL + 0.5).astype(np.uint8)
    ok = [(index[axis] >= 0) & (index[axis] < shape[axis]) for axis in range(3)]
    value *= ok[0][:, None, None, :] & ok[1][:, None, :, None] & ok[2][:, :, None, None]
    hit = np.flatnonzero(value)
    place = (index[2][:, :, None, None] * shape[1] + index[1][:, None, :, None]) * shape[0] + index[0][:, None, None, :]
    np.maximum.at(flat, place.reshape(-1)[hit], value.reshape(-1)[hit])
