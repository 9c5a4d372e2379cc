"""Patches: the part of a scan around a point at a fixed spacing, and answers back on the scan's own grid.

A click must be answered in a fraction of a second on a scan of any size, so nothing here touches more of the scan than
the patch covers. A patch keeps the scan's own axes, reordered and flipped to the ones nearest
right-anterior-superior: the same anatomy gives the same patch however the file stores it. Since axes stay parallel,
resampling is three small matrix products (linear interpolation; averaged over a window where the patch is coarser than
the scan, against aliasing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.geometry import IndexBox, VolumeGeometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchGrid:
    """Where a patch lies in a scan. Build it with ``PatchGrid.around``.

    Attributes:
        geometry: the scan's grid.
        shape: patch voxels along the patch's axes (right, anterior, superior or nearest to them).
        spacing_mm: the patch's isotropic spacing.
        scan_axes: for each patch axis the scan axis it runs along.
        step_voxels: for each patch axis the scan voxels per patch voxel, negative where the scan axis points the other
            way.
        first_voxel: for each patch axis the scan coordinate of patch voxel 0.
    """

    geometry: VolumeGeometry
    shape: tuple[int, int, int]
    spacing_mm: float
    scan_axes: tuple[int, int, int]
    step_voxels: tuple[float, float, float]
    first_voxel: tuple[float, float, float]

    @classmethod
    def around(
        cls, geometry: VolumeGeometry, centre_ijk: Sequence[float], *, shape: tuple[int, int, int], spacing_mm: float
    ) -> PatchGrid:
        """The patch whose middle lies at a point of the scan.

        Args:
            geometry: the scan's grid.
            centre_ijk: voxel coordinates in the scan, may be fractional.
            shape: patch voxels along each axis.
            spacing_mm: isotropic patch spacing.
        """
        axes, signs = _nearest_ras_axes(geometry.directions_ras)
        steps = [sign * spacing_mm / geometry.spacing_mm[axis] for axis, sign in zip(axes, signs, strict=True)]
        first = [float(centre_ijk[axis]) - step * (n - 1) / 2 for axis, step, n in zip(axes, steps, shape, strict=True)]
        return cls(
            geometry=geometry,
            shape=shape,
            spacing_mm=float(spacing_mm),
            scan_axes=axes,
            step_voxels=(steps[0], steps[1], steps[2]),
            first_voxel=(first[0], first[1], first[2]),
        )

    def to_patch(self, points_ijk: NDArray[np.float64] | Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """Map scan voxel coordinates, shape (n, 3), to patch voxel coordinates."""
        points = np.asarray(points_ijk, dtype=np.float64).reshape(-1, 3)
        return (points[:, list(self.scan_axes)] - self.first_voxel) / self.step_voxels

    def to_scan(self, points: NDArray[np.float64] | Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """Map patch voxel coordinates, shape (n, 3), to scan voxel coordinates."""
        found = np.asarray(points, dtype=np.float64).reshape(-1, 3) * self.step_voxels + self.first_voxel
        scan = np.empty_like(found)
        scan[:, list(self.scan_axes)] = found
        return scan

    @property
    def box(self) -> IndexBox:
        """The scan voxels whose centres lie within half a patch voxel of the patch, inside the scan; may be empty."""
        corners = self.to_scan([(-0.5, -0.5, -0.5), tuple(n - 0.5 for n in self.shape)])
        low, high = np.ceil(corners.min(axis=0)).astype(int), np.floor(corners.max(axis=0)).astype(int) + 1
        high = np.maximum(high, low)
        start, stop = [int(n) for n in low], [int(n) for n in high]
        box = IndexBox(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))
        return box.clip(self.geometry.shape_ijk)

    @property
    def read_box(self) -> IndexBox:
        """The scan voxels that ``extract`` reads, inside the scan."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for axis, read in enumerate(self._axes_read(self.geometry.shape_ijk)):
            start[axis], stop[axis] = read[0].start, read[0].stop
        return IndexBox(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))

    def extract(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Resample the scan onto the patch. Beyond the scan its outermost voxels are repeated.

        Args:
            image: the scan, shape ``geometry.shape_ijk``; only the region the patch needs is read.

        Returns:
            float32, shape ``shape``, along the patch's axes.
        """
        read = self._axes_read(image.shape)
        region = np.asarray(image[tuple(slices for slices, _ in read)], dtype=np.float32)
        return np.ascontiguousarray(_apply(region, [weights for _, weights in read]).transpose(self.scan_axes))

    def inside(self) -> NDArray[np.bool_]:
        """Where the patch lies inside the scan, up to half a voxel beyond its outermost centres; patch shape."""
        rows = []
        for axis, step, first, n in zip(self.scan_axes, self.step_voxels, self.first_voxel, self.shape, strict=True):
            at = first + step * np.arange(n)
            rows.append((at >= -0.5) & (at <= self.geometry.shape_ijk[axis] - 0.5))
        return np.asarray(rows[0][:, None, None] & rows[1][None, :, None] & rows[2][None, None, :])

    def restore(self, patch: NDArray[np.float32]) -> tuple[IndexBox, NDArray[np.float32]]:
        """Interpolate patch values linearly at the scan's voxel centres.

        Args:
            patch: shape ``shape``, along the patch's axes.

        Returns:
            The box of the scan that the patch covers and the values there, float32, shape ``box.shape_ijk``.
        """
        box = self.box
        if box.is_empty:
            return box, np.zeros(box.shape_ijk, dtype=np.float32)
        weights: list[NDArray[np.float32]] = []
        for axis, step, first, n in zip(self.scan_axes, self.step_voxels, self.first_voxel, self.shape, strict=True):
            at = (np.arange(box.start_ijk[axis], box.stop_ijk[axis]) - first) / step
            kept, axis_weights = _axis_weights(at, 0.0, n)
            full = np.zeros((at.size, n), dtype=np.float32)
            full[:, kept] = axis_weights
            weights.append(full)
        values = _apply(np.asarray(patch, dtype=np.float32), weights)
        return box, np.ascontiguousarray(values.transpose(np.argsort(self.scan_axes)))

    def _axes_read(self, shape_ijk: Sequence[int]) -> list[tuple[slice, NDArray[np.float32]]]:
        """For each scan axis the voxels that the patch needs and their weights in each of its samples."""
        read: list[tuple[slice, NDArray[np.float32]]] = [(slice(0, 0), np.empty(0, np.float32))] * 3
        for axis, step, first, n in zip(self.scan_axes, self.step_voxels, self.first_voxel, self.shape, strict=True):
            read[axis] = _axis_weights(first + step * np.arange(n), abs(step), shape_ijk[axis])
        return read


def _nearest_ras_axes(directions_ras: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For right, anterior, superior: the scan axis most parallel to it and the sign of that axis along it."""
    cosines = np.abs(directions_ras).copy()
    axes, signs = [0, 0, 0], [1, 1, 1]
    for _ in range(3):
        world, axis = (int(n) for n in np.unravel_index(int(np.argmax(cosines)), (3, 3)))
        axes[world], signs[world] = axis, 1 if directions_ras[world, axis] >= 0 else -1
        cosines[world, :] = -1.0
        cosines[:, axis] = -1.0
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def _axis_weights(at: NDArray[np.float64], step: float, length: int) -> tuple[slice, NDArray[np.float32]]:
    """Weights along one axis: linear interpolation, averaged over a window where samples lie more than a voxel apart.

    Args:
        at: where to sample, in source voxels; beyond the ends the outermost voxel is repeated.
        step: distance of the samples in source voxels.
        length: source voxels along the axis.

    Returns:
        The slice of source voxels that take part, and weights of shape (samples, voxels in the slice); rows sum to 1
        and reproduce a linear ramp.
    """
    window = np.sqrt(max(0.0, step**2 - 1.0))
    index = np.arange(int(np.floor(at.min() - window / 2)), int(np.ceil(at.max() + window / 2)) + 1)
    off = at[:, None] - index[None, :]
    if window > 1e-3:
        weights = (_hat_integral(off + window / 2) - _hat_integral(off - window / 2)) / window
    else:
        weights = np.maximum(0.0, 1.0 - np.abs(off))
    kept = np.clip(index, 0, length - 1)
    start, stop = int(kept[0]), int(kept[-1]) + 1
    folded = np.zeros((at.size, stop - start))
    np.add.at(folded.T, kept - start, weights.T)
    return slice(start, stop), folded.astype(np.float32)


def _hat_integral(end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the triangle over -1…1 of height 1 up to ``end``."""
    end = np.clip(end, -1.0, 1.0)
    return np.where(end < 0, 0.5 * (1.0 + end) ** 2, 1.0 - 0.5 * (1.0 - end) ** 2)


def _apply(values: NDArray[np.float32], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Multiply each axis of a volume by its weights, the axis that shrinks most first."""
    if values.flags.f_contiguous and not values.flags.c_contiguous:
        return _apply(values.T, weights[::-1]).T  # as it lies in memory, so that nothing is copied into another order
    order = sorted(range(3), key=lambda axis: weights[axis].shape[0] / max(1, weights[axis].shape[1]))
    for axis in order:
        if axis == 2:
            values = values @ weights[2].T
        elif axis == 1:
            values = weights[1] @ values
        else:
            values = (weights[0] @ values.reshape(values.shape[0], -1)).reshape(-1, *values.shape[1:])
    return values
