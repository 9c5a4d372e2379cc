"""What the server proposes by itself, as segments and as boxes, on every kind of grid."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import GRID_NAMES, SyntheticScan
from tests.support.slicer_annotator import SlicerAnnotator
from tests.support.slicer_checks import assert_shown_as_sent, dice, stored_masks

pytestmark = [pytest.mark.server, pytest.mark.slicer]
every_grid = pytest.mark.parametrize("case", [*GRID_NAMES, "mirrored"])
CLICK, SCAN, BOXES = "nodule_click", "nodule_segmentation", "nodule_detection"


@every_grid
def test_the_whole_scan_comes_back_as_one_named_segment_a_nodule(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan = scans[case]
    annotator.open_case(study, case)
    reply = annotator.segment(SCAN)
    assert sorted(reply.params["label_names"].values()) == list(range(1, len(reply.names) + 1))
    for value, name in enumerate(reply.names, 1):
        assert " mm" in name
        assert_shown_as_sent(annotator, reply, name, value, scan.geometry)
    shown = {name: annotator.scene.segment_mask(name, scan.geometry) for name in reply.names}
    for nodule in scan.nodules:
        name = max(shown, key=lambda found: np.count_nonzero(shown[found] & nodule.mask), default="")
        assert name, f"{nodule.side} nodule of {nodule.diameter_mm} mm was not found"
        assert dice(shown[name], nodule.mask) > 0.5
        assert nodule.side in name


def test_a_healthy_scan_is_said_to_be_healthy(annotator: SlicerAnnotator, study: Path) -> None:
    annotator.open_case(study, "healthy")
    reply = annotator.segment(SCAN)
    # One empty segment says so: without any name the module would import under the model's own labels.
    (name,) = reply.names
    assert "no nodule" in name.lower()
    assert annotator.scene.segment_names() == ["nodule", name]
    for shown in annotator.scene.segment_names():
        assert len(annotator.scene.segment_points_ras_mm(shown)) == 0


def test_a_healthy_scan_shows_no_boxes(annotator: SlicerAnnotator, study: Path) -> None:
    annotator.open_case(study, "healthy")
    _, boxes = annotator.detect(BOXES)
    assert boxes == []


def test_a_healthy_scan_can_be_submitted_as_proposed(annotator: SlicerAnnotator, study: Path) -> None:
    annotator.open_case(study, "healthy")
    annotator.segment(SCAN)
    annotator.submit()
    assert "final" in annotator.client().datastore()["objects"]["healthy"]["labels"]


@every_grid
def test_boxes_stand_around_the_nodules(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan = scans[case]
    annotator.open_case(study, case)
    _, boxes = annotator.detect(BOXES)
    for nodule in scan.nodules:
        box = min(boxes, key=lambda box: float(np.linalg.norm(box.centre_ras_mm - nodule.centre_ras_mm)))
        assert np.linalg.norm(box.centre_ras_mm - nodule.centre_ras_mm) < 4.0
        assert np.all(np.abs(box.size_mm - nodule.diameter_mm) < 9.0)
        # Along the scan's own axes, whatever their order and sign.
        along = np.abs(box.axes_ras.T @ scan.geometry.directions_ras)
        assert np.allclose(along, np.eye(3), atol=1e-3)


def test_boxes_are_submitted_without_touching_the_segmentation(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan]
) -> None:
    scan = scans["oblique"]
    annotator.open_case(study, "oblique")
    annotator.click(CLICK, "nodule", [scan.nodules[0].centre_ras_mm])
    annotator.submit()
    before = stored_masks(study, annotator, "oblique", scan.geometry)
    annotator.scene.add_empty_roi("SAM2 ROI")
    _, boxes = annotator.detect(BOXES)
    annotator.submit_boxes()
    after = stored_masks(study, annotator, "oblique", scan.geometry)
    assert np.array_equal(before["nodule"], after["nodule"])
    assert len(boxes) >= len(scan.nodules)
