"""Corrections worked by hand on anisotropic grids."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError
from medai.evaluation.corrections import correction_of, labels_dice, outline
from medai.geometry import VolumeGeometry

SHAPE = (10, 11, 12)
AXIAL = np.diag([0.5, 0.7, 2.0, 1.0])


def label_map(*boxes, shape=SHAPE, affine=AXIAL):
    """Boxes (start, stop) as values 1, 2, and so on."""
    labels = np.zeros(shape, dtype=np.uint8)
    for value, (start, stop) in enumerate(boxes, start=1):
        labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    segments = tuple(Segment(value=value, name=f"nodule {value}") for value in range(1, len(boxes) + 1))
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)
    return LabelMap(geometry=geometry, labels=labels, segments=segments)


CUBE = ((2, 2, 2), (5, 5, 5))


def test_an_accepted_proposal_needed_no_correction():
    found = correction_of(label_map(CUBE), label_map(CUBE))
    assert (found.dice, found.added_path_length_mm, found.volume_change_ml) == (1.0, 0.0, 0.0)
    assert (found.nodules_added, found.nodules_removed) == (0, 0)


def test_a_nodule_grown_by_one_column_redraws_that_side_of_its_outline():
    # 3×3×3 becomes 4×3×3. A slice of it has 10 outline voxels: 7 of the old 8, and the 3 at i = 5; there are 3 slices.
    found = correction_of(label_map(((2, 2, 2), (6, 5, 5))), label_map(CUBE))
    assert found.dice == pytest.approx(2 * 27 / (27 + 36))
    assert found.added_path_length_mm == pytest.approx(3 * 3 * 0.6)
    assert found.volume_change_ml == pytest.approx(9 * 0.7 / 1000)


def test_a_slice_more_is_drawn_as_a_whole_outline():
    found = correction_of(label_map(((2, 2, 2), (5, 5, 6))), label_map(CUBE))
    assert found.added_path_length_mm == pytest.approx(8 * 0.6)


def test_slices_are_those_across_the_head_foot_axis():
    # The same scan with its axes turned: i runs to the head. Slices lie along i and their pixels are 0.7 by 2 mm.
    turned = np.array([[0, 0.7, 0, 0], [0, 0, 2.0, 0], [0.5, 0, 0, 0], [0, 0, 0, 1.0]])
    found = correction_of(label_map(((2, 2, 2), (6, 5, 5)), affine=turned), label_map(CUBE, affine=turned))
    assert found.added_path_length_mm == pytest.approx(8 * 1.35)


def test_nodules_are_added_and_removed_by_overlap():
    far, other = ((7, 7, 8), (9, 9, 10)), ((0, 8, 0), (2, 10, 2))
    found = correction_of(label_map(CUBE, far), label_map(other, ((3, 3, 3), (6, 6, 6))))
    assert (found.nodules_added, found.nodules_removed) == (1, 1)


def test_a_stray_voxel_is_no_nodule():
    assert correction_of(label_map(CUBE, ((9, 9, 9), (10, 10, 10))), label_map(CUBE)).nodules_added == 0


def test_a_proposal_emptied_and_one_drawn_from_nothing():
    emptied, drawn = correction_of(label_map(), label_map(CUBE)), correction_of(label_map(CUBE), label_map())
    assert (emptied.dice, emptied.nodules_removed, emptied.added_path_length_mm) == (0.0, 1, 0.0)
    assert (drawn.dice, drawn.nodules_added) == (0.0, 1)
    assert drawn.added_path_length_mm == pytest.approx(3 * 8 * 0.6)
    assert correction_of(label_map(), label_map()).dice == 1.0


def test_labels_of_two_scans_are_not_compared():
    with pytest.raises(GeometryError, match="must share its grid"):
        labels_dice(label_map(CUBE), label_map(CUBE, affine=np.diag([1.0, 0.7, 2.0, 1.0])))


def test_the_outline_of_a_block_is_its_rim_in_each_slice():
    block = np.ones((4, 5, 2), dtype=bool)
    assert np.count_nonzero(outline(block, 2)) == 2 * (4 * 5 - 2 * 3)
