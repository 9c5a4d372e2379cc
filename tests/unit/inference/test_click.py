"""The rules of clicking, with a network replaced by a threshold: bright is nodule."""

from itertools import pairwise

import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError, ModelError
from medai.evaluation.dice import dice
from medai.evaluation.information import entropy_bits
from medai.geometry import IndexBox, VolumeGeometry
from medai.inference.click import VIEWS_OF_A_SCALE, ClickConfig, ClickSegmenter
from medai.inference.click_rules import MAX_CLICKS
from medai.inference.mirrored import FLIPS
from medai.networks.committee import Committee

CONFIG = {
    "task": "nodule_click",
    "patch_shape": [32, 32, 32],
    "spacing_mm": 1.0,
    "fill": 0.55,
    "finest_mm": 0.5,
    "coarsest_mm": 2.4,
}


class BrightIsNodule:
    """An engine that believes every bright voxel, whatever was clicked."""

    description = "threshold"

    def __init__(self):
        self.config = CONFIG
        self.runs = 0

    def run(self, batch):
        self.runs += 1
        return np.where(batch[:, :1] > -0.2, 4.0, -4.0).astype(np.float32)


class NeverSure(BrightIsNodule):
    """An engine that believes nothing much, a little more where it is bright."""

    def run(self, batch):
        return np.where(batch[:, :1] > -0.2, -1.5, -6.0).astype(np.float32)


def scan(centres_ijk, radii_mm, *, shape=(80, 81, 40), directions=None, spacing=(0.7, 0.8, 1.5)):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) @ np.diag(spacing)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    masks = [
        np.linalg.norm(places - np.array(centre) * spacing, axis=-1) < radius
        for centre, radius in zip(centres_ijk, radii_mm, strict=True)
    ]
    image_hu = np.full(shape, -850, dtype=np.int16)
    image_hu[np.any(masks, axis=0)] = 50
    return Volume(geometry=geometry, image_hu=image_hu), masks


def whole(result, volume):
    mask = np.zeros(volume.geometry.shape_ijk, dtype=bool)
    if not result.box.is_empty:
        mask[result.box.slices] = result.mask
    return mask


def rotated(angle=0.35):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


@pytest.fixture
def segmenter():
    return ClickSegmenter(BrightIsNodule())


@pytest.mark.parametrize(
    "directions", [None, np.diag([-1.0, -1.0, 1.0]), rotated()], ids=["axial", "flipped", "oblique"]
)
def test_the_first_click_outlines_the_nodule(segmenter, directions):
    volume, (ball,) = scan([(40, 38, 20)], [6.0], directions=directions)
    result = segmenter.segment(volume, foreground_ijk=[(42, 39, 21)])
    assert dice(whole(result, volume), ball) > 0.93
    assert result.mask.shape == result.probability.shape == result.box.shape_ijk
    assert set(result.seconds) == {"resample", "network", "total"}
    assert 0.0 <= result.uncertainty <= 1.0


def test_only_the_clicked_nodule_is_outlined(segmenter):
    volume, (one, other) = scan([(30, 38, 20), (50, 38, 20)], [5.0, 5.0])
    mask = whole(segmenter.segment(volume, foreground_ijk=[(30, 38, 20)]), volume)
    assert dice(mask, one) > 0.9
    assert not np.any(mask & other)


def test_nodules_far_apart_are_united(segmenter):
    volume, balls = scan([(15, 15, 8), (66, 66, 32)], [5.0, 4.0])
    mask = whole(segmenter.segment(volume, foreground_ijk=[(15, 15, 8), (66, 66, 32)]), volume)
    assert dice(mask, balls[0] | balls[1]) > 0.9


def test_another_foreground_click_only_adds(segmenter):
    volume, balls = scan([(15, 15, 8), (40, 40, 20), (47, 40, 20)], [5.0, 2.0, 2.0])
    clicks = [(15, 15, 8), (40, 40, 20), (47, 40, 20), (60, 60, 30)]
    masks = [whole(segmenter.segment(volume, foreground_ijk=clicks[:n]), volume) for n in range(1, 5)]
    for fewer, more in pairwise(masks):
        assert np.all(more[fewer])
    assert masks[3][60, 60, 30]
    assert dice(masks[2], balls[0] | balls[1] | balls[2]) > 0.85


