from dataclasses import replace

import numpy as np
import pytest

from medai.domain import Candidate, Volume
from medai.errors import CancelledByUserError, ModelError
from medai.geometry import VolumeGeometry
from medai.inference.detect import (
    Calibration,
    DetectorConfig,
    NoduleDetector,
    Place,
    load_detector,
    most_probable_apart,
)
from medai.inference.find_boxes import BoxFinder, BoxFinderConfig
from medai.networks.checkpoint import Checkpoint, save_checkpoint, save_parts
from medai.postprocessing.detection_boxes import AnchorConfig
from medai.preprocessing.candidate_patches import candidate_views
from medai.preprocessing.lung_copy import lung_copy
from medai.preprocessing.lung_mask import LungMask

SHAPE = (70, 61, 30)
BRIGHT, FAINT = (-20.0, -18.0, 30.0), (-40.0, -30.0, 20.0)


class BrightCentreEngine:
    """Judges by how bright the middle of the fine view is."""

    description = "fake"

    def __init__(self):
        self.config = {"network": "candidate_network"}
        self.batches = []

    def run(self, batch):
        self.batches.append(batch.shape)
        return 4 * batch[:, 0, 10:14, 10:14, 10:14].mean(axis=(1, 2, 3))[:, None].astype(np.float32)


class BrightPlaceEngine:
    """Marks bright places with the anchor that lies there, in one level of stride 2."""

    description = "fake"

    def __init__(self):
        self.shapes = []
        self.config = {
            "network": "detection_network",
            "spacing_ras_mm": [1.0, 1.0, 1.0],
            "window_hu": [-1000.0, 400.0],
            "image_range": [-1.0, 1.0],
            "anchors": AnchorConfig(strides=((2, 2, 2),), scales=(1.0,)).to_json(),
        }

    def run(self, batch):
        self.shapes.append(batch.shape[2:])
        i, j, k = (n // 2 for n in batch.shape[2:])
        voxels = batch[0, 0].reshape(i, 2, j, 2, k, 2)
        # Beyond the scan a window holds the middle of the range, 0: a trained network marks nothing there.
        cells = np.where((voxels == 0).any(axis=(1, 3, 5)), -1.0, voxels.mean(axis=(1, 3, 5)))
        answer = np.zeros((1, 7, i * j * k), np.float32)
        answer[0, 0] = np.where(cells.ravel() > -0.75, 10 * cells.ravel(), -20)
        # The anchor of a cell lies at its second voxel, the cell's middle half a voxel before.
        answer[0, 1:4] = -0.5 / 6
        return answer


def _scan():
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([-0.8, -0.8, 2.0, 1.0]))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    points = geometry.ijk_to_ras(index)
    image = np.full(SHAPE, -860)
    image[np.linalg.norm(points - np.array(BRIGHT), axis=-1) < 5] = 60
    image[np.linalg.norm(points - np.array(FAINT), axis=-1) < 4] = -650
    lungs = LungMask(geometry=geometry, labels=np.ones(SHAPE, dtype=np.uint8), is_plausible=True)
    return Volume(geometry=geometry, image_hu=image.astype(np.int16)), lungs


def _finder(**changes):
    return BoxFinder(BrightPlaceEngine(), BoxFinderConfig(least_logit=-15.0, **changes))


CALIBRATIONS = {"anchors": Calibration(finder=0.2, judge=1.0), "blobs": Calibration(judge=2.0, shift=-1.0)}


