import numpy as np
import pytest
from scipy import ndimage

from medai.preprocessing.reach import within_reach


@pytest.mark.parametrize("spacing_mm", [(3.0, 3.0, 3.0), (3.1, 2.9, 5.0), (1.0, 4.0, 0.7)])
@pytest.mark.parametrize("radius_mm", [0.5, 3.0, 10.0, 31.0])
def test_it_is_the_distance_transform_compared_with_the_radius(spacing_mm, radius_mm, rng):
    mask = rng.random((23, 30, 17)) < 0.002
    assert mask.any()
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= radius_mm
    near = within_reach(mask, radius_mm, spacing_mm)
    assert near.dtype == bool
    np.testing.assert_array_equal(near, expected)


def test_nothing_is_near_to_an_empty_mask_and_all_to_a_full_one():
    shape = (5, 6, 9)
    assert not within_reach(np.zeros(shape, dtype=bool), 30.0, (3.0, 3.0, 3.0)).any()
    assert within_reach(np.ones(shape, dtype=bool), 30.0, (3.0, 3.0, 3.0)).all()


def test_the_mask_itself_is_left_as_it_is():
    mask = np.zeros((7, 8, 9), dtype=bool)
    mask[3, 4, 5] = True
    near = within_reach(mask, 1.0, (1.0, 1.0, 1.0))
    assert np.count_nonzero(mask) == 1
    assert np.count_nonzero(near) == 7
