import numpy as np
import pytest

from medai.domain import Candidate, NoduleKind, OutlineDoubt, Volume
from medai.domain.assessment import NoduleAssessment, RatedProbability
from medai.errors import CancelledByUserError
from medai.geometry import IndexBox, VolumeGeometry
from medai.inference.click import ClickResult
from medai.inference.scan import ScanConfig, ScanPipeline
from medai.preprocessing.lung_mask import LungMask

SHAPE = (60, 61, 40)


class FixedDetector:
    operating_probability = 0.5

    def __init__(self, *candidates):
        self.candidates = list(candidates)

    def detect(self, volume, lungs, *, on_progress=lambda f: None, should_stop=lambda: False):
        on_progress(1.0)
        return self.candidates


class BrightRegion:
    """Outlines the connected bright region at the point."""

    def segment(self, volume, *, foreground_ijk, background_ijk=(), roi=None):
        from scipy import ndimage

        numbered, _ = ndimage.label(volume.image_hu > -400)
        mask = (numbered == numbered[foreground_ijk[0]]) & (volume.image_hu > -400)
        box = IndexBox.of_shape(volume.geometry.shape_ijk)
        probability = mask.astype(np.float32)
        return ClickResult(
            box=box, mask=mask, probability=probability, looked_at=box, uncertainty=0.25, view_variation=0.125
        )


def _scene(flip=-1):
    """A ball, a long vessel, and a lung mask whose right half is the patient's right."""
    affine = np.diag([0.9 * flip, 0.9, 1.1, 1.0])
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine)
    image = np.full(SHAPE, -850, dtype=np.int16)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    image[np.linalg.norm((index - [15, 30, 20]) * [0.9, 0.9, 1.1], axis=-1) < 5] = 30
    image[45:47, 5:55, 20] = 30
    labels = np.full(SHAPE, 1, dtype=np.uint8)
    labels[30:] = 2
    volume = Volume(geometry=geometry, image_hu=image, case_id="case-7")
    return volume, LungMask(geometry=geometry, labels=labels, is_plausible=True)


def _at(volume, index, probability):
    centre = volume.geometry.ijk_to_ras(index)
    return Candidate(centre_ras_mm=tuple(float(c) for c in centre), diameter_mm=8.0, probability=probability)


def test_one_nodule_for_two_candidates_of_it_and_none_for_a_vessel():
    volume, lungs = _scene()
    shares = []
    detector = FixedDetector(
        _at(volume, (15, 30, 20), 0.9), _at(volume, (17, 31, 20), 0.8), _at(volume, (45, 30, 20), 0.7)
    )
    pipeline = ScanPipeline(detector, BrightRegion(), model_versions={"nodule_detection": "starter"})
    prediction = pipeline.predict(volume, lungs=lungs, on_progress=shares.append)
    (nodule,) = prediction.nodules
    assert nodule.probability == 0.9
    assert nodule.side == "right"
    assert nodule.kind == NoduleKind.SOLID
    assert nodule.diameter_mm == pytest.approx(10, abs=0.9)
    assert nodule.volume_mm3 == pytest.approx(np.pi / 6 * 1000, rel=0.1)
    np.testing.assert_allclose(nodule.centre_ras_mm, volume.geometry.ijk_to_ras((15, 30, 20)), atol=0.1)
    assert (prediction.case_id, prediction.model_versions) == ("case-7", {"nodule_detection": "starter"})
    assert set(prediction.stage_seconds) == {"lungs", "candidates", "outline"}
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_each_nodule_is_rated_where_there_is_a_classifier():
    volume, lungs = _scene()
    rated = NoduleAssessment(
        malignancy=RatedProbability(value=0.6, low=0.4, high=0.8),
        malignancy_rating=3.4,
        ratings={},
        kind=NoduleKind.SOLID,
        kind_probabilities={NoduleKind.SOLID: 1.0},
    )

    class Classifier:
        def assess(self, volume, box, mask):
            assert mask.shape == box.shape_ijk
            return rated

    detector = FixedDetector(_at(volume, (15, 30, 20), 0.9))
    prediction = ScanPipeline(detector, BrightRegion(), classifier=Classifier()).predict(volume, lungs=lungs)
    assert [nodule.assessment for nodule in prediction.nodules] == [rated]
    assert set(prediction.stage_seconds) == {"lungs", "candidates", "outline", "classify"}


def test_unlikely_and_surplus_candidates_are_not_outlined():
    volume, lungs = _scene()
    detector = FixedDetector(_at(volume, (15, 30, 20), 0.4))
    assert ScanPipeline(detector, BrightRegion()).predict(volume, lungs=lungs).nodules == ()
    detector = FixedDetector(_at(volume, (2, 2, 2), 0.95), _at(volume, (15, 30, 20), 0.9))
    assert len(ScanPipeline(detector, BrightRegion(), ScanConfig(least_probability=0.95)).predict(volume).nodules) == 0
    config = ScanConfig(most=1)
    assert ScanPipeline(detector, BrightRegion(), config).predict(volume, lungs=lungs).nodules == ()


def test_too_large_an_outline_is_dropped():
    volume, lungs = _scene()
    detector = FixedDetector(_at(volume, (15, 30, 20), 0.9))
    config = ScanConfig(largest_diameter_mm=9.0)
    assert ScanPipeline(detector, BrightRegion(), config).predict(volume, lungs=lungs).nodules == ()


def test_a_candidate_at_the_very_edge_is_clipped_into_the_scan():
    volume, lungs = _scene()
    detector = FixedDetector(_at(volume, (-0.6, 61.2, 39.6), 0.9))
    assert ScanPipeline(detector, BrightRegion()).predict(volume, lungs=lungs).nodules == ()


def test_stopping_is_obeyed_between_outlines():
    volume, lungs = _scene()
    detector = FixedDetector(_at(volume, (15, 30, 20), 0.9))
    with pytest.raises(CancelledByUserError, match="Outlining nodules was stopped"):
        ScanPipeline(detector, BrightRegion()).predict(volume, lungs=lungs, should_stop=lambda: True)


def test_the_doubt_about_an_outline_goes_with_the_nodule():
    volume, lungs = _scene()
    pipeline = ScanPipeline(FixedDetector(_at(volume, (15, 30, 20), 0.9)), BrightRegion())
    (nodule,) = pipeline.predict(volume, lungs=lungs).nodules
    assert nodule.doubt == OutlineDoubt(expected_error=0.25, view_variation=0.125)
