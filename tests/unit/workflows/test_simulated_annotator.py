from dataclasses import dataclass

import numpy as np
import pytest

from medai.domain import LabelMap, Nodule, NoduleKind, Segment, Volume
from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry
from medai.workflows.simulated_annotator import annotate_case

# Flipped, turned and anisotropic: nothing here may depend on the axes.
GEOMETRY = VolumeGeometry(
    shape_ijk=(30, 33, 36),
    affine_ijk_to_ras_mm=np.array([[0, -0.8, 0, 5.0], [0.7, 0, 0, -7.0], [0, 0, -1.5, 9.0], [0, 0, 0, 1.0]]),
)
BOXES = (
    IndexBox(start_ijk=(4, 5, 6), stop_ijk=(10, 11, 12)),
    IndexBox(start_ijk=(18, 20, 22), stop_ijk=(25, 27, 29)),
)


@dataclass(frozen=True)
class Answer:
    box: IndexBox
    mask: np.ndarray


class FakeOutliner:
    """Outlines the true nodule at the click, cut short by ``missing`` voxels along i until clicked again."""

    def __init__(self, missing, learns=True):
        self.missing = missing
        self.learns = learns
        self.asked = []

    def segment(self, volume, *, foreground_ijk, background_ijk=()):
        self.asked.append((list(foreground_ijk), list(background_ijk)))
        for box in BOXES:
            offset = np.rint(volume.geometry.ras_to_ijk(GEOMETRY.ijk_to_ras(box.start_ijk))).astype(int)
            here = IndexBox(start_ijk=tuple(offset), stop_ijk=tuple(offset + box.shape_ijk))
            if here.contains(foreground_ijk[0]):
                mask = np.ones(box.shape_ijk, bool)
                if not self.learns or len(foreground_ijk) == 1:
                    mask[: self.missing] = False
                return Answer(here, mask)
        raise AssertionError("clicked outside every nodule")


@pytest.fixture
def volume():
    return Volume(geometry=GEOMETRY, image_hu=np.zeros(GEOMETRY.shape_ijk, np.int16), case_id="c")


@pytest.fixture
def truth():
    labels = np.zeros(GEOMETRY.shape_ijk, np.uint8)
    for value, box in enumerate(BOXES, start=1):
        labels[box.slices] = value
    segments = tuple(Segment(value=n, name=f"Nodule {n}") for n in (1, 2))
    return LabelMap(geometry=GEOMETRY, labels=labels, segments=segments)


def proposal(box):
    return Nodule(
        box=box,
        mask=np.ones(box.shape_ijk, bool),
        centre_ras_mm=(0.0, 0.0, 0.0),
        diameter_mm=5.0,
        volume_mm3=100.0,
        kind=NoduleKind.SOLID,
        probability=0.9,
    )


def annotate(volume, truth, proposals, outliner, max_clicks=4):
    return annotate_case(volume, truth, proposals, outliner, max_clicks=max_clicks, rng=np.random.default_rng(5))


def test_good_proposals_cost_no_click(volume, truth):
    outliner = FakeOutliner(missing=0)
    result = annotate(volume, truth, [proposal(box) for box in BOXES], outliner)
    assert [(n.found, n.clicks, n.final_dice) for n in result.nodules] == [(True, 0, 1.0), (True, 0, 1.0)]
    assert result.false_proposals == 0
    assert outliner.asked == []


def test_a_missed_nodule_is_clicked(volume, truth):
    result = annotate(volume, truth, [proposal(BOXES[0])], FakeOutliner(missing=0))
    assert [n.found for n in result.nodules] == [True, False]
    assert (result.nodules[1].clicks, result.nodules[1].first_click_dice) == (1, 1.0)


def test_a_bad_outline_is_corrected_at_its_largest_mistake(volume, truth):
    outliner = FakeOutliner(missing=4)
    result = annotate(volume, truth, [proposal(BOXES[1])], outliner)
    first = result.nodules[0]
    assert first.clicks == 2
    assert first.first_click_dice == pytest.approx(2 * 2 / (2 + 6))
    assert first.final_dice == 1.0
    foreground, background = outliner.asked[-1]
    assert len(foreground) == 2
    assert background == []


def test_clicking_ends_at_the_limit(volume, truth):
    result = annotate(volume, truth, [], FakeOutliner(missing=5, learns=False), max_clicks=3)
    assert all(n.clicks <= 3 for n in result.nodules)
    assert all(n.final_dice < 0.8 for n in result.nodules)


def test_a_proposal_elsewhere_is_false_and_a_poor_one_still_shows_the_place(volume, truth):
    elsewhere = proposal(IndexBox(start_ijk=(0, 0, 30), stop_ijk=(3, 3, 34)))
    poor = proposal(IndexBox(start_ijk=(4, 5, 6), stop_ijk=(7, 8, 9)))
    result = annotate(volume, truth, [elsewhere, poor], FakeOutliner(missing=0))
    assert result.false_proposals == 1
    assert result.nodules[0].found
    assert result.nodules[0].proposal_dice == pytest.approx(2 * 27 / (27 + 216))
    assert result.nodules[0].clicks == 1


def test_a_case_without_nodules_costs_only_its_false_proposals(volume, truth):
    empty = LabelMap(geometry=GEOMETRY, labels=np.zeros(GEOMETRY.shape_ijk, np.uint8), segments=())
    result = annotate(volume, empty, [proposal(BOXES[0])], FakeOutliner(missing=0))
    assert result.nodules == ()
    assert result.false_proposals == 1
    assert annotate(volume, empty, [], FakeOutliner(missing=0)).false_proposals == 0


def test_truth_on_another_grid_is_refused(volume):
    other = VolumeGeometry(shape_ijk=GEOMETRY.shape_ijk, affine_ijk_to_ras_mm=np.diag([3.0, 3.0, 3.0, 1.0]))
    truth = LabelMap(geometry=other, labels=np.zeros(other.shape_ijk, np.uint8), segments=())
    with pytest.raises(GeometryError, match="truth of case 'c' lies on another grid"):
        annotate(volume, truth, [], FakeOutliner(missing=0))