def test_a_click_on_nothing_still_belongs_to_the_result(segmenter):
    volume, _ = scan([(15, 15, 8)], [5.0])
    mask = whole(segmenter.segment(volume, foreground_ijk=[(60, 60, 30)]), volume)
    assert mask[60, 60, 30]
    assert mask.sum() == 1


def test_a_background_click_cuts_off_what_is_nearer_to_it(segmenter):
    volume, (nodule, vessel) = scan([(38, 40, 20), (46, 40, 20)], [4.0, 4.0])
    before = whole(segmenter.segment(volume, foreground_ijk=[(36, 40, 20)]), volume)
    assert before[48, 40, 20]
    after = whole(segmenter.segment(volume, foreground_ijk=[(36, 40, 20)], background_ijk=[(48, 40, 20)]), volume)
    assert not after[48, 40, 20]
    assert (after & ~before).sum() <= 0.03 * after.sum()  # another size, so another spacing
    assert (after & vessel & ~nodule).sum() < 0.2 * (vessel & ~nodule).sum()
    assert (after & nodule).sum() > 0.8 * nodule.sum()


def test_a_background_click_outside_the_result_changes_nothing(segmenter):
    volume, _ = scan([(38, 40, 20)], [4.0])
    before = segmenter.segment(volume, foreground_ijk=[(38, 40, 20)])
    after = segmenter.segment(volume, foreground_ijk=[(38, 40, 20)], background_ijk=[(70, 70, 35)])
    np.testing.assert_array_equal(whole(before, volume), whole(after, volume))


def test_background_clicks_alone_give_an_empty_result(segmenter):
    volume, _ = scan([(38, 40, 20)], [4.0])
    result = segmenter.segment(volume, foreground_ijk=[], background_ijk=[(38, 40, 20)])
    assert result.box.is_empty
    assert result.mask.size == 0
    assert result.uncertainty == 0.0


def test_nothing_outside_the_roi_is_segmented(segmenter):
    volume, (ball,) = scan([(40, 38, 20)], [6.0])
    roi = IndexBox(start_ijk=(20, 20, 5), stop_ijk=(41, 60, 35))
    mask = whole(segmenter.segment(volume, foreground_ijk=[(38, 38, 20)], roi=roi), volume)
    inside = np.zeros_like(mask)
    inside[roi.slices] = True
    assert not np.any(mask & ~inside)
    assert dice(mask, ball & inside) > 0.9


def test_a_roi_that_reaches_outside_the_scan_is_clipped(segmenter):
    volume, (ball,) = scan([(4, 38, 20)], [6.0])
    roi = IndexBox(start_ijk=(-20, -5, -5), stop_ijk=(200, 200, 200))
    mask = whole(segmenter.segment(volume, foreground_ijk=[(4, 38, 20)], roi=roi), volume)
    assert dice(mask, ball) > 0.9


def test_a_nodule_that_fills_its_patch_is_looked_at_again_in_a_coarser_one():
    engine = BrightIsNodule()
    volume, (ball,) = scan([(40, 40, 20)], [19.0], shape=(80, 81, 45), spacing=(0.9, 0.9, 1.5))
    mask = whole(ClickSegmenter(engine).segment(volume, foreground_ijk=[(30, 44, 22)]), volume)
    assert engine.runs > 1
    assert dice(mask, ball) > 0.95


