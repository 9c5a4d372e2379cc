import numpy as np
import pytest

from medai.domain import Candidate, Volume
from medai.errors import CancelledByUserError, ModelError
from medai.geometry import VolumeGeometry
from medai.inference.detect import DetectorConfig, NoduleDetector, most_probable_apart
from medai.preprocessing.lung_mask import LungMask

SHAPE = (70, 61, 30)


class BrightCentreEngine:
    """Says how bright the middle of the fine view is."""

    description = "fake"

    def __init__(self):
        self.config = {"task": "nodule_detection", "logit_scale": 2.0, "logit_shift": -1.0}
        self.batches = []

    def run(self, batch):
        self.batches.append(batch.shape)
        return 4 * batch[:, 0, 10:14, 10:14, 10:14].mean(axis=(1, 2, 3))[:, None].astype(np.float32)


def _scan():
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([-0.8, -0.8, 2.0, 1.0]))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    points = geometry.ijk_to_ras(index)
    image = np.full(SHAPE, -860)
    image[np.linalg.norm(points - np.array([-20.0, -18.0, 30.0]), axis=-1) < 5] = 60
    image[np.linalg.norm(points - np.array([-40.0, -30.0, 20.0]), axis=-1) < 4] = -650
    lungs = LungMask(geometry=geometry, labels=np.ones(SHAPE, dtype=np.uint8), is_plausible=True)
    return Volume(geometry=geometry, image_hu=image.astype(np.int16)), lungs


def test_candidates_come_with_calibrated_probabilities_most_probable_first():
    engine, shares = BrightCentreEngine(), []
    config = DetectorConfig(batch_size=3, least_probability=1e-6)
    candidates = NoduleDetector(engine, config).detect(*_scan(), on_progress=shares.append)
    assert np.linalg.norm(np.subtract(candidates[0].centre_ras_mm, (-20, -18, 30))) < 1.5
    assert candidates[0].probability > 0.9
    probabilities = [c.probability for c in candidates]
    assert probabilities == sorted(probabilities, reverse=True)
    assert max(shape[0] for shape in engine.batches) <= 3
    assert shares[-1] == 1.0


def test_unlikely_places_are_left_out():
    candidates = NoduleDetector(BrightCentreEngine(), DetectorConfig(least_probability=0.5)).detect(*_scan())
    assert len(candidates) == 1


def test_weights_of_another_task_are_refused():
    engine = BrightCentreEngine()
    engine.config = {"task": "nodule_click"}
    with pytest.raises(ModelError, match="are for 'nodule_click', not for 'nodule_detection'"):
        NoduleDetector(engine)


def test_stopping_is_obeyed():
    with pytest.raises(CancelledByUserError, match="was stopped"):
        NoduleDetector(BrightCentreEngine()).detect(*_scan(), should_stop=lambda: True)


def test_of_places_within_each_other_the_most_probable_stays():
    first = Candidate(centre_ras_mm=(0.0, 0.0, 0.0), diameter_mm=10.0, probability=0.7)
    inside = Candidate(centre_ras_mm=(0.0, 4.0, 0.0), diameter_mm=5.0, probability=0.9)
    apart = Candidate(centre_ras_mm=(0.0, 20.0, 0.0), diameter_mm=5.0, probability=0.3)
    assert most_probable_apart([first, apart, inside], 0.6) == [inside, apart]
