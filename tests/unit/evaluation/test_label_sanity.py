"""What is held, what is told, and what must be neither."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment, Volume
from medai.evaluation.label_sanity import agreement_problem, check_label, emptied_problem
from medai.geometry import VolumeGeometry

SHAPE = (80, 70, 12)
GEOMETRY = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([4.0, 4.5, 5.0, 1.0]))
FINE = VolumeGeometry(shape_ijk=(90, 84, 36), affine_ijk_to_ras_mm=np.diag([0.8, 0.75, 1.5, 1.0]))


def label_map(labels, geometry=GEOMETRY, names=("nodule",)):
    segments = tuple(Segment(value=value, name=name) for value, name in enumerate(names, start=1))
    return LabelMap(geometry=geometry, labels=labels.astype(np.uint8), segments=segments)


def block(start, stop):
    labels = np.zeros(SHAPE)
    labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return label_map(labels)


def ball(centre_ijk, radius_mm, geometry=FINE):
    """True where a voxel's middle lies in the ball."""
    away_mm = [
        (n - c) * side
        for n, c, side in zip(np.indices(geometry.shape_ijk), centre_ijk, geometry.spacing_mm, strict=True)
    ]
    return sum(d**2 for d in away_mm) <= radius_mm**2


@pytest.fixture(scope="module")
def chest():
    """A trunk of soft tissue with one lung in air, and a table of 0 HU under it."""
    image_hu = np.full(SHAPE, -1000, dtype=np.int16)
    image_hu[10:70, 10:50] = 40
    image_hu[20:40, 20:40] = -850
    image_hu[28:31, 28:31, 4:7] = 20
    image_hu[10:70, 60:64] = 0
    return Volume(geometry=GEOMETRY, image_hu=image_hu)


@pytest.fixture(scope="module")
def lung():
    """Lung with noise, a chest wall on the left, a solid nodule (10 mm), one on the wall, and a ground-glass one."""
    rng = np.random.default_rng(5)
    image_hu = np.full(FINE.shape_ijk, -850.0)
    image_hu[:12] = 40
    for centre, radius_mm, nodule_hu in (((45, 42, 18), 5.0, 20), ((13, 42, 18), 5.0, 30), ((68, 24, 20), 6.0, -680)):
        image_hu[ball(centre, radius_mm)] = np.maximum(image_hu[ball(centre, radius_mm)], nodule_hu)
    image_hu += rng.normal(0, 25, FINE.shape_ijk)
    return Volume(geometry=FINE, image_hu=np.round(image_hu).astype(np.int16))


SOLID, PLEURAL, FAINT = ((45, 42, 18), 5.0), ((15, 42, 18), 4.6), ((68, 24, 20), 6.0)


@pytest.mark.parametrize("nodule", [SOLID, PLEURAL, FAINT], ids=["solid", "on the wall", "ground glass"])
@pytest.mark.parametrize("larger_mm", [-0.6, 0.0, 1.0])
def test_an_honest_outline_is_neither_held_nor_told(lung, nodule, larger_mm):
    centre, radius_mm = nodule
    found = check_label(label_map(ball(centre, radius_mm + larger_mm), FINE), lung)
    assert (found.reason, found.notes, found.nodules) == ("", (), 1)


def test_a_nodule_outlined_in_one_slice_is_honest(lung):
    drawn = ball(*SOLID)
    drawn[..., :18] = drawn[..., 19:] = False
    assert check_label(label_map(drawn, FINE), lung).reason == ""


def test_an_answer_that_there_is_nothing_is_fine(chest):
    found = check_label(label_map(np.zeros(SHAPE)), chest)
    assert (found.reason, found.notes, found.nodules) == ("", (), 0)


@pytest.mark.parametrize("offset", [(8, 0, 0), (-8, 0, 0), (0, -8, 0), (0, 0, 4), (5, 5, 2)])
def test_an_outline_that_was_shifted_off_its_nodule(lung, offset):
    centre, radius_mm = SOLID
    moved = ball(tuple(a + b for a, b in zip(centre, offset, strict=True)), radius_mm)
    assert check_label(label_map(moved, FINE), lung).reason.startswith("segment 'nodule': ")


def test_an_outline_shifted_off_its_nodule_says_how_far_away_it_would_fit(lung):
    centre, radius_mm = SOLID
    found = check_label(label_map(ball((centre[0] + 7, centre[1], centre[2]), radius_mm), FINE), lung)
    assert "the outline would fit far better 6 mm away" in found.reason


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_label(lung, axis):
    assert check_label(label_map(np.flip(ball(*FAINT), axis), FINE), lung).reason != ""


def test_what_lies_all_in_the_chest_wall_is_no_nodule(lung):
    assert check_label(label_map(ball((5, 20, 18), 2.6), FINE), lung).reason.startswith("segment 'nodule': ")


def test_everything_around_a_nodule_instead_of_it(lung):
    around = np.zeros(FINE.shape_ijk, dtype=bool)
    around[36:55, 33:52, 13:24] = True
    around &= ~ball(*SOLID)
    assert check_label(label_map(around, FINE), lung).reason != ""


@pytest.mark.parametrize("inverted", [False, True])
def test_a_whole_scan(lung, inverted):
    labels = ~ball(*SOLID) if inverted else np.ones(FINE.shape_ijk, dtype=bool)
    found = check_label(label_map(labels, FINE), lung)
    assert "it covers 100% of the scan, more than nodules can" in found.reason
    assert found.nodules == 0


