"""The only file that flips axes: conversions between RAS (used everywhere inside) and LPS (DICOM, ITK, NRRD).

Both frames are in millimetres and share the patient; they differ by the sign of the first two axes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FLIP: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])


def points_lps_to_ras(points_lps_mm: ArrayLike) -> NDArray[np.float64]:
    """Turn points from LPS to RAS (the same function turns them back).

    Args:
        points_lps_mm: shape (..., 3), millimetres.

    Returns:
        Points of the same shape in RAS millimetres.
    """
    flipped: NDArray[np.float64] = np.asarray(points_lps_mm, dtype=np.float64) * np.array([-1.0, -1.0, 1.0])
    return flipped


def points_ras_to_lps(points_ras_mm: ArrayLike) -> NDArray[np.float64]:
    """Turn points of shape (..., 3) from RAS to LPS millimetres."""
    return points_lps_to_ras(points_ras_mm)


def affine_lps_to_ras(affine_ijk_to_lps_mm: ArrayLike) -> NDArray[np.float64]:
    """Turn a 4×4 ijk→LPS affine into the ijk→RAS affine of the same grid."""
    affine: NDArray[np.float64] = np.dot(_FLIP, np.asarray(affine_ijk_to_lps_mm, dtype=np.float64))
    return affine


def affine_ras_to_lps(affine_ijk_to_ras_mm: ArrayLike) -> NDArray[np.float64]:
    """Turn a 4×4 ijk→RAS affine into the ijk→LPS affine of the same grid."""
    return affine_lps_to_ras(affine_ijk_to_ras_mm)


def affine_from_itk(origin_lps_mm: ArrayLike, spacing_mm: ArrayLike, direction: ArrayLike) -> NDArray[np.float64]:
    """Build the ijk→RAS affine of an ITK image.

    Args:
        origin_lps_mm: position of voxel (0, 0, 0), shape (3,).
        spacing_mm: voxel size along i, j, k, shape (3,).
        direction: ITK direction matrix, shape (3, 3); column n is the unit vector of axis n in LPS.

    Returns:
        4×4 ijk→RAS affine in millimetres.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction, dtype=np.float64).reshape(3, 3) * np.asarray(spacing_mm, dtype=np.float64)
    affine[:3, 3] = np.asarray(origin_lps_mm, dtype=np.float64)
    return affine_lps_to_ras(affine)


def affine_to_itk(
    affine_ijk_to_ras_mm: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Split an ijk→RAS affine into ITK's origin (LPS mm), spacing (mm) and 3×3 direction matrix."""
    affine = affine_ras_to_lps(affine_ijk_to_ras_mm)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    return affine[:3, 3].copy(), spacing_mm, affine[:3, :3] / spacing_mm
