"""The simulated annotator in front of a model: what is clicked, and in what order."""

import numpy as np
import pytest
from tests.support.fake_models import BoxClicks

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.evaluation.simulated_clicks import ClickPlace
from medai.geometry import VolumeGeometry
from medai.inference.evaluate_click import case_generator, outline_by_clicks

SHAPE = (30, 21, 12)


def block_case(case_id: str = "c") -> ClickCase:
    """A nodule of 11×5×5 voxels, of which a click takes 5×5×5."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[8:19, 8:13, 4:9] = True
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([0.7, 0.7, 0.7, 1.0]))
    volume = Volume(geometry=geometry, image_hu=np.zeros(SHAPE, np.int16), case_id=case_id)
    return ClickCase(case_id=case_id, patient_id="p", volume=volume, mask=mask)


def test_clicks_go_to_the_innermost_voxel_and_then_to_the_largest_mistake(rng):
    trial = outline_by_clicks(BoxClicks(), block_case(), place=ClickPlace.INNERMOST, clicks=3, rng=rng)
    # The first takes 8–12 along i, the second 13–17 of what is left, the third the first corner of the last column.
    assert trial.foreground_ijk == ((10, 10, 6), (15, 10, 6), (18, 8, 4))
    assert trial.background_ijk == ()
    assert trial.dice_after[:2] == pytest.approx((2 * 5 / 16, 2 * 10 / 21))
    assert trial.mask.shape == SHAPE


def test_nothing_is_clicked_where_nothing_is_wrong(rng):
    case = block_case()
    case.mask[:] = False
    case.mask[10:15, 8:13, 4:9] = True
    trial = outline_by_clicks(BoxClicks(), case, place=ClickPlace.INNERMOST, clicks=5, rng=rng)
    assert trial.dice_after == (1.0,)
    assert len(trial.foreground_ijk) == 1


def test_what_is_too_much_is_clicked_as_background(rng):
    case = block_case()
    case.mask[:] = False
    case.mask[10, 10, 6] = True
    trial = outline_by_clicks(BoxClicks(), case, place=ClickPlace.ANYWHERE, clicks=2, rng=rng)
    assert trial.foreground_ijk == ((10, 10, 6),)
    assert len(trial.background_ijk) == 1
    assert not trial.mask[trial.background_ijk[0]]


@pytest.mark.parametrize("place", [ClickPlace.CENTRE, ClickPlace.ANYWHERE])
def test_a_case_is_clicked_alike_whichever_cases_are_judged_with_it(place):
    clicks = [
        outline_by_clicks(BoxClicks(), block_case(), place=place, clicks=2, rng=case_generator(5, "c")).foreground_ijk
        for _ in range(2)
    ]
    assert clicks[0] == clicks[1]
    draws = {case_generator(5, name).integers(1 << 40) for name in ("c", "d", "e")}
    assert len(draws | {case_generator(6, "c").integers(1 << 40)}) == 4
