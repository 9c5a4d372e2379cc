"""The coarse grid on which anatomy is evaluated, and its way to the scan's voxels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom.fields import Float, spline_matrix

COARSE_MM = 2.2
"""Ribs' cortical shells and fissures survive it because distances, not intensities, are interpolated."""

_MARGIN = 1.5
_CHUNK_PLANES = 6
THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoarseFields:
    """Named smooth fields on a coarse grid that lies along the scan's own axes.

    Attributes:
        names: of the fields, in the order of the first axis of ``values``.
        values: (field, k, i, j).
        geometry: of the coarse grid.
        to_fine: interpolation matrices along i, j, k.
    """

    names: tuple[str, ...]
    values: Float
    geometry: VolumeGeometry
    to_fine: tuple[sparse.csr_matrix, sparse.csr_matrix, sparse.csr_matrix]

    def field(self, name: str) -> Float:
        """One field, indexed [i, j, k] on the coarse grid (a view)."""
        return np.transpose(self.values[self.names.index(name)], (1, 2, 0))

    def plane(self, k: int) -> dict[str, Float]:
        """All fields on one slice of the scan, each indexed [j, i]."""
        planes = self._blend(k, self.values)
        to_i, to_j, _ = self.to_fine
        return {
            name: to_j @ np.ascontiguousarray((to_i @ plane).T) for name, plane in zip(self.names, planes, strict=True)
        }

    def plane_of(self, name: str, k: int) -> Float:
        """One field on one slice of the scan, indexed [j, i]."""
        coarse = self._blend(k, self.values[self.names.index(name)][None])[0]
        result: Float = self.to_fine[1] @ np.ascontiguousarray((self.to_fine[0] @ coarse).T)
        return result

    def box(self, name: str, box: IndexBox) -> Float:
        """One field in a box of the scan, indexed [i, j, k]."""
        values = self.values[self.names.index(name)][None]
        to_i, to_j = self.to_fine[0][box.slices[0]], self.to_fine[1][box.slices[1]]
        result = np.empty(box.shape_ijk, dtype=np.float32)
        for n, k in enumerate(range(box.start_ijk[2], box.stop_ijk[2])):
            result[:, :, n] = (to_j @ np.ascontiguousarray((to_i @ self._blend(k, values)[0]).T)).T
        return result

    def _blend(self, k: int, values: Float) -> Float:
        """All fields on the plane of one slice, still coarse in i and j."""
        row = self.to_fine[2].getrow(k)
        total: Float = np.zeros((values.shape[0], *values.shape[2:]), dtype=np.float32)
        for plane, weight in zip(row.indices, row.data, strict=True):
            total += weight * values[:, plane]
        return total


def coarse_geometry(fine: VolumeGeometry) -> VolumeGeometry:
    """The coarse grid that covers a fine one with the margin interpolation needs."""
    spacing = np.asarray(fine.spacing_mm)
    step = np.maximum(spacing, COARSE_MM)
    count = np.ceil((np.asarray(fine.shape_ijk) - 1) * spacing / step).astype(int) + 4
    affine = fine.affine_ijk_to_ras_mm.copy()
    affine[:3, :3] = fine.directions_ras * step
    affine[:3, 3] = fine.ijk_to_ras(-_MARGIN * step / spacing)
    return VolumeGeometry(shape_ijk=(int(count[0]), int(count[1]), int(count[2])), affine_ijk_to_ras_mm=affine)


def evaluate(
    fine: VolumeGeometry, names: tuple[str, ...], function: Callable[[Float, Float, Float], tuple[Float, ...]]
) -> CoarseFields:
    """Evaluate named fields over a scan's field of view.

    Args:
        fine: the scan's grid.
        names: of the fields.
        function: takes RAS x, y, z in mm (three arrays of one shape), returns one array for each name.
    """
    coarse = coarse_geometry(fine)
    count_i, count_j, count_k = coarse.shape_ijk
    values = np.empty((len(names), count_k, count_i, count_j), dtype=np.float32)
    affine = coarse.affine_ijk_to_ras_mm.astype(np.float32)
    i = np.arange(count_i, dtype=np.float32)[None, :, None]
    j = np.arange(count_j, dtype=np.float32)[None, None, :]

    def fill(first: int) -> None:
        last = min(first + _CHUNK_PLANES, count_k)
        k = np.arange(first, last, dtype=np.float32)[:, None, None]
        x, y, z = (row[0] * i + row[1] * j + row[2] * k + row[3] for row in affine[:3])
        for slot, field in enumerate(function(x, y, z)):
            values[slot, first:last] = field

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(0, count_k, _CHUNK_PLANES)))
    matrices = [
        spline_matrix(np.arange(n) * fine_mm / coarse_mm + _MARGIN, m)
        for n, fine_mm, coarse_mm, m in zip(
            fine.shape_ijk, fine.spacing_mm, coarse.spacing_mm, coarse.shape_ijk, strict=True
        )
    ]
    return CoarseFields(names=names, values=values, geometry=coarse, to_fine=(matrices[0], matrices[1], matrices[2]))


def make_distance(fields: CoarseFields, name: str) -> None:
    """Divide an implicit surface by its slope, in place, so that it is close to a distance near the surface."""
    values: NDArray[np.float32] = fields.values[fields.names.index(name)]
    si, sj, sk = fields.geometry.spacing_mm
    slope = np.zeros_like(values)
    for axis, step in enumerate((sk, si, sj)):
        slope += np.square(np.gradient(values, step, axis=axis))
    np.sqrt(slope, out=slope)
    values /= np.clip(slope, 0.6, 1.6)
