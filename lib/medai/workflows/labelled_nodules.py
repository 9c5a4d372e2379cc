"""The nodules of a study that annotators have outlined, for the click network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medai.domain.click_case import ClickCase
from medai.geometry import IndexBox
from medai.store.split import patient_key_of_case
from medai.training.dataset import nodule_cases
from medai.workflows.labelled_examples import (
    SUBMITTED_TAG,
    LabelledExamples,
    LabelledStudy,
    collect_examples,
    read_scan,
    read_submitted,
)

LARGEST_EXTENT_MM = 120.0
"""A longer segment is a lung or a body outline, whatever its name: a nodule has 30 mm at most, a mass seldom 100."""


def collect_labelled_nodules(
    study: LabelledStudy, *, should_stop: Callable[[], bool] = lambda: False
) -> LabelledExamples[ClickCase]:
    """Read every submitted label of a study, one case a nodule, and place its patients.

    Args:
        study: the study.
        should_stop: asked before each case.

    Raises:
        InputError: too few usable labels to train on some patients and judge on others.
        CancelledByUserError: ``should_stop`` said so.
    """
    return collect_examples(
        study,
        study.labeled(SUBMITTED_TAG),
        lambda case_id: _nodules_of_case(study, case_id),
        nothing="It holds no nodule.",
        needed=(
            "Training needs nodules of at least two patients: one to learn from, one held back. Submit another "
            "patient's label and train again."
        ),
        should_stop=should_stop,
    )


def _nodules_of_case(study: LabelledStudy, case_id: str) -> list[ClickCase]:
    label_map = read_submitted(study, case_id)
    if not label_map.labels.any():
        return []
    cases = nodule_cases([(read_scan(study, case_id), label_map)])
    found = [nodule for nodule in cases if _extent_mm(nodule) <= LARGEST_EXTENT_MM]
    patient_key = patient_key_of_case(study.folder, case_id)
    return [replace(nodule, patient_id=patient_key) for nodule in found]


def _extent_mm(nodule: ClickCase) -> float:
    """Longest side of the nodule's box."""
    box = IndexBox.of_mask(nodule.mask)
    sides = zip(box.shape_ijk, nodule.volume.geometry.spacing_mm, strict=True) if box else ()
    return max((count * spacing_mm for count, spacing_mm in sides), default=0.0)
