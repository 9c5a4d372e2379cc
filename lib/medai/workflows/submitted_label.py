"""A label of the study as everything reads it: on its scan's grid, named, whichever door it came in by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from medai.domain import LabelMap
from medai.domain.annotation import Annotation
from medai.volume_io.readers import read_geometry
from medai.volume_io.scan_labels import ScanLabel, read_scan_label

SUBMITTED_TAG = "final"
"""MONAI Label's tag for what an annotator has accepted; labels of other tags are outlines of nobody's."""


class LabelSource(Protocol):
    """What is read of a study; ``medai.store.study.StudyStore`` is one."""

    def image_path(self, case_id: str) -> Path:
        """The scan's file."""
        ...

    def label_path(self, case_id: str, tag: str) -> Path:
        """The label's file."""
        ...

    def label_info(self, case_id: str, tag: str) -> dict[str, Any]:
        """What is known of the label; ``label_info`` names its values."""
        ...


def read_submitted(study: LabelSource, case_id: str, tag: str = SUBMITTED_TAG) -> ScanLabel:
    """A case's submitted label with the names its annotator gave.

    Raises:
        InputError: it is a detection markup, its values have no names, or it cannot be read.
        GeometryError: it is not on the scan's grid.
    """
    scan = read_geometry(study.image_path(case_id))
    return read_scan_label(study.label_path(case_id, tag), scan, study.label_info(case_id, tag))


def read_recorded(study: LabelSource, annotation: Annotation, path: Path) -> LabelMap:
    """A label that the history keeps, on its scan's grid.

    Args:
        study: where the scan is.
        annotation: says how its segments are named; one of before names were kept says nothing.
        path: the kept file.

    Raises:
        NotFoundError: the scan has gone.
        InputError: the file cannot be read.
        GeometryError: it is not on the scan's grid: the scan was replaced, say.
    """
    named = [{"name": name, "idx": value} for value, name in annotation.segment_names]
    scan = read_geometry(study.image_path(annotation.case_id))
    return read_scan_label(path, scan, {"label_info": named} if named else {}).label_map
