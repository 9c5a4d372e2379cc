"""Tiny chest scans with known nodules on axial, oblique and flipped grids, and grids at random.

The anatomy is defined in the patient (RAS) and sampled on whatever grid is asked for: a mistake of an axis or a sign
anywhere moves a nodule out of its place. Files are written here with nibabel, pynrrd and itk directly, so that the
product's own writers are not what proves its readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.geometry.frames import affine_ras_to_lps, affine_to_itk

SCAN_SHAPE_IJK = (96, 90, 60)
SCAN_SPACING_MM = (2.0, 2.1, 3.0)
BODY_CENTRE_RAS_MM = np.array([4.0, -21.0, -133.0])
GRID_NAMES = ("axial", "oblique", "flipped")
"""Grids that 3D Slicer keeps as they are; "mirrored" is the fourth, left-handed one."""

AIR_HU, LUNG_HU, TISSUE_HU, NODULE_HU = -1000.0, -860.0, 40.0, 20.0
NOISE_HU = 12.0
LUNG_SEMI_AXES_MM = (32.0, 50.0, 74.0)
LUNG_OFFSET_MM = 41.0
BODY_SEMI_AXES_MM = (88.0, 72.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticNodule:
    """A ball of tissue in a lung: its centre, its size and the voxels whose centre it covers."""

    centre_ras_mm: NDArray[np.float64]
    diameter_mm: float
    side: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticScan:
    """A scan and what is in it. ``lungs`` is 1 in the right lung, 2 in the left one."""

    volume: Volume
    nodules: tuple[SyntheticNodule, ...]
    lungs: NDArray[np.uint8]

    @property
    def geometry(self) -> VolumeGeometry:
        """The scan's grid."""
        return self.volume.geometry


def rotation(degrees_xyz: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation about the patient's x, then y, then z axis."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("xyz", degrees_xyz, degrees=True).as_matrix())


def centred_geometry(
    directions_ras: NDArray[np.float64],
    *,
    shape_ijk: tuple[int, int, int] = SCAN_SHAPE_IJK,
    spacing_mm: tuple[float, float, float] = SCAN_SPACING_MM,
    centre_ras_mm: NDArray[np.float64] = BODY_CENTRE_RAS_MM,
) -> VolumeGeometry:
    """A grid with these axes (columns) whose middle lies at ``centre_ras_mm``."""
    affine = np.eye(4)
    affine[:3, :3] = directions_ras * np.array(spacing_mm)
    affine[:3, 3] = centre_ras_mm - affine[:3, :3] @ ((np.array(shape_ijk) - 1) / 2)
    return VolumeGeometry(shape_ijk=shape_ijk, affine_ijk_to_ras_mm=affine)


def named_geometry(name: str) -> VolumeGeometry:
    """A grid by name.

    "axial" as CT comes (towards left, back, head), "oblique" tilted about all axes, "flipped" with two axes reversed,
    "mirrored" left-handed, as dcm2niix writes its NIfTI files.
    """
    directions = {
        "axial": np.diag([-1.0, -1.0, 1.0]),
        "oblique": rotation((14.0, -9.0, 21.0)) @ np.diag([-1.0, -1.0, 1.0]),
        "flipped": np.diag([1.0, -1.0, -1.0]),
        "mirrored": np.diag([-1.0, 1.0, 1.0]),
    }
    return centred_geometry(directions[name])


def right_handed(geometry: VolumeGeometry) -> VolumeGeometry:
    """The grid as 3D Slicer 5.8 and later load it: k reversed where the axes are left-handed."""
    if np.linalg.det(geometry.affine_ijk_to_ras_mm[:3, :3]) > 0:
        return geometry
    affine = geometry.affine_ijk_to_ras_mm.copy()
    affine[:3, 3] = geometry.ijk_to_ras([0, 0, geometry.shape_ijk[2] - 1])
    affine[:3, 2] *= -1
    return VolumeGeometry(shape_ijk=geometry.shape_ijk, affine_ijk_to_ras_mm=affine)


def random_geometry(rng: np.random.Generator) -> VolumeGeometry:
    """A small grid with any axis order, any flips (left-handed too), any tilt, and unequal shape and spacing."""
    directions = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], size=3)
    if rng.random() < 0.7:
        a, b, c = rng.uniform(-180, 180, size=3)
        directions = rotation((a, b, c)) @ directions
    i, j, k = rng.permutation([10, 11, 12]).tolist()
    x, y, z = np.round(rng.uniform(0.3, 4.0, size=3), 3).tolist()
    return centred_geometry(
        directions,
        shape_ijk=(i, j, k),
        spacing_mm=(x, y, z),
        centre_ras_mm=rng.uniform(-400, 400, size=3),
    )


