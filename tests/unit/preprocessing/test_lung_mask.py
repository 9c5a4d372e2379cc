import numpy as np
import pytest

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.lung_mask import LEFT_LUNG, RIGHT_LUNG, UNKNOWN_SIDE, LungMask, lungs_on, segment_lungs

CENTRE_RAS_MM = np.array([12.0, -7.0, 40.0])
LUNGS_MM = {RIGHT_LUNG: (72.0, 0.0, 0.0), LEFT_LUNG: (-70.0, 0.0, -5.0)}
RADII_MM = {RIGHT_LUNG: (55.0, 75.0, 95.0), LEFT_LUNG: (50.0, 75.0, 90.0)}


def _ball(points, centre, radii):
    return (((points - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(axis=-1) <= 1


def _thorax(shape, spacing, *, order=(0, 1, 2), flips=(1, 1, 1), turn_deg=0.0, joined=False, nodule=None):
    """A body with two lungs and a trachea, painted in patient space on any grid; truth labels beside it."""
    angle = np.deg2rad(turn_deg)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    directions = np.zeros((3, 3))
    for array_axis, patient_axis in enumerate(order):
        directions[patient_axis, array_axis] = flips[array_axis] * spacing[array_axis]
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions
    affine[:3, 3] = CENTRE_RAS_MM - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    points = geometry.ijk_to_ras(index) - CENTRE_RAS_MM
    image = np.full(shape, -1000.0)
    image[((points[..., :2] / (165, 110)) ** 2).sum(axis=-1) <= 1] = 30
    truth = np.zeros(shape, dtype=np.uint8)
    for side, centre in LUNGS_MM.items():
        truth[_ball(points, centre, RADII_MM[side])] = side
    if joined:
        bridge = (np.abs(points[..., 0]) < 40) & (np.abs(points[..., 1] - 20) < 6) & (np.abs(points[..., 2]) < 25)
        truth[bridge & (truth == 0)] = np.where(points[..., 0] > 0, RIGHT_LUNG, LEFT_LUNG)[bridge & (truth == 0)]
    image[truth > 0] = -850
    trachea = (np.hypot(points[..., 0], points[..., 1] + 5) < 9) & (points[..., 2] > 10)
    image[trachea] = -1000
    if nodule is not None:
        image[_ball(points, nodule[0], [nodule[1]] * 3)] = 30
    volume = Volume(geometry=geometry, image_hu=(image + 15 * np.sin(index.sum(axis=-1))).astype(np.int16))
    return volume, truth, trachea


def _dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


@pytest.mark.parametrize(
    "grid",
    [
        {"shape": (72, 53, 50), "spacing": (5.0, 5.0, 4.4)},
        {"shape": (72, 53, 50), "spacing": (5.0, 5.0, 4.4), "flips": (-1, -1, 1)},
        {"shape": (72, 53, 50), "spacing": (5.0, 5.0, 4.4), "flips": (1, -1, -1)},
        {"shape": (50, 72, 53), "spacing": (4.4, 5.0, 5.0), "order": (2, 0, 1), "flips": (-1, -1, 1)},
        {"shape": (72, 55, 51), "spacing": (5.0, 5.0, 4.4), "flips": (-1, -1, 1), "turn_deg": 8.0},
    ],
    ids=["ras", "lps", "flipped", "transposed", "oblique"],
)
def test_right_and_left_are_the_patients_own(grid):
    volume, truth, trachea = _thorax(**grid)
    lungs = segment_lungs(volume)
    assert lungs.is_plausible
    assert lungs.labels.dtype == np.uint8
    assert lungs.labels.shape == volume.geometry.shape_ijk
    for side in (RIGHT_LUNG, LEFT_LUNG):
        assert _dice(lungs.labels == side, truth == side) > 0.93
    assert np.mean(lungs.labels[trachea] > 0) < 0.1
    right, left = (CENTRE_RAS_MM + LUNGS_MM[side] for side in (RIGHT_LUNG, LEFT_LUNG))
    assert (lungs.side_at(right), lungs.side_at(left)) == ("right", "left")
    assert lungs.side_at(CENTRE_RAS_MM + np.array([0, 400, 0])) == ""
    assert lungs.volume_ml["right"] > lungs.volume_ml["left"] > 1000


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_lungs_on_another_grid_are_those_of_the_nearest_voxel(order, rng):
    geometry = VolumeGeometry(shape_ijk=(20, 23, 14), affine_ijk_to_ras_mm=np.diag([-0.7, 0.8, 2.5, 1.0]))
    labels = np.array(rng.integers(0, 3, geometry.shape_ijk), dtype=np.uint8, order=order)
    lungs = LungMask(geometry=geometry, labels=labels, is_plausible=True)
    target = geometry.crop(IndexBox(start_ijk=(4, 5, 3), stop_ijk=(16, 24, 11))).resampled([1.1, 0.3, 1.3])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in target.shape_ijk], indexing="ij"), axis=-1)
    nearest = np.rint(geometry.ras_to_ijk(target.ijk_to_ras(index))).astype(int)
    i, j, k = np.moveaxis(np.clip(nearest, 0, np.asarray(geometry.shape_ijk) - 1), -1, 0)
    np.testing.assert_array_equal(lungs_on(lungs, target), labels[i, j, k] > 0)


