"""The scans of a study whose nodules annotators have all marked, for the detector.

An accepted segmentation says where every nodule of its scan is, and that there is none elsewhere; one without nodules
("no nodules") says the same. Boxes that were submitted count where there is no segmentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import InputError
from medai.geometry.frames import points_lps_to_ras
from medai.postprocessing.components import LabelComponent, label_components
from medai.store.split import patient_key_of_case
from medai.workflows.labelled_examples import LabelledExamples, LabelledStudy, collect_examples, read_scan
from medai.workflows.labelled_nodules import LARGEST_EXTENT_MM
from medai.workflows.submitted_label import SUBMITTED_TAG, read_submitted

BOXES_TAG = "detection"
"""What the server stores submitted boxes under."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledScan:
    """A scan whose nodules are all known; the scan itself is read when it is wanted: a study does not fit in memory.

    Attributes:
        case_id: the study's case.
        patient_id: the split's patient key; not for logs.
        nodules: what must be found; empty where an annotator said that there is nothing.
        study: where the scan lies.
    """

    case_id: str
    patient_id: str
    nodules: tuple[TrueNodule, ...]
    study: LabelledStudy

    def load(self) -> DetectionCase:
        """The scan with its nodules; decodes it."""
        return DetectionCase(
            case_id=self.case_id,
            patient_ids=(self.patient_id,),
            volume=read_scan(self.study, self.case_id),
            nodules=self.nodules,
        )


def collect_labelled_scans(
    study: LabelledStudy, *, should_stop: Callable[[], bool] = lambda: False
) -> LabelledExamples[LabelledScan]:
    """Read where the nodules of every submitted label are, and place its patients.

    Args:
        study: the study.
        should_stop: asked before each case.

    Raises:
        InputError: too few usable labels, or no nodule on one of the two sides.
        CancelledByUserError: ``should_stop`` said so.
    """
    outlined = study.labeled(SUBMITTED_TAG)
    boxed = [case_id for case_id in study.labeled(BOXES_TAG) if case_id not in outlined]

    def tag_of(case_id: str) -> str:
        return SUBMITTED_TAG if case_id in outlined else BOXES_TAG

    needed = (
        "A detector learns from scans with all their nodules labelled, of at least two patients: one to learn from, "
        "one held back. Submit another patient's label and train again."
    )
    found = collect_examples(
        study,
        sorted([*outlined, *boxed]),
        lambda case_id: [_scan_of_case(study, case_id, tag_of(case_id))],
        nothing="",
        needed=needed,
        should_stop=should_stop,
        tag_of=tag_of,
    )
    for what, scans in (("to learn from", found.train), ("held back", found.held_back)):
        if not any(scan.nodules for scan in scans):
            raise InputError(
                f"None of the {len(scans)} labelled scans {what} holds a nodule: there is nothing to find in them. "
                f"{needed}"
            )
    return found


def _scan_of_case(study: LabelledStudy, case_id: str, tag: str) -> LabelledScan:
    path = study.label_path(case_id, tag)
    nodules = boxes_of_markups(path) if path.suffix == ".json" else _outlined_nodules(study, case_id, tag)
    patient_key = patient_key_of_case(study.folder, case_id)
    return LabelledScan(case_id=case_id, patient_id=patient_key, nodules=nodules, study=study)


def _outlined_nodules(study: LabelledStudy, case_id: str, tag: str) -> tuple[TrueNodule, ...]:
    label = read_submitted(study, case_id, tag)
    geometry = label.label_map.geometry
    components = label_components(label.label_map.labels, geometry.spacing_mm)
    found = [c for c in components if c.extent_mm(geometry.spacing_mm) <= LARGEST_EXTENT_MM]
    if not found and not label.says_nothing_found:
        raise InputError("It holds no nodule, and does not say that there is none.")

    def nodule(component: LabelComponent) -> TrueNodule:
        centre = geometry.ijk_to_ras(np.argwhere(component.mask).mean(axis=0) + component.box.start_ijk)
        volume_mm3 = float(np.count_nonzero(component.mask)) * geometry.voxel_volume_mm3
        return TrueNodule(
            centre_ras_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
            diameter_mm=(6 / np.pi * volume_mm3) ** (1 / 3),
            source="scan",
        )

    return tuple(nodule(component) for component in found)


def boxes_of_markups(path: Path) -> tuple[TrueNodule, ...]:
    """The nodules of submitted boxes: a ball's box has its diameter as each side.

    Raises:
        InputError: the file is no markups document with boxes.
    """
    try:
        markups = json.loads(path.read_bytes())["markups"]
        return tuple(_boxed_nodule(markup) for markup in markups if markup.get("type") == "ROI")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path.name} holds no boxes that can be read ({error}).") from error


def _boxed_nodule(markup: dict[str, Any]) -> TrueNodule:
    centre = np.asarray(markup["center"], dtype=np.float64)
    if str(markup.get("coordinateSystem", "LPS")).upper() == "LPS":
        centre = points_lps_to_ras(centre)
    x, y, z = (float(c) for c in centre)
    diameter_mm = float(np.prod(np.asarray(markup["size"], dtype=np.float64)) ** (1 / 3))
    return TrueNodule(centre_ras_mm=(x, y, z), diameter_mm=diameter_mm, source="scan")
