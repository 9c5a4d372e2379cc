"""The grid of a scan: how many voxels, and where each one lies in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medai.errors import GeometryError
from medai.geometry.boxes import IndexBox

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes that still counts as a right angle (NIfTI sforms are stored in float32)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeGeometry:
    """Shape and ijk→RAS affine of a volume.

    Attributes:
        shape_ijk: number of voxels along i, j, k; all positive.
        affine_ijk_to_ras_mm: 4×4 float64, maps voxel centres to RAS millimetres (nibabel's convention). Axes are at
            right angles to each other but may be oblique to the patient or flipped.
    """

    shape_ijk: tuple[int, int, int]
    affine_ijk_to_ras_mm: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine_ijk_to_ras_mm, dtype=np.float64)
        if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
            raise GeometryError(f"An affine must be 4×4 and finite, this one is {affine.tolist()}.")
        if len(self.shape_ijk) != 3 or min(self.shape_ijk) < 1:
            raise GeometryError(f"A volume has three axes of at least one voxel, this one has shape {self.shape_ijk}.")
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        if np.min(spacing_mm) <= 0:
            raise GeometryError(f"Voxel spacing must be positive, this volume has {spacing_mm.tolist()} mm.")
        directions = affine[:3, :3] / spacing_mm
        if np.max(np.abs(directions.T @ directions - np.eye(3))) > SHEAR_TOLERANCE:
            raise GeometryError(
                "The axes of this volume are not at right angles (gantry tilt or a sheared affine): "
                f"{directions.round(4).tolist()}. Correct the tilt first: medai import does."
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine_ijk_to_ras_mm", affine)
        object.__setattr__(self, "shape_ijk", tuple(int(n) for n in self.shape_ijk))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j, k in millimetres."""
        i, j, k = np.linalg.norm(self.affine_ijk_to_ras_mm[:3, :3], axis=0)
        return (float(i), float(j), float(k))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(np.prod(self.spacing_mm))

    @property
    def origin_ras_mm(self) -> NDArray[np.float64]:
        """Centre of voxel (0, 0, 0), RAS millimetres."""
        return self.affine_ijk_to_ras_mm[:3, 3].copy()

    @property
    def directions_ras(self) -> NDArray[np.float64]:
        """3×3, column n is the unit vector of axis n in RAS."""
        directions: NDArray[np.float64] = self.affine_ijk_to_ras_mm[:3, :3] / np.asarray(self.spacing_mm)
        return directions

    def ijk_to_ras(self, points_ijk: ArrayLike) -> NDArray[np.float64]:
        """Map voxel coordinates (shape (..., 3), may be fractional) to RAS millimetres."""
        affine = self.affine_ijk_to_ras_mm
        points: NDArray[np.float64] = np.asarray(points_ijk, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]
        return points

    def ras_to_ijk(self, points_ras_mm: ArrayLike) -> NDArray[np.float64]:
        """Map RAS millimetres (shape (..., 3)) to fractional voxel coordinates."""
        inverse = np.linalg.inv(self.affine_ijk_to_ras_mm)
        points: NDArray[np.float64] = np.asarray(points_ras_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        return points

    def contains(self, index_ijk: ArrayLike) -> bool:
        """True where the voxel index lies inside the volume."""
        return IndexBox.of_shape(self.shape_ijk).contains(index_ijk)

    def crop(self, box: IndexBox) -> VolumeGeometry:
        """The grid of a box of this volume; the box may reach outside."""
        affine = self.affine_ijk_to_ras_mm.copy()
        affine[:3, 3] = self.ijk_to_ras(box.start_ijk)
        return VolumeGeometry(shape_ijk=box.shape_ijk, affine_ijk_to_ras_mm=affine)

    @property
    def is_left_handed(self) -> bool:
        """True where the axes i, j, k form a left-handed system (a mirrored file such as a LAS NIfTI)."""
        return bool(np.linalg.det(self.affine_ijk_to_ras_mm[:3, :3]) < 0)

    def with_axis_reversed(self, axis: int) -> VolumeGeometry:
        """The same voxels counted from the other end of one axis; goes with ``numpy.flip`` of the array."""
        affine = self.affine_ijk_to_ras_mm.copy()
        affine[:3, 3] += affine[:3, axis] * (self.shape_ijk[axis] - 1)
        affine[:3, axis] *= -1
        return VolumeGeometry(shape_ijk=self.shape_ijk, affine_ijk_to_ras_mm=affine)

    def resampled(self, spacing_mm: Sequence[float]) -> VolumeGeometry:
        """The grid with the same axes and outer faces at another spacing, covering at least the same extent."""
        old = np.asarray(self.spacing_mm)
        new = np.asarray(spacing_mm, dtype=np.float64)
        shape = np.maximum(1, np.ceil(np.asarray(self.shape_ijk) * old / new - 1e-6)).astype(int)
        affine = self.affine_ijk_to_ras_mm.copy()
        affine[:3, :3] = self.directions_ras * new
        affine[:3, 3] = self.ijk_to_ras(-0.5 + 0.5 * new / old)
        return VolumeGeometry(shape_ijk=(int(shape[0]), int(shape[1]), int(shape[2])), affine_ijk_to_ras_mm=affine)

    def is_same_grid(self, other: VolumeGeometry, tolerance_voxels: float = 0.05) -> bool:
        """True where both have the same shape and no voxel centre differs by more than ``tolerance_voxels``.

        Corners are compared, so that a rounding of the direction cosines in a file header is tolerated by its effect
        on the patient and not by its digits.
        """
        if self.shape_ijk != other.shape_ijk:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape_ijk])).reshape(3, -1).T
        off_ijk = other.ras_to_ijk(self.ijk_to_ras(corners)) - corners
        return bool(np.max(np.abs(off_ijk)) <= tolerance_voxels)

    def describe(self) -> str:
        """Shape, spacing and origin in words, for messages."""
        shape = "×".join(str(n) for n in self.shape_ijk)
        spacing = "×".join(f"{s:.3g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.1f}" for o in self.origin_ras_mm)
        return f"{shape} voxels of {spacing} mm, first voxel at RAS ({origin})"
