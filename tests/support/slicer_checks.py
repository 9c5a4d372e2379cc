"""What the end-to-end tests compare: masks on a scan's own grid, seen from Slicer's side and from the server's disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.support.slicer_annotator import Reply, SlicerAnnotator

from medai.geometry import VolumeGeometry
from medai.volume_io.readers import read_label_map


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Overlap of two masks; 0 where both are empty, since no test expects that."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 0.0


def within(geometry: VolumeGeometry, point_ras_mm: NDArray[np.float64], radius_mm: float) -> NDArray[np.bool_]:
    """The voxels of a grid that lie within ``radius_mm`` of a point."""
    index = np.moveaxis(np.indices(geometry.shape_ijk), 0, -1)
    return np.asarray(np.linalg.norm(geometry.ijk_to_ras(index) - point_ras_mm, axis=-1) <= radius_mm)


def assert_shown_as_sent(
    annotator: SlicerAnnotator, reply: Reply, name: str, value: int, geometry: VolumeGeometry
) -> None:
    """What Slicer shows of a segment is what the reply's header and voxels say, and lies on the scan's own grid."""
    sent = read_label_map(reply.path)
    points_ijk = geometry.ras_to_ijk(sent.geometry.ijk_to_ras(np.argwhere(sent.labels == value)))
    index = np.rint(points_ijk).astype(np.int64)
    assert np.abs(points_ijk - index).max(initial=0.0) < 1e-3
    expected = np.zeros(geometry.shape_ijk, dtype=bool)
    expected[tuple(index.T)] = True
    assert np.array_equal(annotator.scene.segment_mask(name, geometry), expected)


def stored_masks(
    study: Path, annotator: SlicerAnnotator, case: str, geometry: VolumeGeometry
) -> dict[str, NDArray[np.bool_]]:
    """The submitted label as it lies on the server's disk: a mask on the scan's own grid for each name."""
    entry = annotator.client().datastore()["objects"][case]["labels"]["final"]
    (path,) = (study / "labels" / "final").glob(f"{case}.*")
    label_map = read_label_map(path)
    assert label_map.geometry.is_same_grid(geometry, tolerance_voxels=1e-3)
    return {item["name"]: label_map.labels == item["idx"] for item in entry["info"]["label_info"]}
