import numpy as np
import pytest

from medai.domain.detection_case import TrueNodule
from medai.errors import ModelError
from medai.evaluation.froc import Mark, ScanTruth
from medai.networks.checkpoint import save_checkpoint
from medai.workflows.detection_challenger import fine_tune_detection, scan_score

A, B = (0.0, 0.0, 0.0), (50.0, 0.0, 0.0)
TRUTH = ScanTruth(nodules=tuple(TrueNodule(centre_ras_mm=c, diameter_mm=8.0) for c in (A, B)))


def _mark(centre, probability):
    return Mark(centre_ras_mm=centre, probability=probability)


def test_a_scans_score_is_its_average_precision():
    away = (100.0, 0.0, 0.0)
    assert scan_score([_mark(A, 0.9), _mark(B, 0.8), _mark(away, 0.1)], TRUTH) == 1.0
    assert scan_score([_mark(A, 0.9), _mark(away, 0.8), _mark(B, 0.7)], TRUTH) == pytest.approx((1 + 2 / 3) / 2)
    assert scan_score([_mark(A, 0.9)], TRUTH) == 0.5
    assert scan_score([], TRUTH) == 0.0


def test_an_empty_scan_scores_how_sure_the_detector_is_of_it():
    assert scan_score([], ScanTruth()) == 1.0
    assert scan_score([_mark(A, 0.3), _mark(B, 0.6)], ScanTruth()) == pytest.approx(0.4)


def test_weights_without_a_finder_cannot_go_on_learning(tmp_path):
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, {"a": np.zeros(2)}, {"network": "candidate_network", "task": "nodule_detection"})
    with pytest.raises(ModelError, match="holds no finder"):
        fine_tune_detection([], start_from=path, output_folder=tmp_path)