class Watching(BrightIsNodule):
    """An engine that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def run(self, batch):
        self.batches.append(batch)
        return super().run(batch)


@pytest.mark.parametrize("radius_mm", [2.2, 5.0, 14.0, 19.0])
@pytest.mark.parametrize("off", [(0, 0, 0), (2, -1, 0)], ids=["middle", "aside"])
def test_the_second_look_shows_a_nodule_of_any_size_in_the_same_way(radius_mm, off):
    engine = Watching()
    volume, (ball,) = scan([(40, 38, 35)], [radius_mm], shape=(100, 101, 70), spacing=(0.7, 0.7, 0.8))
    click = tuple(a + b for a, b in zip((40, 38, 35), off, strict=True))
    mask = whole(ClickSegmenter(engine).segment(volume, foreground_ijk=[click]), volume)
    assert dice(mask, ball) > 0.85
    bright = np.argwhere(engine.batches[-1][0, 0] > -0.2)
    sides = np.ptp(bright, axis=0) + 1
    assert np.all(np.abs(bright.mean(axis=0) - 15.5) <= 2.0)
    assert sides.max() <= 22 and (radius_mm < 4 or sides.max() >= 14)


@pytest.mark.parametrize("views", [2, 8], ids=["usually", "from all sides"])
def test_the_second_look_averages_mirrored_views(views):
    engine = Watching()
    volume, _ = scan([(40, 38, 20)], [5.0])
    segmenter = ClickSegmenter(engine)
    if views == 8:
        segmenter = segmenter.from_all_sides()
    segmenter.segment(volume, foreground_ijk=[(41, 37, 21)])
    first, second, at_another_scale = engine.batches[0], *engine.batches[-2:]
    assert len(first) == 1
    assert len(second) == views
    assert len(at_another_scale) == VIEWS_OF_A_SCALE
    assert len({view.tobytes() for view in second}) == views
    np.testing.assert_array_equal(second[1], second[0][:, ::-1, ::-1, ::-1])


@pytest.mark.parametrize(
    ("extent_mm", "spacing_mm", "other_mm"),
    [(5.0, 0.5, 0.35), (8.0, 0.5, 0.545), (14.0, 0.795, 0.955), (25.0, 0.919, 1.103), (90.0, 2.4, 2.4)],
)
def test_a_large_nodule_is_shown_larger_and_a_small_one_finer_at_the_other_scale(extent_mm, spacing_mm, other_mm):
    config = ClickConfig.of_checkpoint(CONFIG)
    assert config.second_spacing_mm(extent_mm) == pytest.approx(spacing_mm, abs=0.01)
    assert config.scaled_spacing_mm(extent_mm, 1.2) == pytest.approx(other_mm, abs=0.01)


def test_a_network_that_is_used_to_large_nodules_sees_them_no_smaller():
    config = ClickConfig.of_checkpoint({**CONFIG, "fill": 0.9})
    assert config.second_spacing_mm(30.0) == pytest.approx(30.0 / (0.9 * 32))


class SaysInTurn(BrightIsNodule):
    """Answers each run with the next of some logits."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = iter(logits)

    def run(self, batch):
        return np.where(super().run(batch) > 0, next(self.logits), -4.0).astype(np.float32)


def test_scales_that_differ_are_averaged():
    volume, _ = scan([(40, 38, 20)], [5.0])
    engine = SaysInTurn(4.0, 3.0, 0.5)
    result = ClickSegmenter(engine).segment(volume, foreground_ijk=[(40, 38, 20)])
    middle = tuple(int(n) for n in np.subtract((40, 38, 20), result.box.start_ijk))
    expected = (1 / (1 + np.exp(-3.0)) + 1 / (1 + np.exp(-0.5))) / 2
    assert result.probability[middle] == pytest.approx(expected, abs=0.01)


def test_beyond_the_finer_scale_the_coarser_one_says_what_is_there(segmenter):
    volume, (ball,) = scan([(40, 38, 20)], [2.2])
    result = segmenter.segment(volume, foreground_ijk=[(40, 38, 20)])
    assert dice(whole(result, volume), ball) > 0.85
    sides_mm = np.multiply(result.box.shape_ijk, volume.geometry.spacing_mm)
    assert np.all(sides_mm > 0.9 * 32 * 0.5), "the box is that of the coarser scale"


def test_nothing_outside_what_was_looked_at_matters():
    volume, _ = scan([(30, 38, 20), (36, 38, 20)], [4.0, 4.0])
    clicks = {"foreground_ijk": [(30, 38, 20), (29, 37, 20)], "background_ijk": [(37, 38, 20)]}
    result = ClickSegmenter(BrightIsNodule()).segment(volume, **clicks)
    image_hu = np.full_like(volume.image_hu, 50)
    image_hu[result.looked_at.slices] = volume.image_hu[result.looked_at.slices]
    again = ClickSegmenter(BrightIsNodule()).segment(Volume(geometry=volume.geometry, image_hu=image_hu), **clicks)
    assert result.looked_at.shape_ijk != volume.geometry.shape_ijk
    np.testing.assert_array_equal(whole(again, volume), whole(result, volume))


def test_half_the_views_see_each_direction_as_often():
    assert all(sum(axis in flip for flip in FLIPS[:count]) == count / 2 for axis in range(3) for count in (2, 4, 8))


