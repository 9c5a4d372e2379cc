"""Surfaces and their interpolation."""

import numpy as np
import pytest

from medai.geometry import VolumeGeometry
from medai.phantom.fields import SineField, ellipsoid, knots, smooth_max, smooth_min, tube
from medai.phantom.grid import evaluate


def test_sine_field_has_the_amplitude_it_was_given(rng):
    field = SineField.draw(rng, count=8, wavelength_mm=(5, 20), amplitude=3.0)
    x, y, z = rng.uniform(-500, 500, (3, 20_000)).astype(np.float32)
    assert field(x, y, z).std() == pytest.approx(3.0, rel=0.05)


def test_smooth_union_and_intersection_bound_the_sharp_ones(rng):
    a, b = rng.normal(0, 5, (2, 100)).astype(np.float32)
    assert np.all(smooth_min(a, b, 4) <= np.minimum(a, b) + 1e-6)
    assert np.all(smooth_max(a, b, 4) >= np.maximum(a, b) - 1e-6)
    far = np.abs(a - b) > 4
    np.testing.assert_allclose(smooth_min(a, b, 4)[far], np.minimum(a, b)[far])


def test_ellipsoid_and_tube_are_distances_near_their_surface():
    zero = np.zeros(1, np.float32)
    assert ellipsoid(zero, zero, zero + 11, (0, 0, 0), (10, 10, 10)) == pytest.approx(1.0, rel=0.15)
    assert tube(zero + 5, zero + 4, zero, ((0, 0, 0), (10, 0, 0)), (2, 4)) == pytest.approx(1.0)
    assert knots(np.array([0.5, 9.0], np.float32), [0, 1], [2, 4]).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("angle", [0.0, 0.35])
def test_linear_fields_reach_the_fine_grid_exactly(angle):
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.9, 1.1, 3.0]
    affine[:3, 3] = (4, 5, -6)
    fine = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=affine)
    fields = evaluate(fine, ("ramp",), lambda x, y, z: (x + 2 * y - 3 * z,))
    points = fine.ijk_to_ras(np.stack(np.meshgrid(*map(np.arange, fine.shape_ijk), indexing="ij"), axis=-1))
    wanted = points @ [1, 2, -3]
    for k in (0, 5, 11):
        np.testing.assert_allclose(fields.plane(k)["ramp"].T, wanted[:, :, k], atol=1e-3)