def make_scan(
    geometry: VolumeGeometry, rng: np.random.Generator, *, diameters_mm: tuple[float, float] | None = (18.0, 14.0)
) -> SyntheticScan:
    """A body with two lungs, a nodule in the right and one in the left, on any grid.

    Args:
        geometry: the grid; its middle should lie near ``BODY_CENTRE_RAS_MM``.
        rng: noise and the jitter of the nodules' places.
        diameters_mm: of the right and of the left nodule; None for a scan without nodules.
    """
    index = np.moveaxis(np.indices(geometry.shape_ijk, dtype=np.float64), 0, -1)
    points_mm = geometry.ijk_to_ras(index) - BODY_CENTRE_RAS_MM
    body = ((points_mm[..., :2] / BODY_SEMI_AXES_MM) ** 2).sum(axis=-1) < 1
    lungs = np.zeros(geometry.shape_ijk, dtype=np.uint8)
    # The patient's right is towards +x in RAS.
    for value, sign in ((1, 1.0), (2, -1.0)):
        offset_mm = points_mm - [sign * LUNG_OFFSET_MM, 0.0, 0.0]
        lungs[((offset_mm / LUNG_SEMI_AXES_MM) ** 2).sum(axis=-1) < 1] = value
    image_hu = np.where(body, TISSUE_HU, AIR_HU)
    image_hu[lungs > 0] = LUNG_HU

    nodules = []
    places_mm = {"right": np.array([46.0, 12.0, -14.0]), "left": np.array([-37.0, -17.0, 22.0])}
    for (side, place_mm), diameter_mm in zip(places_mm.items(), diameters_mm or (), strict=False):
        centre_mm = place_mm + rng.uniform(-3.0, 3.0, size=3)
        distance_mm = np.linalg.norm(points_mm - centre_mm, axis=-1)
        # A soft edge as wide as a voxel stands in for partial volume.
        covered = np.clip(0.5 + (diameter_mm / 2 - distance_mm) / float(np.mean(geometry.spacing_mm)), 0.0, 1.0)
        image_hu += covered * (NODULE_HU - LUNG_HU)
        nodules.append(
            SyntheticNodule(
                centre_ras_mm=centre_mm + BODY_CENTRE_RAS_MM,
                diameter_mm=diameter_mm,
                side=side,
                mask=distance_mm <= diameter_mm / 2,
            )
        )
    image_hu += rng.normal(0.0, NOISE_HU, size=geometry.shape_ijk)
    return SyntheticScan(
        volume=Volume(geometry=geometry, image_hu=np.clip(np.rint(image_hu), -1024, 3071).astype(np.int16)),
        nodules=tuple(nodules),
        lungs=lungs,
    )


def write_file(voxels: NDArray[np.generic], geometry: VolumeGeometry, path: Path) -> None:
    """Write voxels indexed [i, j, k] as .nii.gz or .nii (nibabel), .nrrd (pynrrd) or .mha (itk)."""
    if path.name.endswith((".nii.gz", ".nii")):
        import nibabel

        nibabel.save(nibabel.Nifti1Image(voxels, geometry.affine_ijk_to_ras_mm), path)
    elif path.suffix == ".nrrd":
        import nrrd

        affine_lps = affine_ras_to_lps(geometry.affine_ijk_to_ras_mm)
        header = {
            "space": "left-posterior-superior",
            "space directions": affine_lps[:3, :3].T,
            "space origin": affine_lps[:3, 3],
            "kinds": ["domain", "domain", "domain"],
        }
        nrrd.write(str(path), voxels, header)
    else:
        import itk

        origin, spacing, direction = affine_to_itk(geometry.affine_ijk_to_ras_mm)
        image = itk.image_from_array(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
        image.SetOrigin(origin.tolist())
        image.SetSpacing(spacing.tolist())
        image.SetDirection(itk.matrix_from_array(direction))
        itk.imwrite(image, str(path), compression=True)


def random_labels(geometry: VolumeGeometry, values: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Label voxels scattered without any symmetry: about a fifth of the grid, every value present."""
    labels = rng.choice([0, *values], size=geometry.shape_ijk, p=[0.8, *([0.2 / len(values)] * len(values))])
    for value in values:
        labels[tuple(int(rng.integers(n)) for n in geometry.shape_ijk)] = value
    return labels.astype(np.uint8)


def box_inside(mask: NDArray[np.bool_]) -> IndexBox:
    """The bounding box of a mask, which must not be empty."""
    box = IndexBox.of_mask(mask)
    if box is None:
        raise ValueError("The mask is empty.")
    return box