def test_mirrored_answers_are_turned_back(segmenter):
    volume, _ = scan([(40, 38, 20), (44, 40, 21), (39, 42, 23)], [4.0, 3.0, 2.0])  # nothing in it is symmetric
    result = segmenter.segment(volume, foreground_ijk=[(40, 38, 20)])
    assert dice(whole(result, volume), volume.image_hu > 0) > 0.9
    assert np.all((result.probability < 0.2) | (result.probability > 0.5) | ~result.mask)


def test_beyond_the_scan_the_network_is_told_so():
    engine = Watching()
    volume, _ = scan([(40, 38, 1)], [5.0])
    ClickSegmenter(engine).segment(volume, foreground_ijk=[(40, 38, 1)])
    inside = engine.batches[-1][0, 3]
    assert 0 < np.count_nonzero(inside == 0) < inside.size
    assert inside[16, 16, -1] == 1
    assert inside[16, 16, 0] == 0


def test_a_nodule_cut_by_the_end_of_the_scan_does_not_fill_its_patch():
    engine = BrightIsNodule()
    volume, (ball,) = scan([(40, 38, 1)], [5.0])
    mask = whole(ClickSegmenter(engine).segment(volume, foreground_ijk=[(40, 38, 1)]), volume)
    assert engine.runs == 3
    assert dice(mask, ball) > 0.9


def test_weights_that_looked_only_once_are_refused():
    with pytest.raises(ModelError, match=r"older medai \(their config lacks coarsest_mm, fill, finest_mm"):
        ClickConfig.of_checkpoint({"task": "nodule_click", "patch_shape": [48, 48, 48], "spacing_mm": 0.75})


def test_uncertainty_is_what_is_missing_of_the_expected_dice():
    volume, _ = scan([(40, 38, 20)], [5.0])
    sure = ClickSegmenter(BrightIsNodule()).segment(volume, foreground_ijk=[(40, 38, 20)])
    unsure = ClickSegmenter(NeverSure()).segment(volume, foreground_ijk=[(40, 38, 20)])
    assert sure.uncertainty < 0.06
    assert unsure.uncertainty > 0.5


def test_where_the_network_hardly_believes_the_click_it_is_believed():
    volume, (ball,) = scan([(40, 38, 20)], [5.0])
    mask = whole(ClickSegmenter(NeverSure()).segment(volume, foreground_ijk=[(40, 38, 20)]), volume)
    assert dice(mask, ball) > 0.8


@pytest.mark.parametrize(
    ("click", "message"),
    [
        ((80, 0, 0), r"foreground click \(80, 0, 0\) lies outside the scan: valid are i 0–79, j 0–80, k 0–39"),
        ((0, -1, 0), "lies outside the scan"),
        ((1.5, 2, 3), "three whole voxel indices"),
        ((1, 2), "three whole voxel indices"),
        (("a", "b", "c"), "three whole voxel indices"),
    ],
)
def test_bad_clicks_are_refused_with_what_is_valid(segmenter, click, message):
    volume, _ = scan([(40, 38, 20)], [5.0])
    with pytest.raises(InputError, match=message):
        segmenter.segment(volume, foreground_ijk=[click])


def test_no_click_a_contradiction_and_too_many_are_refused(segmenter):
    volume, _ = scan([(40, 38, 20)], [5.0])
    with pytest.raises(InputError, match="place a foreground point"):
        segmenter.segment(volume, foreground_ijk=[])
    with pytest.raises(InputError, match=r"\(40, 38, 20\) is clicked as foreground and as background"):
        segmenter.segment(volume, foreground_ijk=[(40, 38, 20)], background_ijk=[(40, 38, 20)])
    many = [(i, j, 3) for i in range(20) for j in range(20)]
    with pytest.raises(InputError, match=f"at most {MAX_CLICKS}"):
        segmenter.segment(volume, foreground_ijk=many)


def test_a_foreground_click_outside_the_roi_is_refused(segmenter):
    volume, _ = scan([(40, 38, 20)], [5.0])
    roi = IndexBox(start_ijk=(0, 0, 0), stop_ijk=(20, 20, 20))
    with pytest.raises(InputError, match="outside the region of interest: it holds i 0–19"):
        segmenter.segment(volume, foreground_ijk=[(40, 38, 20)], roi=roi)


