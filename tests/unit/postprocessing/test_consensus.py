"""Several annotators' outlines of one case joined; cases worked by hand, STAPLE against two other implementations."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.postprocessing.consensus import SoftLabel, consensus, majority_vote, match_nodules, mean_label, staple

SHAPE = (20, 22, 12)
SPACING_MM = (0.7, 0.8, 2.5)


def geometry(shape=SHAPE):
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*SPACING_MM, 1.0]))


def label_map(*blocks, values=None, shape=SHAPE):
    labels = np.zeros(shape, dtype=np.uint8)
    used = values or range(1, len(blocks) + 1)
    for value, block in zip(used, blocks, strict=True):
        labels[tuple(slice(a, b) for a, b in block)] = value
    segments = tuple(Segment(value=value, name=f"Nodule {value}") for value in sorted(set(used)))
    return LabelMap(geometry=geometry(shape), labels=labels, segments=segments)


BIG = ((4, 8), (4, 8), (3, 5))
BIG_SHIFTED = ((5, 9), (4, 8), (3, 5))
LONE = ((14, 17), (15, 18), (7, 9))


def noisy_masks(rng, count=3):
    grid = np.indices((14, 15, 9)).astype(float)
    truth = sum((axis - c) ** 2 * s for axis, c, s in zip(grid, (7, 7, 4), (0.5, 0.6, 3.0), strict=True)) < 12
    flips = [0.03, 0.1, 0.2][:count]
    return truth, [truth ^ (rng.random(truth.shape) < flip) for flip in flips]


def own_staple(masks, rounds=300):
    """Expectation maximisation as in Warfield 2004, equations 14, 18 and 19, written anew."""
    votes = np.array([mask.ravel() for mask in masks], dtype=float)
    prior = votes.mean()
    p = np.full(len(votes), 0.99999)
    q = np.full(len(votes), 0.99999)
    for _ in range(rounds):
        a = prior * np.prod(np.where(votes == 1, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(votes == 0, q[:, None], 1 - q[:, None]), axis=0)
        weight = a / (a + b)
        p = (votes * weight).sum(axis=1) / weight.sum()
        q = ((1 - votes) * (1 - weight)).sum(axis=1) / (1 - weight).sum()
    return weight.reshape(masks[0].shape), p, q


def test_staple_is_what_the_equations_say():
    _, masks = noisy_masks(np.random.default_rng(1))
    found = staple(masks)
    weight, p, q = own_staple(masks)
    assert found.probability.dtype == np.float32
    assert np.allclose(found.probability, weight, atol=1e-3)
    assert np.allclose([r.sensitivity for r in found.readers], p, atol=1e-3)
    assert np.allclose([r.specificity for r in found.readers], q, atol=1e-3)


def test_staple_is_what_simpleitk_says():
    sitk = pytest.importorskip("SimpleITK")
    _, masks = noisy_masks(np.random.default_rng(2))
    found = staple(masks)
    other = sitk.STAPLEImageFilter()
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    probability = sitk.GetArrayFromImage(other.Execute(images))
    assert np.allclose(found.probability, probability, atol=1e-4)
    assert np.allclose([r.sensitivity for r in found.readers], other.GetSensitivity(), atol=1e-4)
    assert np.allclose([r.specificity for r in found.readers], other.GetSpecificity(), atol=1e-4)


def test_staple_ranks_readers_by_their_noise():
    truth, masks = noisy_masks(np.random.default_rng(3))
    found = staple(masks)
    sensitivity = [r.sensitivity for r in found.readers]
    assert sensitivity == sorted(sensitivity, reverse=True)
    assert np.mean((found.probability > 0.5) == truth) > 0.94


def test_majority_and_mean_by_hand():
    masks = [np.array([[[1, 1, 0, 0]]], bool), np.array([[[1, 0, 1, 0]]], bool), np.array([[[1, 1, 0, 0]]], bool)]
    assert majority_vote(masks).tolist() == [[[True, True, False, False]]]
    assert mean_label(masks) == pytest.approx(np.array([[[1, 2 / 3, 1 / 3, 0]]]))
    assert mean_label(masks).dtype == np.float32
    assert majority_vote(masks[:2]).tolist() == [[[True, False, False, False]]]


def test_a_nodule_of_one_of_three_is_soft_by_its_share_and_no_majority():
    answer = consensus([label_map(BIG, LONE), label_map(BIG), label_map(BIG_SHIFTED)], soft=SoftLabel.MEAN)
    assert [nodule.matched.share for nodule in answer.nodules] == pytest.approx([1.0, 1 / 3])
    assert [s.name for s in answer.majority.segments] == ["Nodule 1 - marked by 3 of 3"]
    expected = np.zeros(SHAPE, bool)
    expected[4:8, 4:8, 3:5] = True
    assert np.array_equal(answer.majority.labels == 1, expected)
    assert answer.soft.dtype == np.float32
    assert answer.soft[15, 16, 7] == pytest.approx(1 / 3)
    assert answer.soft[4, 5, 3] == pytest.approx(2 / 3)
    assert answer.soft[8, 5, 3] == pytest.approx(1 / 3)
    assert answer.soft[6, 5, 3] == 1.0


def test_the_soft_label_of_staple_is_scaled_by_the_share_too():
    answer = consensus([label_map(BIG, LONE), label_map(BIG), label_map(BIG), label_map()])
    assert answer.soft[5, 5, 3] == pytest.approx(3 / 4, abs=1e-3)
    assert answer.soft[15, 16, 7] == pytest.approx(1 / 4)
    assert answer.soft[0, 0, 0] == 0
    assert answer.nodules[0].readers[3] is None
    assert answer.nodules[1].readers == (None, None, None, None)
    assert answer.readers[0].sensitivity == pytest.approx(1.0, abs=1e-3)
    assert answer.readers[3] is None


def test_the_box_and_not_the_scan_decides_the_specificity():
    small = consensus([label_map(BIG), label_map(BIG), label_map(BIG_SHIFTED)])
    large = (40, 42, 30)
    wide = consensus([label_map(b, shape=large) for b in (BIG, BIG, BIG_SHIFTED)])
    assert small.readers[2].specificity == pytest.approx(wide.readers[2].specificity, abs=1e-6)
    assert small.readers[2].specificity < 0.999


def test_segments_and_one_value_for_all_are_matched_alike():
    first, second = label_map(BIG, LONE), label_map(LONE, BIG_SHIFTED, values=[7, 7])
    nodules = match_nodules([first, second])
    assert [nodule.values for nodule in nodules] == [((1,), (7,)), ((2,), (7,))]


def test_two_parts_of_one_reader_are_one_nodule_of_another():
    parts = label_map(((4, 6), (4, 8), (3, 5)), ((7, 9), (4, 8), (3, 5)))
    whole = label_map(((4, 9), (4, 8), (3, 5)))
    (nodule,) = match_nodules([parts, whole])
    assert nodule.values == ((1, 2), (1,))
    assert nodule.masks[0].sum() == 32


def test_small_outlines_that_miss_each_other_are_matched_by_their_middles():
    # The middles are 1.6 mm apart. 8 voxels of 1.4 mm3 are a ball with a radius of 1.4 mm, 16 one of 1.7 mm.
    here, beside = ((4, 8), (4, 6), (3, 4)), ((4, 8), (6, 8), (3, 4))
    assert len(match_nodules([label_map(here), label_map(beside)])) == 2
    thick, next_to_it = ((4, 8), (4, 6), (3, 5)), ((4, 8), (6, 8), (3, 5))
    assert len(match_nodules([label_map(thick), label_map(next_to_it)])) == 1
    assert len(match_nodules([label_map(thick, next_to_it), label_map()])) == 2


def test_a_flood_over_everything_does_not_join_the_nodules_in_it():
    flood = label_map(((0, 20), (0, 22), (0, 12)))
    nodules = match_nodules([label_map(BIG, LONE), label_map(BIG, LONE), flood])
    assert [nodule.values for nodule in nodules] == [((1,), (1,), ()), ((2,), (2,), ()), ((), (), (1,))]


def test_empty_maps_agree_that_there_is_nothing():
    answer = consensus([label_map(), label_map()])
    assert answer.nodules == ()
    assert not answer.soft.any()
    assert answer.readers == (None, None)


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(GeometryError, match="Label map 2 lies on another grid"):
        consensus([label_map(), label_map(shape=(20, 22, 13))])
    with pytest.raises(InputError, match="no label map"):
        match_nodules([])
    with pytest.raises(InputError, match="two masks at least"):
        staple([np.ones((2, 3, 4), bool)])
    with pytest.raises(GeometryError, match="crop them alike"):
        majority_vote([np.ones((2, 3, 4), bool), np.ones((2, 3, 5), bool)])