@pytest.mark.parametrize("candidates", ["anchors", "blobs", "both"])
def test_candidates_come_with_calibrated_probabilities_most_probable_first(candidates):
    engine, shares = BrightCentreEngine(), []
    config = DetectorConfig(candidates=candidates, batch_size=3, least_probability=1e-6)
    detector = NoduleDetector(_finder(), engine, CALIBRATIONS, config)
    found = detector.detect(*_scan(), on_progress=shares.append)
    assert np.linalg.norm(np.subtract(found[0].centre_ras_mm, BRIGHT)) < 5
    assert found[0].probability > 0.8
    probabilities = [c.probability for c in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert max(shape[0] for shape in engine.batches) <= 3
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_unlikely_places_are_marks_of_a_curve_but_not_candidates():
    config = DetectorConfig(least_probability=0.5)
    detector = NoduleDetector(_finder(), BrightCentreEngine(), CALIBRATIONS, config)
    likely = detector.detect(*_scan())
    assert likely
    assert all(np.linalg.norm(np.subtract(c.centre_ras_mm, BRIGHT)) < 8 for c in likely)
    marks = detector.detect_all(*_scan())
    assert min(np.linalg.norm(np.subtract(m.centre_ras_mm, FAINT)) for m in marks) < 4


class OneSidedEngine(BrightCentreEngine):
    """What lies to the right counts more than what lies to the left: no nodule has a good side."""

    def run(self, batch):
        super().run(batch)
        weights = np.linspace(0, 1, batch.shape[2], dtype=np.float32)[:, None, None]
        return (batch[:, 0] * weights).mean(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0]


def test_likely_places_are_seen_from_all_sides():
    volume, lungs = _scan()
    copy = lung_copy(volume, lungs, (1.0, 1.0, 1.0))
    place = Place(centre_ras_mm=BRIGHT, diameter_mm=10.0, finder_logit=1.0)
    beside = replace(place, centre_ras_mm=(BRIGHT[0] + 6.0, BRIGHT[1], BRIGHT[2]))
    other = replace(place, centre_ras_mm=(BRIGHT[0] - 25.0, BRIGHT[1], BRIGHT[2]))
    (first, second, third) = (
        NoduleDetector(
            None, OneSidedEngine(), CALIBRATIONS, DetectorConfig(candidates="blobs", seen_again=count)
        ).logits(copy, [place, beside, other])[:, 1]
        for count in (0, 2, 3)
    )
    views = candidate_views(Volume(geometry=copy.geometry, image_hu=copy.image_hu), beside.centre_ras_mm, 10.0)
    evenly = float(views[0].mean()) / 2
    assert first[1] != pytest.approx(evenly, abs=1e-3)
    assert second[1] == third[1] == pytest.approx(evenly, abs=1e-5)
    assert second[2] == first[2]
    assert third[2] != pytest.approx(first[2], abs=1e-4)


def test_the_finder_alone_can_be_asked():
    detector = NoduleDetector(_finder(), None, {"anchors": Calibration(finder=1.0)}, operating_probability=0.7)
    assert detector.operating_probability == 0.7
    assert detector.detect(*_scan())[0].probability > 0.9


def test_windows_give_the_same_boxes_as_the_whole():
    volume, lungs = _scan()
    copy = lung_copy(volume, lungs, (1.0, 1.0, 1.0))
    whole = _finder().find(copy)
    parted = _finder(most_core=(24, 20, 18), margin=(6, 6, 6)).find(copy)
    nearest = min(parted, key=lambda box: np.linalg.norm(np.subtract(box.centre_ras_mm, whole[0].centre_ras_mm)))
    assert np.linalg.norm(np.subtract(nearest.centre_ras_mm, whole[0].centre_ras_mm)) < 2.5
    assert nearest.logit == pytest.approx(whole[0].logit, abs=0.5)
    for box in parted:
        assert min(np.linalg.norm(np.subtract(box.centre_ras_mm, centre)) for centre in (BRIGHT, FAINT)) < 9


def test_windows_are_multiples_of_the_stride_and_those_without_lung_are_left_out():
    volume, lungs = _scan()
    half = lungs.labels.copy()
    half[:45] = 0
    engine = BrightPlaceEngine()
    copy = lung_copy(volume, LungMask(geometry=lungs.geometry, labels=half, is_plausible=True), (1.0, 1.0, 1.0))
    finder = BoxFinder(engine, BoxFinderConfig(least_logit=-15.0, most_core=(12, 50, 60), margin=(2, 2, 2)))
    finder.find(copy)
    assert all(n % 2 == 0 for shape in engine.shapes for n in shape)
    assert len(engine.shapes) < -(-copy.geometry.shape_ijk[0] // 12)


def test_places_outside_the_lungs_are_not_marked():
    volume, lungs = _scan()
    away = lungs.labels.copy()
    away[:35] = 0
    found = _finder().find(
        lung_copy(volume, LungMask(geometry=lungs.geometry, labels=away, is_plausible=True), (1, 1, 1))
    )
    assert all(np.linalg.norm(np.subtract(box.centre_ras_mm, BRIGHT)) > 5 for box in found)


def test_a_scan_without_lungs_has_no_candidates():
    volume, lungs = _scan()
    none = LungMask(geometry=lungs.geometry, labels=np.zeros(SHAPE, np.uint8), is_plausible=False)
    assert NoduleDetector(_finder(), None, CALIBRATIONS).detect(volume, none) == []


def _write(path, **changes):
    from medai.networks.factory import build_network, network_tensors

    judge = {"network": "candidate_network", "network_options": {"channels_in": 2}, "patch_shape": [24, 24, 24]}
    part = Checkpoint(config=judge, tensors=network_tensors(build_network(judge)))
    whole = {
        "network": "nodule_detector",
        "task": "nodule_detection",
        "candidates": "blobs",
        "calibrations": {"blobs": {"finder": 0.0, "judge": 1.0, "shift": -2.0}},
        "operating_probability": 0.4,
    }
    save_parts(path, {"judge": part}, {**whole, **changes})


def test_weights_say_where_candidates_come_from(tmp_path):
    _write(tmp_path / "w.safetensors")
    engines = []
    detector = load_detector(
        tmp_path / "w.safetensors", device="cpu", wrap=lambda engine: engines.append(engine) or engine
    )
    assert detector.operating_probability == 0.4
    assert [engine.config["network"] for engine in engines] == ["candidate_network"]
    with pytest.raises(ModelError, match="cannot be used with candidates 'anchors'"):
        load_detector(tmp_path / "w.safetensors", device="cpu", config=DetectorConfig(candidates="anchors"))


def test_weights_of_another_task_are_refused(tmp_path):
    save_checkpoint(
        tmp_path / "w.safetensors", {"a": np.zeros(3)}, {"network": "residual_unet", "task": "nodule_click"}
    )
    with pytest.raises(ModelError, match="are for 'nodule_click', not for 'nodule_detection'"):
        load_detector(tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="A 'candidate_network' marks no boxes"):
        BoxFinder(BrightCentreEngine())


def test_stopping_is_obeyed():
    detector = NoduleDetector(_finder(), BrightCentreEngine(), CALIBRATIONS)
    with pytest.raises(CancelledByUserError, match="was stopped"):
        detector.detect(*_scan(), should_stop=lambda: True)


def test_of_places_within_each_other_the_most_probable_stays():
    first = Candidate(centre_ras_mm=(0.0, 0.0, 0.0), diameter_mm=10.0, probability=0.7)
    inside = Candidate(centre_ras_mm=(0.0, 4.0, 0.0), diameter_mm=5.0, probability=0.9)
    apart = Candidate(centre_ras_mm=(0.0, 20.0, 0.0), diameter_mm=5.0, probability=0.3)
    assert most_probable_apart([first, apart, inside], 0.6) == [inside, apart]
