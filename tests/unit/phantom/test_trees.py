"""Vessel trees: they branch, taper and stay in the lungs; tubes are drawn with the volume they have."""

import numpy as np
import pytest

from medai.geometry import VolumeGeometry
from medai.phantom.anatomy import Chest
from medai.phantom.trees import Pieces, grow, leaf_radius, make_trees
from medai.phantom.tubes import FULL, draw_tubes


def test_every_target_is_reached_and_vessels_taper(rng):
    targets = rng.uniform(20, 80, (150, 3))
    branches = grow(rng, np.zeros(3), np.array([1.0, 0, 0]), targets)
    ends = np.array([branch.path_mm[-1] for branch in branches if branch.leaves == 1])
    assert len(ends) == 150
    gaps = np.linalg.norm(ends[:, None] - targets[None], axis=2)
    assert np.max(gaps.min(axis=0)) < 0.01
    assert all(branch.radii_mm[-1] <= branch.radii_mm[0] for branch in branches)
    assert branches[0].radii_mm[0] == pytest.approx(leaf_radius(150))


def test_a_chest_has_hundreds_of_branches_inside_its_lungs(rng):
    chest = Chest.draw(rng)
    trees = make_trees(chest, rng, detail=0.2)
    fine = trees.vessels.radius_mm.max(axis=1) < 1.0
    assert np.count_nonzero(fine) > 1500
    right, left = chest.lungs(*chest.to_template(*trees.vessels.stop_mm[fine].T))
    assert np.mean(np.minimum(right, left) < 0) > 0.97
    assert trees.airways.radius_mm.max() > 6


@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize("radius_mm", [0.25, 1.0, 3.0])
def test_a_drawn_tube_has_its_volume(radius_mm, flip):
    affine = np.diag([0.7 * flip, 0.8, 1.0, 1.0])
    affine[:3, 3] = (-13 * flip, -14, -15)
    geometry = VolumeGeometry(shape_ijk=(38, 36, 31), affine_ijk_to_ras_mm=affine)
    share = np.zeros((31, 36, 38), np.uint8)
    draw_tubes(share, Pieces.along(((-6.0, -5, -4), (0, 1, 2), (5, 4, 6)), (radius_mm,) * 3), geometry)
    length = np.linalg.norm([6, 6, 6]) + np.linalg.norm([5, 3, 4])
    wanted = np.pi * radius_mm**2 * length + 4 / 3 * np.pi * radius_mm**3
    assert share.sum() / FULL * geometry.voxel_volume_mm3 == pytest.approx(wanted, rel=0.2)


def test_tubes_outside_the_grid_are_left_out():
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.eye(4))
    share = np.zeros((12, 11, 10), np.uint8)
    draw_tubes(share, Pieces.along(((30.0, 0, 0), (40, 0, 0)), (2, 2)), geometry)
    assert not share.any()
    draw_tubes(share, Pieces.along(((-5.0, 5, 5), (20, 5, 5)), (1, 1)), geometry)
    assert share[5, 5].min() > 200