def test_weights_of_another_task_are_refused():
    with pytest.raises(ModelError, match="for 'nodule_detection', not for 'nodule_click'"):
        ClickConfig.of_checkpoint({**CONFIG, "task": "nodule_detection"})


class KnowsAnEdge(BrightIsNodule):
    """An engine that sees no nodule where a patch is all tissue, as inside a mass."""

    def run(self, batch):
        self.runs += 1
        bright = batch[:, :1] > -0.2
        return np.where(bright, -3.0 if bright.all() else 4.0, -6.0).astype(np.float32)


@pytest.mark.parametrize("click_ijk", [(40, 40, 20), (45, 37, 22)])
def test_inside_a_mass_the_click_is_looked_at_from_farther_away(click_ijk):
    # The first patch, 32 mm wide, lies wholly inside the mass.
    volume, (mass,) = scan([(40, 40, 20)], [29.0], shape=(100, 101, 60), spacing=(1.0, 1.0, 2.0))
    engine = KnowsAnEdge()
    result = ClickSegmenter(engine).segment(volume, foreground_ijk=[click_ijk])
    assert engine.runs <= 5
    assert dice(whole(result, volume), mass) > 0.9


def test_what_no_patch_believes_stays_small():
    volume, _ = scan([(40, 38, 20)], [6.0])
    result = ClickSegmenter(NeverSure()).segment(volume, foreground_ijk=[(41, 38, 20)])
    near, _ = scan([(41, 38, 20)], [8.0])
    assert whole(result, volume)[41, 38, 20]
    assert not np.any(whole(result, volume) & (near.image_hu < 0))


class LikesOneSide(BrightIsNodule):
    """Believes bright voxels in the lower half of what it is shown alone: mirrored views disagree."""

    def run(self, batch):
        logits = super().run(batch)
        logits[:, :, logits.shape[2] // 2 :] = -4.0
        return logits


class Nothing(BrightIsNodule):
    """Believes in no nodule at all."""

    def run(self, batch):
        return np.full_like(super().run(batch), -4.0)


def test_views_that_agree_vary_by_nothing_and_one_network_has_no_members():
    volume, _ = scan([(40, 41, 20)], [5.0])
    result = ClickSegmenter(BrightIsNodule()).segment(volume, foreground_ijk=[(40, 41, 20)])
    assert result.view_variation == 0.0
    assert result.member_information is None


def test_views_that_contradict_each_other_are_told():
    volume, _ = scan([(40, 41, 20)], [5.0])
    result = ClickSegmenter(LikesOneSide()).segment(volume, foreground_ijk=[(40, 41, 20)])
    # Each view has about one half of what all have together: Dice 2 · 0.5 / 1.5, and a little less.
    assert result.view_variation == pytest.approx(0.37, abs=0.08)


def test_members_that_contradict_each_other_are_told():
    volume, _ = scan([(40, 41, 20)], [5.0])
    alone = ClickSegmenter(BrightIsNodule()).segment(volume, foreground_ijk=[(40, 41, 20)])
    agreed = Committee([BrightIsNodule(), BrightIsNodule()], CONFIG)
    result = ClickSegmenter(agreed).segment(volume, foreground_ijk=[(40, 41, 20)])
    assert result.member_information == 0.0
    np.testing.assert_array_equal(whole(result, volume), whole(alone, volume))
    split = Committee([BrightIsNodule(), Nothing()], CONFIG)
    sure = 1 / (1 + np.exp(-4.0))
    # One says 0.982, the other 0.018: 1 bit less the 0.13 that each is unsure of by itself.
    expected = 1.0 - float(entropy_bits(sure))
    assert ClickSegmenter(split).segment(volume, foreground_ijk=[(40, 41, 20)]).member_information == pytest.approx(
        expected, abs=0.01
    )


def test_a_roi_outside_the_scan_is_named_with_what_is_valid(segmenter):
    roi = IndexBox(start_ijk=(200, 0, 3), stop_ijk=(240, 10, 9))
    with pytest.raises(
        InputError, match=r"\(i 200–239, j 0–9, k 3–8\) lies outside the scan: valid are i 0–79, j 0–80"
    ):
        segmenter.segment(scan([(40, 38, 20)], [5.0])[0], foreground_ijk=[(40, 38, 20)], roi=roi)
