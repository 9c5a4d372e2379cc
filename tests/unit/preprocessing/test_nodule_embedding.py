"""Alike nodules lie near each other, whatever grid they are on."""

from dataclasses import replace

import numpy as np
import pytest

from medai.domain import Nodule, NoduleAssessment, NoduleKind, RatedProbability, Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.postprocessing.nodules import nodule_from_mask
from medai.preprocessing.nodule_embedding import EMBEDDING_LENGTH, nodule_embedding

SHAPE = (50, 52, 40)


def ball(radius_mm, hu=30, *, spacing=(0.7, 0.7, 1.0), flip=1) -> tuple[Volume, Nodule]:
    affine = np.diag([spacing[0] * flip, *spacing[1:], 1.0])
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine)
    places = np.moveaxis(np.indices(SHAPE), 0, -1) * spacing
    mask = np.linalg.norm(places - np.array([25, 26, 20]) * spacing, axis=-1) < radius_mm
    volume = Volume(geometry=geometry, image_hu=np.where(mask, hu, -850).astype(np.int16))
    return volume, nodule_from_mask(volume, IndexBox.of_shape(SHAPE), mask, probability=0.9)


def distance(first, second):
    return float(np.linalg.norm(nodule_embedding(*first) - nodule_embedding(*second)))


def test_sixteen_finite_numbers():
    found = nodule_embedding(*ball(4.0))
    assert (found.shape, found.dtype) == ((EMBEDDING_LENGTH,), np.float32)
    assert np.isfinite(found).all()


def test_size_and_density_part_nodules_more_than_the_grid_does():
    same = distance(ball(4.0), ball(4.0, spacing=(0.6, 0.6, 1.25), flip=-1))
    assert same < 0.6
    assert distance(ball(4.0), ball(8.0)) > 2 * same
    assert distance(ball(4.0), ball(4.0, hu=-600)) > 2 * same


def test_ratings_are_half_of_it_and_middling_where_there_are_none():
    volume, nodule = ball(4.0)
    rated = NoduleAssessment(
        malignancy=RatedProbability(value=0.9, low=0.8, high=1.0),
        malignancy_rating=4.5,
        ratings={"malignancy": 4.5, "calcification": 1.0},
        kind=NoduleKind.SOLID,
    )
    found = nodule_embedding(volume, replace(nodule, assessment=rated))
    assert found[8] == pytest.approx(1.5)
    assert found[15] == pytest.approx(-2.0)
    assert nodule_embedding(volume, nodule)[8:].tolist() == [0.0] * 8


def test_a_nodule_that_fills_the_scan_has_no_surroundings():
    geometry = VolumeGeometry(shape_ijk=(4, 5, 6), affine_ijk_to_ras_mm=np.eye(4))
    volume = Volume(geometry=geometry, image_hu=np.zeros((4, 5, 6), np.int16))
    nodule = nodule_from_mask(volume, IndexBox.of_shape((4, 5, 6)), np.ones((4, 5, 6), bool), probability=1.0)
    assert np.isfinite(nodule_embedding(volume, nodule)).all()
