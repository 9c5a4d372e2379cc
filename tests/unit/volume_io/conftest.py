"""Grids that catch a mixed-up axis: odd shapes, unequal spacing, an oblique and two flipped frames."""

import numpy as np
import pytest

from medai.domain import Volume
from medai.geometry import VolumeGeometry

SHAPE_IJK = (10, 11, 12)


def _rotation(degrees_xyz):
    x, y, z = np.radians(degrees_xyz)
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return rz @ ry @ rx


def make_affine(directions, spacing_mm=(0.7, 0.8, 2.5), origin_ras_mm=(-101.25, 33.5, -250.75)):
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(spacing_mm)
    affine[:3, 3] = origin_ras_mm
    return affine


AFFINES = {
    "axial": make_affine(np.diag([-1.0, -1.0, 1.0])),
    "flipped": make_affine(np.diag([1.0, -1.0, -1.0])),
    "permuted": make_affine(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])),
    "oblique": make_affine(_rotation((12, -23, 31))),
    "left-handed": make_affine(_rotation((5, 40, -9)) @ np.diag([1.0, 1.0, -1.0])),
}


@pytest.fixture(params=sorted(AFFINES))
def geometry(request):
    return VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=AFFINES[request.param])


@pytest.fixture
def volume(geometry, rng):
    image_hu = np.asfortranarray(rng.integers(-1024, 3000, size=geometry.shape_ijk).astype(np.int16))
    return Volume(geometry=geometry, image_hu=image_hu)
