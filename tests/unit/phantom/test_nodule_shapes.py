"""Nodule shapes: their volume is what was asked for, and voxel shares add up to it."""

import numpy as np
import pytest

from medai.geometry import VolumeGeometry
from medai.phantom import Margin
from medai.phantom.nodules import Shape, even_directions, shape_fraction


def grid(spacing_mm, angle=0.0, flip=1.0):
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, flip]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing_mm
    shape = tuple(int(60 / s) for s in spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)


@pytest.mark.parametrize("margin", list(Margin))
@pytest.mark.parametrize("diameter_mm", [3.0, 8.0, 20.0])
def test_analytic_volume_is_the_one_asked_for(rng, margin, diameter_mm):
    shape = Shape.draw(rng, margin, diameter_mm)
    assert shape.volume_mm3 == pytest.approx(np.pi / 6 * diameter_mm**3, rel=1e-3)


@pytest.mark.parametrize("margin", list(Margin))
@pytest.mark.parametrize(
    ("diameter_mm", "spacing_mm", "angle", "flip"),
    [(3.0, (0.7, 0.7, 1.25), 0.0, 1.0), (6.0, (0.9, 0.8, 2.0), 0.4, 1.0), (12.0, (1.0, 1.1, 1.2), 0.3, -1.0)],
)
def test_shares_add_up_to_the_analytic_volume(rng, margin, diameter_mm, spacing_mm, angle, flip):
    shape = Shape.draw(rng, margin, diameter_mm)
    geometry = grid(np.array(spacing_mm), angle, flip)
    box, fraction = shape_fraction(shape, np.array([0.31, -0.22, 0.4]), geometry)
    assert fraction.shape == box.shape_ijk
    assert fraction.min() >= 0 and fraction.max() <= 1
    assert fraction.sum() * geometry.voxel_volume_mm3 == pytest.approx(shape.volume_mm3, rel=0.02)


def test_the_box_holds_the_whole_shape(rng):
    shape = Shape.draw(rng, Margin.SPICULATED, 10.0)
    _, fraction = shape_fraction(shape, np.zeros(3), grid(np.array([1.0, 0.9, 1.3])))
    faces = [fraction[0], fraction[-1], fraction[:, 0], fraction[:, -1], fraction[..., 0], fraction[..., -1]]
    assert max(face.max() for face in faces) == 0


def test_spiculated_edges_are_rougher_than_smooth_ones(rng):
    directions = even_directions(3000)
    rough = Shape.draw(rng, Margin.SPICULATED, 12.0).relative_radius(directions)
    even = Shape.draw(rng, Margin.SMOOTH, 12.0).relative_radius(directions)
    assert rough.std() / rough.mean() > 1.5 * even.std() / even.mean() > 0
