import dataclasses

import numpy as np
import pytest

from medai.domain import Nodule, NoduleAssessment, NoduleKind, Prediction, RatedProbability
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.postprocessing.markups import prediction_to_markups
from medai.postprocessing.nodules import assessed, ratings_in_name, segment_name

ASSESSMENT = NoduleAssessment(
    malignancy=RatedProbability(value=0.618, low=0.4, high=0.81),
    malignancy_rating=3.4,
    ratings={"malignancy": 3.4, "spiculation": 2.0},
    kind=NoduleKind.PART_SOLID,
    kind_probabilities={NoduleKind.SOLID: 0.3, NoduleKind.PART_SOLID: 0.6, NoduleKind.NON_SOLID: 0.1},
)


def _nodule(side="right"):
    return Nodule(
        box=IndexBox(start_ijk=(1, 2, 3), stop_ijk=(5, 5, 5)),
        mask=np.ones((4, 3, 2), dtype=bool),
        centre_ras_mm=(0.0, 0.0, 0.0),
        diameter_mm=8.24,
        volume_mm3=200.0,
        kind=NoduleKind.SOLID,
        probability=0.9,
        side=side,
    )


def test_a_rated_nodules_name_says_how_suspicious_it_is():
    rated = assessed(_nodule(), ASSESSMENT)
    assert segment_name(rated, 1) == "Nodule 1 - 8.2 mm part-solid - malignancy 62 % - right"
    assert segment_name(assessed(_nodule(side=""), ASSESSMENT), 2).endswith("- malignancy 62 %")
    assert segment_name(_nodule(), 1) == "Nodule 1 - 8.2 mm solid - right"
    assert segment_name(rated, 1).isascii()


@pytest.mark.parametrize(("probability", "percent"), [(0.001, 1), (0.9999, 99), (0.5, 50)])
def test_no_name_is_sure(probability, percent):
    sure = dataclasses.replace(ASSESSMENT, malignancy=RatedProbability(value=probability, low=0.0, high=1.0))
    assert f"malignancy {percent} %" in segment_name(assessed(_nodule(), sure), 1)


def test_a_box_is_described_with_its_ratings():
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.eye(4))
    prediction = Prediction(case_id="", geometry=geometry, nodules=(assessed(_nodule(), ASSESSMENT),))
    point = prediction_to_markups(prediction)["markups"][0]["controlPoints"][0]
    assert point["description"] == ("probability 0.90, 200 mm3, malignancy 0.62 (0.40 to 0.81), spiculation 2.0")
    assert "malignancy 62 %" in point["label"]


@pytest.mark.parametrize(
    ("name", "ratings"),
    [
        ("malignancy 4", {"malignancy": 4}),
        ("Nodule 2 M5", {"malignancy": 5}),
        ("m3, spiculation: 2", {"malignancy": 3, "spiculation": 2}),
        ("MALIGNANCY=1 texture 5", {"malignancy": 1, "texture": 5}),
        ("malignancy 2 malignancy 4", {"malignancy": 4}),
        ("Nodule 1 - 8.2 mm solid - malignancy 62 % - right", {}),
        ("Nodule 1 - 8.2 mm solid - malignancy 4 % - right", {}),
        ("Nodule 1 - 8.2 mm solid - malignancy 62 % - right M2", {"malignancy": 2}),
        ("malignancy 6", {}),
        ("malignancy 45", {}),
        ("malignancy 4.5", {}),
        ("nodule 3", {}),
        ("T1N0 M1", {}),
        ("5 mm", {}),
        ("RM4a", {}),
    ],
)
def test_ratings_that_are_typed_into_a_name_come_back(name, ratings):
    assert ratings_in_name(name) == ratings


def test_a_probability_outside_its_interval_is_refused():
    with pytest.raises(InputError, match="must rise from 0 to 1"):
        RatedProbability(value=0.9, low=0.95, high=1.0)