def test_lungs_that_touch_are_parted():
    volume, truth, _ = _thorax((72, 53, 50), (5.0, 5.0, 4.4), joined=True)
    lungs = segment_lungs(volume)
    for side in (RIGHT_LUNG, LEFT_LUNG):
        assert _dice(lungs.labels == side, truth == side) > 0.9


def test_a_nodule_on_the_pleura_belongs_to_the_lung():
    centre = (72.0 + 47.0, 0.0, 0.0)
    volume, _, _ = _thorax((120, 80, 60), (3.0, 3.0, 3.7), nodule=(centre, 12.0))
    lungs = segment_lungs(volume)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.geometry.shape_ijk], indexing="ij"), axis=-1)
    points = volume.geometry.ijk_to_ras(index) - CENTRE_RAS_MM
    inside = _ball(points, centre, [12.0] * 3) & _ball(points, LUNGS_MM[RIGHT_LUNG], RADII_MM[RIGHT_LUNG])
    assert np.mean(lungs.labels[inside] == RIGHT_LUNG) > 0.7


def test_a_slab_still_has_two_lungs():
    volume, truth, _ = _thorax((72, 53, 50), (5.0, 5.0, 4.4))
    box = IndexBox(start_ijk=(0, 0, 20), stop_ijk=(72, 53, 31))
    lungs = segment_lungs(volume.crop(box))
    assert lungs.is_plausible
    assert _dice(lungs.labels == LEFT_LUNG, truth[box.slices] == LEFT_LUNG) > 0.93


@pytest.mark.parametrize("fill_hu", [-1000, 40])
def test_a_scan_without_lungs_gives_an_empty_mask(fill_hu):
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([2.0, 2.0, 5.0, 1.0]))
    lungs = segment_lungs(Volume(geometry=geometry, image_hu=np.full((10, 11, 12), fill_hu, dtype=np.int16)))
    assert not lungs.is_plausible
    assert not lungs.labels.any()
    assert lungs.side_at((8.0, 10.0, 20.0)) == ""


def test_a_crop_inside_a_lung_is_taken_whole_with_unknown_side():
    geometry = VolumeGeometry(shape_ijk=(41, 43, 45), affine_ijk_to_ras_mm=np.diag([1.0, 1.0, 1.0, 1.0]))
    image = np.full(geometry.shape_ijk, -860, dtype=np.int16)
    image[16:25, 17:26, 18:27] = 20
    lungs = segment_lungs(Volume(geometry=geometry, image_hu=image))
    assert not lungs.is_plausible
    assert np.mean(lungs.labels == UNKNOWN_SIDE) > 0.99
