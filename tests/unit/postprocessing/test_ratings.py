import json

import numpy as np
import pytest

from medai.domain import NoduleKind
from medai.domain.assessment import ATTRIBUTES
from medai.errors import ModelError
from medai.postprocessing.ratings import RatingStage, ratings_of_logits


def _stage(**changes):
    """Malignancy is the first measurement, texture the network's texture; the others are 3."""
    columns = 2 + len(ATTRIBUTES)
    weights = [[0.0] * columns for _ in ATTRIBUTES]
    weights[ATTRIBUTES.index("malignancy")][0] = 1.0
    weights[ATTRIBUTES.index("texture")][2 + ATTRIBUTES.index("texture")] = 1.0
    numbers = {
        "attributes": ATTRIBUTES,
        "features": ("one", "two"),
        "low": (-2.0, -2.0) + (1.0,) * len(ATTRIBUTES),
        "high": (2.0, 2.0) + (5.0,) * len(ATTRIBUTES),
        "mean": (0.0,) * columns,
        "scale": (1.0,) * columns,
        "weights": tuple(tuple(row) for row in weights),
        "bias": tuple(0.0 if name == "texture" else 3.0 for name in ATTRIBUTES),
        "centres": (),
        "width": 10.0,
        "likeness_weights": ((),) * len(ATTRIBUTES),
        "malignancy_slope": 2.0,
        "malignancy_middle": 3.0,
        "spread_at": (1.0, 3.0, 5.0),
        "spread": (0.2, 0.6, 0.2),
        "texture_slope": 4.0,
        "non_solid_below": 2.0,
        "solid_from": 4.0,
    }
    return RatingStage(**{**numbers, **changes})


def _rated(stage, features, texture=5.0):
    network = np.full((1, len(ATTRIBUTES)), 3.0)
    network[0, ATTRIBUTES.index("texture")] = texture
    return stage.ratings(np.array([features]), network)[0]


def test_measurements_and_the_network_make_ratings():
    rated = _rated(_stage(), [0.5, 9.0])
    assert rated[ATTRIBUTES.index("malignancy")] == pytest.approx(3.5)
    assert rated[ATTRIBUTES.index("texture")] == pytest.approx(5.0)
    assert rated[ATTRIBUTES.index("margin")] == pytest.approx(3.0)


def test_a_measurement_beyond_what_was_trained_on_counts_as_the_farthest_that_was():
    assert _rated(_stage(), [100.0, 0.0])[0] == pytest.approx(5.0)
    assert _rated(_stage(), [-100.0, 0.0])[0] == pytest.approx(1.0)


def test_a_nodule_like_one_that_was_trained_on_is_rated_by_it():
    alike = ((0.5,), *((0.0,),) * (len(ATTRIBUTES) - 1))
    at_it = _stage(centres=((1.0, 0.0),), width=2.0, likeness_weights=alike)
    assert _rated(at_it, [1.0, 0.0])[0] == pytest.approx(4.0 + 0.5)
    # Two widths away: exp(-2).
    near_it = _stage(centres=((1.0, 0.0),), width=0.5, likeness_weights=alike)
    assert _rated(near_it, [0.0, 0.0])[0] == pytest.approx(3.0 + 0.5 * np.exp(-2.0))


def test_an_assessment_says_probability_interval_and_kind():
    assessment = _stage().assess(_rated(_stage(), [0.0, 0.0]))
    assert assessment.malignancy.value == pytest.approx(0.5)
    # 1.645 spreads of 0.6 on either side of the middle: the logistic of ±1.974.
    assert assessment.malignancy.low == pytest.approx(1 / (1 + np.exp(1.974)))
    assert assessment.malignancy.high == pytest.approx(1 / (1 + np.exp(-1.974)))
    assert assessment.malignancy_rating == 3.0
    assert assessment.kind is NoduleKind.SOLID
    assert sum(assessment.kind_probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("texture", "kind"), [(1.0, NoduleKind.NON_SOLID), (3.0, NoduleKind.PART_SOLID), (4.6, NoduleKind.SOLID)]
)
def test_the_texture_rating_parts_the_kinds(texture, kind):
    kinds = _stage().kinds(texture)
    assert max(kinds, key=kinds.get) is kind
    assert min(kinds.values()) >= 0


def test_ratings_in_an_assessment_stay_on_the_scale():
    assessment = _stage(bias=(9.0,) * len(ATTRIBUTES)).assess(np.full(len(ATTRIBUTES), 9.0))
    assert set(assessment.ratings.values()) == {5.0}
    assert assessment.malignancy_rating == 5.0


def test_the_stage_travels_as_json():
    stage = _stage()
    assert RatingStage.of_config({"rating_stage": json.loads(json.dumps(stage.to_config()))}) == stage


def test_a_stage_with_a_part_missing_is_refused():
    stored = _stage().to_config()
    del stored["bias"]
    with pytest.raises(ModelError, match="no complete rating stage"):
        RatingStage.of_config({"rating_stage": stored})
    with pytest.raises(ModelError, match="do not fit each other"):
        RatingStage.of_config({"rating_stage": {**_stage().to_config(), "mean": [0.0]}})


def test_logits_become_expected_ratings():
    logits = np.array([[-50.0] * 4, [50.0] * 4, [50.0, 50.0, 0.0, -50.0]])
    np.testing.assert_allclose(ratings_of_logits(logits), [1.0, 5.0, 3.5])
