"""Our detection boxes as 3D Slicer shows them: around the very voxels of the nodule, along the scan's own axes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.scan_factory import random_geometry
from tests.support.slicer_client import SlicerScene

from medai.domain import Nodule, NoduleKind, Prediction
from medai.geometry import IndexBox, VolumeGeometry
from medai.postprocessing.markups import prediction_to_markups

pytestmark = pytest.mark.slicer


def _nodule(geometry: VolumeGeometry, box: IndexBox, diameter_mm: float) -> Nodule:
    start, stop = np.array(box.start_ijk), np.array(box.stop_ijk)
    x, y, z = geometry.ijk_to_ras((start + stop - 1) / 2)
    return Nodule(
        box=box,
        mask=np.ones(box.shape_ijk, dtype=bool),
        centre_ras_mm=(x, y, z),
        diameter_mm=diameter_mm,
        volume_mm3=250.0,
        kind=NoduleKind.PART_SOLID,
        probability=0.83,
        side="right",
    )


def _face_corners_ras_mm(geometry: VolumeGeometry, box: IndexBox) -> np.ndarray:
    """The corners of the box's outer faces: half a voxel beyond the centres of its outermost voxels."""
    sides = [(start - 0.5, stop - 0.5) for start, stop in zip(box.start_ijk, box.stop_ijk, strict=True)]
    return geometry.ijk_to_ras(np.array(np.meshgrid(*sides)).reshape(3, -1).T)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(min_value=0, max_value=2**32 - 1))
def test_a_box_encloses_the_nodules_voxels_exactly_on_any_grid(
    slicer_scene: SlicerScene, tmp_path: Path, seed: int
) -> None:
    slicer_scene.clear()
    geometry = random_geometry(np.random.default_rng(seed))
    boxes = (
        IndexBox(start_ijk=(1, 2, 3), stop_ijk=(4, 7, 10)),
        IndexBox(start_ijk=(5, 0, 2), stop_ijk=(10, 2, 3)),
    )
    nodules = tuple(_nodule(geometry, box, size) for box, size in zip(boxes, (8.2, 5.1), strict=True))
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps(prediction_to_markups(Prediction(case_id="case", geometry=geometry, nodules=nodules))),
        encoding="utf-8",
    )
    shown = slicer_scene.load_markups(path)
    assert len(shown) == len(boxes)
    for roi, nodule in zip(shown, nodules, strict=True):
        assert np.allclose(roi.centre_ras_mm, nodule.centre_ras_mm, atol=1e-3)
        assert np.linalg.det(roi.axes_ras) == pytest.approx(1.0, abs=1e-6)
        expected = _face_corners_ras_mm(geometry, nodule.box)
        distances = np.linalg.norm(roi.corners_ras_mm()[:, None] - expected[None], axis=-1)
        assert distances.min(axis=1).max() < 1e-2
        assert distances.min(axis=0).max() < 1e-2
        assert f"{nodule.diameter_mm:.1f} mm part-solid" in roi.labels[0]
        assert "0.83" in roi.descriptions[0]


def test_a_scan_without_findings_shows_no_box(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    geometry = random_geometry(np.random.default_rng(1))
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(prediction_to_markups(Prediction(case_id="", geometry=geometry, nodules=()))))
    assert slicer_scene.load_markups(path) == []