def test_an_absurd_volume():
    # 40 × 40 × 12 voxels of 90 mm³
    assert "1728 ml" in check_label(block((0, 0, 0), (40, 40, 12)), None).reason


def test_a_label_in_the_air_beside_the_patient(chest):
    reason = check_label(block((0, 0, 0), (5, 5, 5)), chest).reason
    assert reason == "segment 'nodule': 100% of it is air (below -900 HU), where no nodule can be"


def test_a_label_on_the_table(chest):
    reason = check_label(block((20, 60, 2), (26, 64, 6)), chest).reason
    assert reason == "segment 'nodule': 100% of it lies outside the body"


def test_a_lung_is_no_nodule(chest):
    reason = check_label(block((10, 45, 3), (55, 49, 5)), chest).reason
    assert reason == "segment 'nodule': it is 180 mm long, and no nodule is (the bound is 120 mm)"


def test_a_shattered_label():
    labels = np.zeros(SHAPE)
    labels[::3, ::3, ::3] = 1
    assert "2592 separate parts" in check_label(label_map(labels, _of_spacing(0.5, 0.5, 1.0)), None).reason


def test_voxels_that_lie_strewn():
    labels = np.zeros(SHAPE)
    labels[30:40, 30:40, 3:9] = np.random.default_rng(1).random((10, 10, 6)) < 0.2
    assert "its voxels lie strewn" in check_label(label_map(labels, _of_spacing(2.0, 2.0, 2.0)), None).reason


def test_a_lonely_voxel(lung):
    labels = np.zeros(FINE.shape_ijk)
    labels[45, 42, 18] = 1
    found = check_label(label_map(labels, FINE), lung)
    assert found.reason == "it holds nothing as large as a nodule: one part of 1 voxel in all (0.9 mm³)"
    assert found.nodules == 0


def test_crumbs_beside_a_nodule_are_told_segment_by_segment_and_not_counted(lung):
    labels = ball(*SOLID).astype(int)
    labels[60, 60, 10:14] = 2
    for k in (4, 30):
        labels[70, 70, k] = 3
    found = check_label(label_map(labels, FINE, ("nodule 1", "nodule 2", "nodule 3")), lung)
    assert found.reason == ""
    assert found.nodules == 1
    assert found.notes == (
        "segment 'nodule 2': 4 voxels, too small to be a nodule: not counted, and no training learns from it.",
        "segment 'nodule 3': 2 specks of 1 to 1 voxels, too small to be a nodule: not counted, and no training learns "
        "from it.",
    )


def test_specks_all_over_the_scan_beside_a_nodule(lung):
    labels = ball(*SOLID)
    labels[::12, ::12, ::12] = True
    assert "strewn with" in check_label(label_map(labels, FINE), lung).reason


def test_one_odd_nodule_among_three_is_told_and_does_not_hold_the_label(lung):
    labels = ball(*SOLID) | ball(*FAINT)
    labels = labels.astype(int)
    labels[ball((75, 70, 18), 3.0)] = 2
    found = check_label(label_map(labels, FINE, ("nodule 1", "nodule 2")), lung)
    assert found.reason == ""
    assert len(found.notes) == 1
    assert found.notes[0].startswith("segment 'nodule 2': ")


def test_most_of_a_label_decides_whether_it_is_held(lung):
    labels = ball(*SOLID) | ball((70, 60, 18), 7.0)
    assert check_label(label_map(labels, FINE), lung).reason.startswith("segment 'nodule': ")


def test_segments_that_touch_are_looked_at_together(lung):
    labels = ball(*SOLID).astype(int)
    labels[45:] *= 2
    assert check_label(label_map(labels, FINE, ("core", "rim")), lung).reason == ""


def test_without_its_scan_a_label_is_judged_by_its_shape_alone():
    assert check_label(label_map(ball((70, 60, 18), 7.0), FINE), None).reason == ""


@pytest.mark.parametrize(
    ("standing", "is_held"),
    [([], False), ([0], False), ([1], True), ([1, 0], False), ([2, 1, 0], True), ([1, 0, 0], False)],
)
def test_an_empty_label_is_held_only_against_more_labels_that_show_nodules(standing, is_held):
    assert ("it says that there is no nodule" in emptied_problem(standing)) is is_held


@pytest.mark.parametrize(
    ("standing", "candidates", "is_held"),
    [([], [0.97, 0.96, 0.4], True), ([], [0.99, 0.9], False), ([0], [0.97, 0.96], False), ([], [], False)],
)
def test_a_model_speaks_against_an_empty_label_only_where_it_is_sure_of_several(standing, candidates, is_held):
    assert ("the model is sure of 2 places" in emptied_problem(standing, candidates)) is is_held


def _of_spacing(*spacing_mm):
    return VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([*spacing_mm, 1.0]))


@pytest.mark.parametrize(
    ("peers", "proposal", "is_odd"),
    [
        ([0.1], None, False),
        ([0.1, 0.15], None, True),
        ([0.1, 0.15], 0.1, True),
        ([0.1, 0.2], 0.9, False),
        ([0.9, 0.8], 0.0, False),
        ([0.0, 0.0, 0.85], 0.1, False),
    ],
)
def test_a_label_is_odd_against_two_peers_and_the_model_only(peers, proposal, is_odd):
    assert ("Dice 0.15 at best" in agreement_problem(peers, proposal)) is is_odd
