"""The nodules of a study that annotators have rated, for the classifier.

3D Slicer's module has no field for a rating, so an annotator types it into the segment's name: "malignancy 4",
"Nodule 2 M5 spiculation 3" (``postprocessing.nodules.ratings_in_name``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from medai.domain.assessment import MALIGNANCY
from medai.domain.click_case import ClickCase
from medai.postprocessing.components import label_components
from medai.postprocessing.nodules import ratings_in_name
from medai.store.split import patient_key_of_case
from medai.training.dataset import nodule_cases
from medai.workflows.labelled_examples import LabelledExamples, LabelledStudy, collect_examples, read_scan
from medai.workflows.labelled_nodules import LARGEST_EXTENT_MM
from medai.workflows.submitted_label import SUBMITTED_TAG, read_submitted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatedNodule:
    """An outlined nodule and what its annotator rates it as.

    Attributes:
        case: the nodule; its patient is the split's patient key.
        ratings: attribute (one of ``ATTRIBUTES``) to rating, 1–5; malignancy among them.
    """

    case: ClickCase
    ratings: Mapping[str, int]

    @property
    def case_id(self) -> str:
        """Names it in verdicts."""
        return self.case.case_id

    @property
    def patient_id(self) -> str:
        """The split's patient key; not for logs."""
        return self.case.patient_id


def collect_rated_nodules(
    study: LabelledStudy, *, should_stop: Callable[[], bool] = lambda: False
) -> LabelledExamples[RatedNodule]:
    """Read the rated nodules of every submitted label, and place their patients.

    Args:
        study: the study.
        should_stop: asked before each case.

    Raises:
        InputError: too few ratings to learn from some patients and judge on others.
        CancelledByUserError: ``should_stop`` said so.
    """
    return collect_examples(
        study,
        study.labeled(SUBMITTED_TAG),
        lambda case_id: _rated_of_case(study, case_id),
        nothing="No segment's name holds a rating of malignancy.",
        needed=(
            "A classifier learns from ratings in the segments' names: rename a segment 'malignancy 4' (1 highly "
            "unlikely to 5 highly suspicious), for nodules of at least two patients, submit, and train again."
        ),
        should_stop=should_stop,
    )


def _rated_of_case(study: LabelledStudy, case_id: str) -> list[RatedNodule]:
    label_map = read_submitted(study, case_id).label_map
    ratings = {segment.value: ratings_in_name(segment.name) for segment in label_map.segments}
    if not any(MALIGNANCY in found for found in ratings.values()):
        return []
    scan = read_scan(study, case_id)
    patient_key = patient_key_of_case(study.folder, case_id)
    # Both go through the same components in the same order.
    parts = label_components(label_map.labels, scan.geometry.spacing_mm)
    pairs = zip(nodule_cases([(scan, label_map)]), parts, strict=True)
    return [
        RatedNodule(case=replace(case, patient_id=patient_key), ratings=ratings[part.value])
        for case, part in pairs
        if MALIGNANCY in ratings.get(part.value, {}) and part.extent_mm(scan.geometry.spacing_mm) <= LARGEST_EXTENT_MM
    ]
