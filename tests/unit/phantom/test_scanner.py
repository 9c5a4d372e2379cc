"""The simulated scanner: noise texture, blur, slice profile."""

import numpy as np
import pytest

from medai.phantom import Kernel
from medai.phantom.scanner import Scanner, slice_profile


@pytest.mark.parametrize("kernel", list(Kernel))
def test_noise_has_unit_deviation_and_no_mean(kernel):
    scanner = Scanner.make((111, 130), (0.8, 0.7), kernel)
    noise = np.stack([scanner.texture(scanner.white(7, k)) for k in range(8)])
    assert noise.std() == pytest.approx(1.0, rel=0.03)
    assert abs(noise.mean()) < 0.02


def test_soft_noise_is_coarser_than_sharp_noise():
    neighbours = {}
    for kernel in (Kernel.SOFT, Kernel.SHARP):
        scanner = Scanner.make((128, 120), (0.7, 0.7), kernel)
        noise = scanner.texture(scanner.white(7, 0))
        neighbours[kernel] = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    assert neighbours[Kernel.SOFT] > neighbours[Kernel.SHARP] + 0.2


def test_blur_keeps_flat_areas_and_widens_edges():
    scanner = Scanner.make((60, 64), (0.7, 0.7), Kernel.SOFT)
    step = np.full((60, 64), -850, np.float32)
    step[:, 32:] = 50
    blurred = scanner.blur(step)
    assert blurred[30, 16] == pytest.approx(-850, abs=1)
    assert blurred[30, 48] == pytest.approx(50, abs=1)
    assert -850 < blurred[30, 31] < -450 < blurred[30, 32] < 50


def test_white_noise_does_not_depend_on_who_asks_first():
    scanner = Scanner.make((20, 24), (0.7, 0.7), Kernel.SHARP)
    forwards = {k: scanner.white(3, k) for k in (4, 5)}
    backwards = {k: scanner.white(3, k) for k in (5, 4)}
    np.testing.assert_array_equal(forwards[5], backwards[5])
    assert not np.array_equal(forwards[4], forwards[5])


@pytest.mark.parametrize(("thickness_mm", "step_mm", "per_slice"), [(1.0, 1.0, 1), (5.0, 1.25, 4), (5.0, 1.0, 2)])
def test_slice_profile_is_a_centred_average_of_the_right_width(thickness_mm, step_mm, per_slice):
    profile = slice_profile(thickness_mm, step_mm, per_slice)
    assert profile.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(profile, profile[::-1], atol=1e-6)
    assert len(profile) % 2 == per_slice % 2
    full_width_mm = np.count_nonzero(profile > profile.max() / 2) * step_mm
    assert full_width_mm == pytest.approx(thickness_mm, abs=step_mm)
