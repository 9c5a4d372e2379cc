import numpy as np
import pytest

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.preprocessing.lung_copy import lung_copy
from medai.preprocessing.lung_mask import LungMask
from medai.preprocessing.turning import turn_to_ras

SHAPE = (40, 51, 62)
SAGITTAL = np.array([[0, 0, -0.9, 30], [-0.7, 0, 0, 20], [0, 1.3, 0, -10], [0, 0, 0, 1.0]])
OBLIQUE = np.array(
    [
        [-0.7 * np.cos(0.3), 0.8 * np.sin(0.3), 0, 5],
        [-0.7 * np.sin(0.3), -0.8 * np.cos(0.3), 0, 6],
        [0, 0, 1.5, 7],
        [0, 0, 0, 1],
    ]
)


def _scan(affine):
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine)
    points = geometry.ijk_to_ras(np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1))
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:32, 10:40, 12:50] = 1
    # The image says where it is: HU rise towards the head.
    return Volume(geometry=geometry, image_hu=points[..., 2].astype(np.float32)), LungMask(
        geometry=geometry, labels=labels, is_plausible=True
    )


@pytest.mark.parametrize("affine", [SAGITTAL, OBLIQUE], ids=["sagittal", "oblique"])
def test_the_copy_lies_where_the_scan_lies_with_axes_of_the_patient(affine):
    volume, lungs = _scan(affine)
    copy = lung_copy(volume, lungs, (1.0, 1.25, 2.0))
    assert copy.geometry.spacing_mm == pytest.approx((1.0, 1.25, 2.0))
    assert np.all(np.diag(copy.geometry.directions_ras) > 0.9)
    middle = np.asarray(copy.geometry.shape_ijk) // 2
    here = copy.geometry.ijk_to_ras(middle)
    assert copy.image_hu[tuple(middle)] == pytest.approx(here[2], abs=0.6)
    index = np.rint(volume.geometry.ras_to_ijk(here)).astype(int)
    assert copy.inside[tuple(middle)] == (lungs.labels[tuple(index)] > 0)
    volume_mm3 = copy.inside.sum() * copy.geometry.voxel_volume_mm3
    assert volume_mm3 == pytest.approx((lungs.labels > 0).sum() * volume.geometry.voxel_volume_mm3, rel=0.1)


def test_near_the_lung_is_a_matter_of_millimetres():
    volume, lungs = _scan(OBLIQUE)
    copy = lung_copy(volume, lungs, (1.0, 1.0, 1.0))
    edge = np.argwhere(copy.inside)[:, 0].min()
    middle = np.asarray(copy.geometry.shape_ijk) / 2
    inside = np.argwhere(copy.inside[edge])[0]
    assert copy.is_near_lung((edge - 3, *inside), 3.0)
    assert not copy.is_near_lung((edge - 6, *inside), 3.0)
    assert copy.is_near_lung(middle, 0.0)


def test_no_lungs_no_copy():
    volume, lungs = _scan(OBLIQUE)
    empty = LungMask(geometry=lungs.geometry, labels=np.zeros(SHAPE, np.uint8), is_plausible=False)
    assert lung_copy(volume, empty, (1.0, 1.0, 1.0)) is None


def test_turning_back_gives_the_array_again(rng):
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=SAGITTAL)
    turn = turn_to_ras(geometry)
    image = rng.normal(size=SHAPE)
    turned = turn.apply(image)
    assert turned.shape == turn.geometry(geometry).shape_ijk
    np.testing.assert_array_equal(turn.undo(turned), image)
    index = np.array([3, 4, 5])
    assert (
        turned[tuple(index)]
        == image[tuple(np.rint(geometry.ras_to_ijk(turn.geometry(geometry).ijk_to_ras(index))).astype(int))]
    )
