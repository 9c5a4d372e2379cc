"""Patches: right places on any grid, only the region read, and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.geometry import VolumeGeometry
from medai.preprocessing.patches import PatchGrid

SHAPE = (40, 41, 22)


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def geometry(kind: str, shape=SHAPE) -> VolumeGeometry:
    affine = np.eye(4)
    spacing = np.diag([0.7, 0.8, 2.5])
    directions = {
        "axial": np.eye(3),
        "flipped": np.diag([-1.0, -1.0, 1.0]),
        "coronal": np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]),
        "oblique": rotation(0.3),
    }
    affine[:3, :3] = directions[kind] @ spacing
    affine[:3, 3] = [12.0, -30.0, 7.0]
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)


KINDS = ["axial", "flipped", "coronal", "oblique"]


def ramp(grid: VolumeGeometry) -> np.ndarray:
    """A field that is linear in RAS, so that linear interpolation must be exact."""
    places = grid.ijk_to_ras(np.moveaxis(np.indices(grid.shape_ijk), 0, -1))
    return (places @ np.array([3.0, -2.0, 1.5]) + 40.0).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_extract_is_exact_on_a_linear_field(kind):
    scan = geometry(kind)
    grid = PatchGrid.around(scan, (20.3, 19.0, 11.2), shape=(10, 11, 12), spacing_mm=0.75)
    patch = grid.extract(ramp(scan))
    places = scan.ijk_to_ras(grid.to_scan(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3)))
    np.testing.assert_allclose(patch.ravel(), places @ [3.0, -2.0, 1.5] + 40.0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_restore_is_exact_on_a_linear_field(kind):
    scan = geometry(kind)
    grid = PatchGrid.around(scan, (20.3, 19.0, 11.2), shape=(14, 15, 16), spacing_mm=0.9)
    box, values = grid.restore(grid.extract(ramp(scan)))
    assert not box.is_empty
    inner = tuple(slice(1, -1) for _ in range(3))  # outermost voxels lie within half a patch voxel of the rim
    np.testing.assert_allclose(values[inner], ramp(scan)[box.slices][inner], atol=1e-3)


@pytest.mark.parametrize("kind", ["flipped", "coronal"])
def test_the_same_anatomy_gives_the_same_patch_however_it_is_stored(kind, rng):
    scan = geometry("axial")
    image = rng.normal(size=SHAPE).astype(np.float32)
    if kind == "flipped":
        stored = image[::-1, ::-1]
        affine = scan.affine_ijk_to_ras_mm @ np.array(
            [[-1, 0, 0, SHAPE[0] - 1], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]]
        )
        click = (SHAPE[0] - 1 - 20, SHAPE[1] - 1 - 18, 9)
    else:
        stored = image.transpose(0, 2, 1)
        affine = scan.affine_ijk_to_ras_mm[:, [0, 2, 1, 3]]
        click = (20, 9, 18)
    other = VolumeGeometry(shape_ijk=stored.shape, affine_ijk_to_ras_mm=affine)
    expected = PatchGrid.around(scan, (20, 18, 9), shape=(8, 9, 10), spacing_mm=1.0).extract(image)
    found = PatchGrid.around(other, click, shape=(8, 9, 10), spacing_mm=1.0).extract(stored)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_patch_axes_point_right_anterior_superior(kind):
    scan = geometry(kind)
    grid = PatchGrid.around(scan, (20, 19, 11), shape=(10, 11, 12), spacing_mm=0.75)
    origin, *ends = scan.ijk_to_ras(grid.to_scan([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]))
    steps = np.array(ends) - origin
    assert np.all(np.diag(steps) > 0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 0.75)


@given(
    point=st.tuples(st.floats(-5, 45), st.floats(-5, 45), st.floats(-5, 25)),
    kind=st.sampled_from(KINDS),
    spacing_mm=st.floats(0.4, 3.0),
)
def test_to_patch_and_back(point, kind, spacing_mm):
    grid = PatchGrid.around(geometry(kind), (20.3, 19.0, 11.2), shape=(10, 11, 12), spacing_mm=spacing_mm)
    np.testing.assert_allclose(grid.to_scan(grid.to_patch([point]))[0], point, atol=1e-9)


class Recording:
    """An image that remembers which region was read."""

    def __init__(self, image):
        self.image, self.shape, self.read = image, image.shape, 0

    def __getitem__(self, slices):
        region = self.image[slices]
        self.read += region.size
        return region


def test_only_the_patch_region_is_read(rng):
    scan = VolumeGeometry(shape_ijk=(200, 210, 120), affine_ijk_to_ras_mm=np.diag([0.7, 0.7, 1.25, 1.0]))
    image = Recording(np.zeros(scan.shape_ijk, dtype=np.int16))
    PatchGrid.around(scan, (100, 100, 60), shape=(16, 16, 16), spacing_mm=0.75).extract(image)
    assert 0 < image.read < 25 * 25 * 15


def test_beyond_the_scan_its_outermost_voxels_are_repeated():
    scan = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.eye(4))
    image = np.broadcast_to(np.arange(10.0)[:, None, None], (10, 11, 12)).astype(np.float32)
    patch = PatchGrid.around(scan, (0, 5, 5), shape=(8, 8, 8), spacing_mm=1.0).extract(image)
    assert np.all(patch[:3] == 0.0)
    assert patch[7, 0, 0] == pytest.approx(3.5)


def test_a_patch_outside_the_scan_has_an_empty_box():
    scan = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.eye(4))
    grid = PatchGrid.around(scan, (50, 5, 5), shape=(8, 8, 8), spacing_mm=1.0)
    box, values = grid.restore(np.ones((8, 8, 8), dtype=np.float32))
    assert box.is_empty
    assert values.size == 0


@pytest.mark.parametrize("spacing_mm", [0.75, 1.2, 1.92])
def test_resampling_keeps_the_volume_of_a_ball(spacing_mm):
    scan = VolumeGeometry(shape_ijk=(64, 65, 30), affine_ijk_to_ras_mm=np.diag([0.6, 0.6, 1.25, 1.0]))
    places = np.moveaxis(np.indices(scan.shape_ijk), 0, -1) * scan.spacing_mm
    ball = (np.linalg.norm(places - [19.0, 19.2, 18.0], axis=-1) < 7.0).astype(np.float32)
    grid = PatchGrid.around(scan, (32, 32, 14), shape=(32, 32, 32), spacing_mm=spacing_mm)
    patch = grid.extract(ball)
    assert patch.sum() * spacing_mm**3 == pytest.approx(ball.sum() * scan.voxel_volume_mm3, rel=0.02)
    box, values = grid.restore(patch)
    assert np.count_nonzero(values >= 0.5) == pytest.approx(ball.sum(), rel=0.08)
    assert not box.is_empty
