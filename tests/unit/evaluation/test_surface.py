"""Surface distances of shapes whose answer is known."""

import numpy as np
import pytest

from medai.errors import GeometryError, InputError
from medai.evaluation.surface import surface_distance


def slab(start: int) -> np.ndarray:
    mask = np.zeros((30, 11, 12), dtype=bool)
    mask[start, 2:9, 2:10] = True
    return mask


def test_two_thin_slabs_lie_as_far_apart_as_their_gap():
    found = surface_distance(slab(5), slab(9), (2.0, 0.7, 1.25))
    assert found.mean_mm == found.hausdorff95_mm == found.hausdorff_mm == pytest.approx(8.0)


def test_equal_masks_have_distance_zero():
    mask = np.zeros((10, 11, 12), dtype=bool)
    mask[2:7, 3:8, 4:9] = True
    assert surface_distance(mask, mask, (0.7, 0.7, 1.25)).hausdorff_mm == 0.0


def test_one_stray_voxel_moves_the_maximum_but_hardly_the_percentile():
    mask = np.zeros((30, 31, 32), dtype=bool)
    mask[5:15, 5:15, 5:15] = True
    stray = mask.copy()
    stray[25, 10, 10] = True
    found = surface_distance(stray, mask, (1.0, 1.0, 1.0))
    assert found.hausdorff_mm == pytest.approx(11.0)
    assert found.hausdorff95_mm == 0.0
    assert 0 < found.mean_mm < 0.05


def test_the_order_of_the_masks_does_not_matter(rng):
    one, other = (rng.random((10, 11, 12)) < 0.1 for _ in range(2))
    assert surface_distance(one, other, (0.7, 0.8, 2.5)) == surface_distance(other, one, (0.7, 0.8, 2.5))


def test_an_empty_mask_is_refused():
    with pytest.raises(InputError, match="empty mask has no surface"):
        surface_distance(slab(3), np.zeros((30, 11, 12), dtype=bool), (1.0, 1.0, 1.0))


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(GeometryError, match="cannot be compared"):
        surface_distance(slab(3), slab(3)[1:], (1.0, 1.0, 1.0))
