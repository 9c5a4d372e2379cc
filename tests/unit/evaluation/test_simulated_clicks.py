"""The simulated annotator: first clicks inside, corrections at the worst mistake."""

import numpy as np
import pytest

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import GeometryError, InputError
from medai.evaluation.simulated_clicks import (
    ClickPlace,
    correcting_click,
    first_click,
    innermost_voxel,
    placed_click,
)
from medai.geometry import VolumeGeometry

SHAPE = (30, 31, 16)
SPACING = (0.7, 0.7, 2.0)


def ball_case(radius_mm: float = 7.0) -> ClickCase:
    places = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING
    mask = np.linalg.norm(places - np.array([15, 14, 8]) * SPACING, axis=-1) < radius_mm
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([*SPACING, 1.0]))
    return ClickCase(
        case_id="c", patient_id="p", volume=Volume(geometry=geometry, image_hu=np.zeros(SHAPE, np.int16)), mask=mask
    )


def test_careful_clicks_lie_within_three_millimetres_of_the_innermost_voxel(rng):
    case = ball_case()
    assert innermost_voxel(case.mask, SPACING) == (15, 14, 8)
    for _ in range(30):
        click = first_click(case, rng, careful=True)
        assert case.mask[click]
        assert np.linalg.norm((np.array(click) - (15, 14, 8)) * SPACING) <= 3.0


def test_careless_clicks_reach_the_rim_but_never_leave_the_nodule(rng):
    case = ball_case()
    clicks = [first_click(case, rng, careful=False) for _ in range(60)]
    assert all(case.mask[click] for click in clicks)
    assert max(np.linalg.norm((np.array(c) - (15, 14, 8)) * SPACING) for c in clicks) > 5.0


def test_the_innermost_click_is_no_matter_of_chance(rng):
    assert {placed_click(ball_case(), ClickPlace.INNERMOST, rng) for _ in range(5)} == {(15, 14, 8)}


def test_a_click_at_the_centre_is_within_three_millimetres_of_the_innermost_voxel(rng):
    clicks = {placed_click(ball_case(), ClickPlace.CENTRE, rng) for _ in range(40)}
    assert len(clicks) > 5
    assert max(np.linalg.norm((np.array(click) - (15, 14, 8)) * SPACING) for click in clicks) <= 3.0


def test_a_judged_correction_is_no_matter_of_chance():
    truth = np.zeros((20, 21, 22), dtype=bool)
    truth[2:11, 2:11, 2:7] = True
    predicted = np.zeros_like(truth)
    predicted[2, 2, 2] = True
    # With slices four times as thick as the pixels are wide, depth is counted in the plane.
    clicks = {
        correcting_click(predicted, truth, np.ones_like(truth), None, spacing_mm=(1.0, 1.0, 4.0)) for _ in range(5)
    }
    assert len(clicks) == 1
    ((i, j, k), is_foreground) = clicks.pop()
    assert (i, j) == (6, 6)
    assert 2 < k < 6
    assert is_foreground


def test_innermost_voxel_counts_the_arrays_end_as_outside():
    assert innermost_voxel(np.ones((9, 9, 3), dtype=bool), (1.0, 1.0, 1.0))[2] == 1


def test_correction_of_a_missed_part_is_a_foreground_click_in_it(rng):
    truth = np.zeros((20, 21, 22), dtype=bool)
    truth[4:10, 4:10, 4:10] = True
    predicted = truth.copy()
    predicted[4:8] = False
    (i, j, k), is_foreground = correcting_click(predicted, truth, np.ones_like(truth), rng)
    assert is_foreground
    assert 4 <= i < 8
    assert truth[i, j, k]


def test_correction_takes_the_largest_mistake_and_only_where_the_scan_is_known(rng):
    truth = np.zeros((20, 21, 22), dtype=bool)
    truth[4:10, 4:10, 4:10] = True
    predicted = truth.copy()
    predicted[12:18, 12:18, 12:18] = True
    predicted[4, 4, 4] = False
    known = np.ones_like(truth)
    (i, _, _), is_foreground = correcting_click(predicted, truth, known, rng)
    assert not is_foreground
    assert i >= 12
    known[12:] = False
    assert correcting_click(predicted, truth, known, rng) == ((4, 4, 4), True)


def test_nothing_wrong_means_no_click(rng):
    truth = ball_case().mask
    assert correcting_click(truth, truth, np.ones_like(truth), rng) is None


def test_a_case_needs_a_nodule_on_its_own_grid():
    case = ball_case()
    with pytest.raises(InputError, match="Case c has an empty mask"):
        ClickCase(case_id="c", patient_id="p", volume=case.volume, mask=np.zeros(SHAPE, dtype=bool))
    with pytest.raises(GeometryError, match=r"Case c: the mask has shape \(29, 31, 16\)"):
        ClickCase(case_id="c", patient_id="p", volume=case.volume, mask=case.mask[1:])
