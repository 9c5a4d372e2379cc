"""What simulated readers draw: how good it is, how large, and that it comes from the seed alone."""

import numpy as np
import pytest

from medai.errors import InputError
from medai.evaluation.dice import dice
from medai.workflows.simulated_readers import Sabotage, biased_label, careless_label, honest_label, hostile_label

SPACINGS_MM = [(0.7, 0.8, 1.25), (0.6, 0.65, 2.5)]


def ball(spacing_mm, radius_mm=6.0):
    shape = [int(6.1 * radius_mm / spacing) + extra for spacing, extra in zip(spacing_mm, (0, 1, 2), strict=True)]
    grid = np.indices(shape).astype(float)
    centre = [n / 2 - 0.5 for n in shape]
    squares = sum(((axis - c) * s) ** 2 for axis, c, s in zip(grid, centre, spacing_mm, strict=True))
    return squares <= radius_mm**2


def log_ratio(label, truth):
    return np.log(label.sum() / truth.sum())


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_an_honest_reader_agrees_as_readers_do_and_has_no_bias(spacing_mm):
    truth, rng = ball(spacing_mm), np.random.default_rng(3)
    labels = [honest_label(truth, spacing_mm, rng) for _ in range(20)]
    assert np.mean([dice(label, truth) for label in labels]) == pytest.approx(0.9, abs=0.02)
    assert abs(np.mean([log_ratio(label, truth) for label in labels])) < 0.04


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_a_careless_reader_is_worse_but_has_no_bias(spacing_mm):
    truth, rng = ball(spacing_mm), np.random.default_rng(4)
    labels = [careless_label(truth, spacing_mm, rng) for _ in range(20)]
    assert np.mean([dice(label, truth) for label in labels]) == pytest.approx(0.7, abs=0.03)
    assert abs(np.mean([log_ratio(label, truth) for label in labels])) < 0.15


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_a_biased_reader_outlines_too_large_by_the_margin(spacing_mm):
    truth, rng = ball(spacing_mm), np.random.default_rng(5)
    labels = [biased_label(truth, spacing_mm, rng, margin_mm=1.5) for _ in range(10)]
    # A ball of 6 mm that grows by 1.5 mm has (7.5/6)^3 = 1.95 times its volume; coarse slices grow less, waves more.
    assert 1.5 < np.exp(np.mean([log_ratio(label, truth) for label in labels])) < 2.2


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("sabotage", list(Sabotage))
def test_a_hostile_label_hardly_overlaps(spacing_mm, sabotage):
    truth = ball(spacing_mm)
    label = hostile_label(truth, spacing_mm, np.random.default_rng(6), sabotage=sabotage)
    assert label.shape == truth.shape
    assert label.any()
    assert dice(label, truth) < 0.25


def test_without_room_the_wrong_place_becomes_an_inverted_label():
    truth = np.ones((3, 4, 5), dtype=bool)
    truth[0, 0, 0] = False
    label = hostile_label(truth, (1.0, 1.0, 2.0), np.random.default_rng(1), sabotage=Sabotage.WRONG_PLACE)
    assert np.array_equal(label, ~truth)


@pytest.mark.parametrize("read", [honest_label, careless_label, hostile_label])
def test_the_same_seed_draws_the_same_label(read):
    truth = ball(SPACINGS_MM[0], 4.0)
    first, second = (read(truth, SPACINGS_MM[0], np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_nodule_of_one_voxel_is_outlined():
    truth = np.zeros((5, 6, 7), dtype=bool)
    truth[2, 3, 3] = True
    assert honest_label(truth, (0.7, 0.7, 2.5), np.random.default_rng(2)).sum() == 1


def test_what_cannot_be_drawn_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="is empty"):
        honest_label(np.zeros((3, 4, 5), dtype=bool), (1.0, 1.0, 1.0), rng)
    with pytest.raises(InputError, match=r"Dice of 1\.0"):
        honest_label(np.ones((3, 4, 5), dtype=bool), (1.0, 1.0, 1.0), rng, dice_wanted=1.0)
    with pytest.raises(InputError, match="too large by 0 mm"):
        biased_label(np.ones((3, 4, 5), dtype=bool), (1.0, 1.0, 1.0), rng, margin_mm=0)
