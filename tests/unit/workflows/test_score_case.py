"""From a prediction to the numbers by which a case is chosen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.score_factory import VERSIONS, candidate, case_score

from medai.active_learning.cost import AnnotationCost
from medai.domain import Nodule, NoduleAssessment, NoduleKind, OutlineDoubt, Prediction, RatedProbability, Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.nodule_embedding import EMBEDDING_LENGTH
from medai.workflows.score_case import model_disagreement, score_case

SHAPE = (40, 41, 30)
AFFINE = np.array([[-0.7, 0, 0, 5.0], [0, 0, 2.0, -7.0], [0, 0.8, 0, 9.0], [0, 0, 0, 1.0]])
GEOMETRY = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=AFFINE)
RATED = NoduleAssessment(
    malignancy=RatedProbability(value=0.25, low=0.1, high=0.4),
    malignancy_rating=2.5,
    ratings={"malignancy": 2.5, "texture": 5.0},
    kind=NoduleKind.NON_SOLID,
    member_information=0.125,
)


def volume():
    image_hu = np.full(SHAPE, -850, np.int16)
    image_hu[10:16, 10:16, 10:13] = 30
    return Volume(geometry=GEOMETRY, image_hu=image_hu, case_id="case-7")


def nodule(probability, *, assessment=None, doubt=None):
    box = IndexBox(start_ijk=(10, 10, 10), stop_ijk=(16, 16, 13))
    return Nodule(
        box=box,
        mask=np.ones(box.shape_ijk, bool),
        centre_ras_mm=(1.0, 2.0, 3.0),
        diameter_mm=5.0,
        volume_mm3=120.0,
        kind=NoduleKind.SOLID,
        probability=probability,
        assessment=assessment,
        doubt=doubt,
    )


class FixedNodules:
    def __init__(self, *nodules, versions=None):
        self.nodules, self.versions = nodules, versions or VERSIONS

    def predict(self, volume):
        return Prediction(
            case_id=volume.case_id, geometry=volume.geometry, nodules=self.nodules, model_versions=dict(self.versions)
        )


def test_each_number_is_what_its_model_said():
    doubt = OutlineDoubt(expected_error=0.2, view_variation=0.3, member_information=0.0625)
    score = score_case(volume(), FixedNodules(nodule(0.5, assessment=RATED, doubt=doubt)), now=lambda: 77.0)
    (found,) = score.candidates
    assert (score.case_id, score.scored_at_s, dict(score.model_versions)) == ("case-7", 77.0, VERSIONS)
    assert (found.probability, found.entropy, found.diameter_mm, found.volume_ml) == (0.5, 1.0, 5.0, 0.12)
    assert (found.predicted_class, found.malignancy) == ("non-solid, benign", 0.25)
    assert (found.mutual_information, found.test_time_variation, found.outline_doubt) == (0.125, 0.3, 0.2)
    assert score.disagreement is None


def test_what_no_model_tells_is_none():
    (found,) = score_case(volume(), FixedNodules(nodule(0.25))).candidates
    assert found.predicted_class == "solid"
    assert (found.malignancy, found.mutual_information, found.test_time_variation) == (None, None, None)


def test_a_scan_of_noisy_air_scores_nothing():
    score = score_case(volume(), FixedNodules())
    assert (score.candidates, score.embedding, score.expected_nodules) == ((), None, 0)


def test_minutes_follow_what_there_is_to_outline():
    cost = AnnotationCost(minutes_a_case=2.0, minutes_a_nodule=4.0, minutes_a_ml=10.0)
    score = score_case(volume(), FixedNodules(nodule(0.5), nodule(0.25)), cost=cost)
    assert score.expected_minutes == pytest.approx(2.0 + 4.0 * 0.75 + 10.0 * 0.75 * 0.12)
    assert score.expected_volume_ml == pytest.approx(0.09)


def test_the_embedding_is_the_mean_by_probability():
    alone = score_case(volume(), FixedNodules(nodule(0.5, assessment=RATED))).embedding
    unrated = score_case(volume(), FixedNodules(nodule(0.5))).embedding
    both = score_case(volume(), FixedNodules(nodule(0.75, assessment=RATED), nodule(0.25))).embedding
    assert alone.shape == (EMBEDDING_LENGTH,)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(both, 0.75 * alone + 0.25 * unrated, rtol=1e-5)
    # texture 5 is two above the middle, malignancy 2.5 half below
    assert (alone - unrated)[8:].tolist() == [-0.5, 0, 2.0, 0, 0, 0, 0, 0]


def test_models_of_another_version_are_compared_and_the_same_ones_are_not():
    first = score_case(volume(), FixedNodules(nodule(0.75)))
    again = score_case(volume(), FixedNodules(nodule(0.5)), previous=first)
    assert again.disagreement is None
    newer = score_case(volume(), FixedNodules(nodule(0.5), versions={**VERSIONS, "nodule_click": "v2"}), previous=first)
    assert newer.disagreement == 0.25


def test_two_models_differ_by_probability_size_and_what_one_alone_has():
    here, there = candidate(0.75), candidate(0.5, centre_ras_mm=(30.0, 2.0, 3.0))
    assert model_disagreement([here], [here]) == 0
    assert model_disagreement([here], [replace(here, probability=0.25)]) == 0.5
    assert model_disagreement([here], [replace(here, volume_ml=0.05)]) == pytest.approx(0.375)
    assert model_disagreement([here], [here, there]) == 0.5
    assert model_disagreement([], []) == 0
    assert model_disagreement([], [here]) == 0.75


@given(
    first=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 20)), max_size=4),
    second=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 20)), max_size=4),
)
def test_disagreement_is_symmetric_and_at_most_one(first, second):
    def found(places):
        return [candidate(p, centre_ras_mm=(x, 0.0, 0.0)) for p, x in places]

    one, other = found(first), found(second)
    assert model_disagreement(one, other) == pytest.approx(model_disagreement(other, one))
    assert 0 <= model_disagreement(one, other) <= 1
    assert model_disagreement(one, one) == 0


def test_a_score_made_again_by_the_same_models_keeps_what_it_knew():
    previous = case_score("case-7", candidate(), disagreement=0.5)
    assert score_case(volume(), FixedNodules(nodule(0.5)), previous=previous).disagreement == 0.5
