"""What a network is shown: the HU window and the click channels."""

import numpy as np
import pytest

from medai.preprocessing.click_maps import click_map
from medai.preprocessing.hu_window import window_hu


def test_window_maps_its_ends_to_minus_one_and_one_and_clips():
    image_hu = np.array([-3024, -1000, -300, 400, 3000], dtype=np.int16)
    np.testing.assert_allclose(window_hu(image_hu), [-1, -1, 0, 1, 1])


def test_window_leaves_the_scan_as_it_is():
    image_hu = np.array([-500.0, 100.0], dtype=np.float32)
    window_hu(image_hu)
    np.testing.assert_array_equal(image_hu, [-500.0, 100.0])


def test_window_of_other_range():
    assert window_hu(np.array([40]), low_hu=-160, high_hu=240)[0] == pytest.approx(0.0)


def test_click_map_is_one_at_the_click_and_falls_off():
    channel = click_map((10, 11, 12), [(4, 5, 6)])
    assert channel.shape == (10, 11, 12)
    assert channel.dtype == np.float32
    assert channel[4, 5, 6] == 1.0
    assert 0.5 < channel[5, 5, 6] < 1.0
    assert channel[4, 5, 6] > channel[4, 6, 6] > channel[4, 7, 6]


def test_click_map_keeps_the_larger_of_two_clicks():
    both = click_map((10, 11, 12), [(2, 2, 2), (3, 2, 2)])
    assert both.max() == 1.0
    assert both[2, 2, 2] == both[3, 2, 2] == 1.0


def test_click_map_without_clicks_or_with_far_ones_is_empty():
    assert not click_map((10, 11, 12), []).any()
    assert click_map((10, 11, 12), [(200, 5, 5)]).max() < 1e-6
