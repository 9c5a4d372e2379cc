import numpy as np
import pytest

from medai.errors import InputError
from medai.inference.detect import Calibration
from medai.workflows.starter_detection import (
    JudgedPlaces,
    StarterDetectionConfig,
    operating_probability,
    train_starter_detection,
)


def _seen(logits, labels, scans, empty=()):
    return JudgedPlaces(
        logits=np.stack([np.zeros(len(logits)), np.array(logits, float)], axis=1),
        labels=np.array(labels),
        scans=np.array(scans),
        empty=empty,
    )


def test_the_threshold_keeps_most_scans_free_of_false_marks():
    # False marks of 0.3, 0.5, 0.7 and none: the fifth scan's marks are nodules.
    logit = [float(np.log(p / (1 - p))) for p in (0.3, 0.1, 0.5, 0.7, 0.95)]
    seen = _seen(logit, [False, False, False, False, True], [0, 0, 1, 2, 4], empty=(3,))
    calibration = Calibration(judge=1.0)
    assert operating_probability(seen, calibration, 1.0) == pytest.approx(0.7)
    assert operating_probability(seen, calibration, 0.5) == pytest.approx(0.3)
    assert operating_probability(seen, calibration, 0.0) == 0.2
    assert operating_probability(_seen([], [], []), calibration, 0.9) == 0.5


def test_a_folder_of_another_run_is_refused(tmp_path):
    def stop():
        return True

    with pytest.raises(Exception, match="stopped"):
        train_starter_detection(None, tmp_path, StarterDetectionConfig(seed=1), should_stop=stop)
    with pytest.raises(InputError, match="another configuration"):
        train_starter_detection(None, tmp_path, StarterDetectionConfig(seed=2), should_stop=stop)
