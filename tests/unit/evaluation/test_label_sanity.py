"""What is quarantined, and what must not be."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment, Volume
from medai.evaluation.label_sanity import (
    agreement_problem,
    air_problem,
    contrast_problem,
    place_problem,
    shape_problem,
)
from medai.geometry import VolumeGeometry

SHAPE = (80, 70, 12)
GEOMETRY = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([4.0, 4.5, 5.0, 1.0]))


def label_map(labels, geometry=GEOMETRY):
    segments = (Segment(value=1, name="nodule"),)
    return LabelMap(geometry=geometry, labels=labels.astype(np.uint8), segments=segments)


def block(start, stop):
    labels = np.zeros(SHAPE)
    labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return label_map(labels)


@pytest.fixture
def chest():
    """A trunk of soft tissue with one lung in air, and a table of 0 HU under it."""
    image_hu = np.full(SHAPE, -1000, dtype=np.int16)
    image_hu[10:70, 10:50] = 40
    image_hu[20:40, 20:40] = -850
    image_hu[10:70, 60:64] = 0
    return Volume(geometry=GEOMETRY, image_hu=image_hu)


def test_a_nodule_in_the_lung_is_fine_in_every_respect(chest):
    nodule = block((28, 28, 4), (31, 31, 7))
    assert shape_problem(nodule) == ""
    assert air_problem(nodule, chest) == ""
    assert place_problem(nodule, chest) == ""


def test_a_label_in_the_air_beside_the_patient(chest):
    assert "is air (below -900 HU)" in air_problem(block((0, 0, 0), (5, 5, 5)), chest)
    assert "outside the body" in place_problem(block((0, 0, 0), (5, 5, 5)), chest)


def test_a_label_on_the_table(chest):
    assert place_problem(block((20, 60, 2), (26, 64, 6)), chest) == "100% of it lies outside the body"


def test_a_crop_is_not_judged_by_its_body():
    geometry = VolumeGeometry(shape_ijk=(30, 31, 12), affine_ijk_to_ras_mm=np.diag([1.0, 1.0, 2.0, 1.0]))
    image_hu = np.full(geometry.shape_ijk, -850, dtype=np.int16)
    image_hu[:, :5] = 40
    labels = np.zeros(geometry.shape_ijk)
    labels[10:14, 12:16, 4:8] = 1
    assert place_problem(label_map(labels, geometry), Volume(geometry=geometry, image_hu=image_hu)) == ""


def test_an_empty_label_has_nothing_wrong_with_it(chest):
    empty = label_map(np.zeros(SHAPE))
    assert shape_problem(empty) == air_problem(empty, chest) == place_problem(empty, chest) == ""


def test_a_shattered_label():
    labels = np.zeros(SHAPE)
    labels[::3, ::3, ::3] = 1
    fine = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([0.5, 0.5, 1.0, 1.0]))
    assert "2592 separate parts" in shape_problem(label_map(labels, fine))


def test_voxels_that_lie_strewn():
    labels = np.zeros(SHAPE)
    labels[30:40, 30:40, 3:9] = np.random.default_rng(1).random((10, 10, 6)) < 0.2
    assert "its voxels lie strewn: 18%" in shape_problem(label_map(labels))


def test_a_small_nodule_does_not_lie_strewn():
    labels = np.zeros(SHAPE)
    labels[30, 30, 3:9:2] = 1
    assert shape_problem(label_map(labels)) == ""


@pytest.fixture
def lung_with_nodule():
    """A nodule of 20 HU, 12 mm, in lung of -850 HU with noise."""
    rng = np.random.default_rng(5)
    geometry = VolumeGeometry(shape_ijk=(60, 62, 20), affine_ijk_to_ras_mm=np.diag([0.8, 0.8, 2.0, 1.0]))
    image_hu = rng.normal(-850, 40, geometry.shape_ijk)
    nodule = np.zeros(geometry.shape_ijk, dtype=bool)
    nodule[20:35, 20:35, 6:12] = True
    image_hu[nodule] += 870
    return Volume(geometry=geometry, image_hu=np.round(image_hu).astype(np.int16)), nodule


def test_a_nodule_stands_out(lung_with_nodule):
    volume, nodule = lung_with_nodule
    assert contrast_problem(label_map(nodule, volume.geometry), volume) == ""
    # Twice as large as it is, somebody's careless outline still holds it.
    wide = np.zeros_like(nodule)
    wide[18:37, 18:37, 5:13] = True
    assert contrast_problem(label_map(wide, volume.geometry), volume) == ""


def test_what_shows_nothing_and_what_goes_around_a_nodule(lung_with_nodule):
    volume, nodule = lung_with_nodule
    elsewhere = np.roll(nodule, 25, axis=0)
    assert "100% of it is no denser than what lies within 3 mm" in contrast_problem(
        label_map(elsewhere, volume.geometry), volume
    )
    around = np.zeros_like(nodule)
    around[15:40, 15:40, 4:14] = True
    around &= ~nodule
    assert "is no denser" in contrast_problem(label_map(around, volume.geometry), volume)


def test_most_of_a_label_decides_whether_it_stands_out(lung_with_nodule):
    volume, nodule = lung_with_nodule
    with_slip = nodule.copy()
    with_slip[50:53, 50:53, 3:5] = True
    assert contrast_problem(label_map(with_slip, volume.geometry), volume) == ""
    assert contrast_problem(label_map(np.zeros_like(nodule), volume.geometry), volume) == ""
    everything = np.ones_like(nodule)
    assert contrast_problem(label_map(everything, volume.geometry), volume) == ""


def test_an_absurd_volume():
    # 40 × 40 × 12 voxels of 90 mm³
    assert "1728 ml" in shape_problem(block((0, 0, 0), (40, 40, 12)))


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
