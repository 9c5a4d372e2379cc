from dataclasses import replace

import numpy as np
import pytest
from tests.support.rated_balls import ball_case

from medai.domain.assessment import ATTRIBUTES
from medai.errors import InputError, ModelError
from medai.evaluation.information import mutual_information_bits
from medai.geometry import IndexBox
from medai.inference.classify import MIRRORS, NoduleClassifier
from medai.postprocessing.ratings import RatingStage
from medai.preprocessing.nodule_features import nodule_features
from medai.training.classification_trainer import MIRRORS as MIRRORS_IN_TRAINING

MEMBERS = 2


class FakeEngine:
    """Rates every attribute by how bright the first view is; remembers what it was shown."""

    description = "fake"

    def __init__(self, config):
        self.config = config
        self.seen = []

    def run(self, batch):
        self.seen.append(batch)
        level = batch[:, 0].mean(axis=(1, 2, 3))
        return np.broadcast_to(level[:, None, None], (len(batch), MEMBERS, 4 * len(ATTRIBUTES))).astype(np.float32)


def _stage():
    names = tuple(nodule_features(*_place(ball_case(1, 5.0))))
    columns = len(names) + len(ATTRIBUTES)
    weights = [[0.0] * columns for _ in ATTRIBUTES]
    weights[0][names.index("log_volume")] = 1.0
    weights[2][len(names) + 2] = 1.0
    return RatingStage(
        attributes=ATTRIBUTES,
        features=names,
        low=(-9.0,) * columns,
        high=(9.0,) * columns,
        mean=(0.0,) * columns,
        scale=(1.0,) * columns,
        weights=tuple(tuple(row) for row in weights),
        bias=(-2.5, 3.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0),
        centres=(),
        width=1.0,
        likeness_weights=((),) * len(ATTRIBUTES),
        malignancy_slope=2.0,
        malignancy_middle=3.0,
        spread_at=(1.0, 5.0),
        spread=(0.5, 0.5),
        texture_slope=3.0,
        non_solid_below=2.0,
        solid_from=4.0,
    )


def _place(case):
    box = IndexBox.of_mask(case.mask)
    return case.volume, box, case.mask[box.slices]


def _classifier():
    engine = FakeEngine({"task": "nodule_classification", "rating_stage": _stage().to_config()})
    return NoduleClassifier.of_checkpoint(engine), engine


def test_a_larger_ball_is_rated_higher():
    classifier, _ = _classifier()
    small, large = (classifier.assess(*_place(ball_case(1, radius))) for radius in (2.5, 6.5))
    assert small.malignancy.value < large.malignancy.value
    assert small.malignancy_rating == pytest.approx(np.log(4 / 3 * np.pi * 2.5**3) - 2.5, abs=0.15)


def test_the_network_sees_the_mirror_image_too():
    classifier, engine = _classifier()
    classifier.assess(*_place(ball_case(1, 5.0)))
    (batch,) = engine.seen
    assert batch.shape == (len(MIRRORS), 6, 32, 32, 32)
    np.testing.assert_array_equal(batch[1], np.flip(batch[0], axis=1))
    assert MIRRORS == MIRRORS_IN_TRAINING


def test_the_outlines_box_may_be_loose():
    classifier, _ = _classifier()
    case = ball_case(1, 5.0)
    tight = classifier.assess(*_place(case))
    loose = classifier.assess(case.volume, IndexBox.of_shape(case.mask.shape), case.mask)
    assert loose == tight


def test_weights_of_another_task_and_an_empty_outline_are_refused():
    with pytest.raises(ModelError, match="are for 'nodule_click'"):
        NoduleClassifier.of_checkpoint(FakeEngine({"task": "nodule_click"}))
    with pytest.raises(ModelError, match="no complete rating stage"):
        NoduleClassifier.of_checkpoint(FakeEngine({"task": "nodule_classification"}))
    classifier, _ = _classifier()
    case = ball_case(1, 5.0)
    with pytest.raises(InputError, match="empty outline"):
        classifier.assess(case.volume, IndexBox.of_shape(case.mask.shape), np.zeros_like(case.mask))


def test_members_that_differ_about_malignancy_are_told():
    classifier, engine = _classifier()
    assert classifier.assess(*_place(ball_case(1, 5.0))).member_information == pytest.approx(0.0, abs=1e-9)
    weights = [list(row) for row in _stage().weights]
    # Malignancy follows the network's own rating of it.
    weights[0] = [0.0] * len(weights[0])
    weights[0][len(_stage().features)] = 1.0
    stage = replace(_stage(), weights=tuple(map(tuple, weights)), bias=(0.0,) * len(ATTRIBUTES))

    class Differ(FakeEngine):
        def run(self, batch):
            logits = np.zeros((len(batch), MEMBERS, 4 * len(ATTRIBUTES)), np.float32)
            logits[:, 0], logits[:, 1] = 30.0, -30.0  # ratings 5 and 1
            return logits

    found = NoduleClassifier(Differ(engine.config), stage).assess(*_place(ball_case(1, 5.0)))
    # Slope 2 around 3: probabilities of 0.982 and 0.018, whose mean is one half.
    expected = float(mutual_information_bits(np.array([1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(4.0))])))
    assert found.member_information == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(0.87, abs=0.01)
