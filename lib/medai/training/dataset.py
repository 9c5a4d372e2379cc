"""What the click network learns from: one case a nodule, a scan region with full context and the nodule's mask.

A scan with several nodules gives several cases: clicking one nodule must not outline its neighbour, so the others are
background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medai.domain import LabelMap, Volume
from medai.domain.click_case import ClickCase
from medai.errors import GeometryError, InputError
from medai.postprocessing.components import label_components

CONTEXT_MM = 40.0
"""Scan kept around a nodule: half the field of the coarsest patch."""

VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickDataset:
    """What a click network is trained and chosen on.

    Attributes:
        training: patches are drawn from these.
        validation: the best epoch is chosen by these; no patient of them may be in ``training``.
        replay: cases the starting weights were trained on, mixed in so that they are not forgotten.
    """

    training: tuple[ClickCase, ...]
    validation: tuple[ClickCase, ...]
    replay: tuple[ClickCase, ...] = ()

    def __post_init__(self) -> None:
        if not self.training:
            raise InputError("There is no nodule to train on: submit at least one outlined nodule first.")
        if not self.validation:
            raise InputError(
                "There is no nodule to validate on: submit labels of at least one case held back for validation."
            )
        known = {case.patient_id for case in (*self.training, *self.replay)}
        shared = sorted({case.patient_id for case in self.validation} & known)
        if shared:
            raise InputError(
                f"{len(shared)} patients are in both training and validation: the Dice would mean nothing. "
                "Split by patient."
            )


def nodule_cases(pairs: Iterable[tuple[Volume, LabelMap]], *, context_mm: float = CONTEXT_MM) -> list[ClickCase]:
    """Cut one case a nodule out of scans with label maps.

    Each connected component of each label value is a nodule: annotators may keep a segment a nodule or all in one.
    Crumbs that an edit has left are none.

    Args:
        pairs: scans and label maps on the same grid; ``volume.case_id`` names the patient.
        context_mm: scan kept around the nodule's box.

    Returns:
        Cases in the order of the pairs; empty where no label map has a nodule.

    Raises:
        GeometryError: a label map lies on another grid than its scan.
    """
    cases: list[ClickCase] = []
    for volume, label_map in pairs:
        if not volume.geometry.is_same_grid(label_map.geometry):
            raise GeometryError(
                f"The labels of case '{volume.case_id}' lie on another grid than the scan: "
                f"{label_map.geometry.describe()} instead of {volume.geometry.describe()}. "
                "Export them on the scan's own grid."
            )
        components = label_components(label_map.labels, volume.geometry.spacing_mm)
        for number, found in enumerate(components, start=1):
            margin = [int(np.ceil(context_mm / s)) for s in volume.geometry.spacing_mm]
            region = found.box.expand(margin).clip(volume.geometry.shape_ijk)
            mask = np.zeros(region.shape_ijk, dtype=bool)
            mask[found.box.shift([-n for n in region.start_ijk]).slices] = found.mask
            cropped = volume.crop(region)
            cases.append(
                ClickCase(
                    case_id=f"{volume.case_id}#{number}",
                    patient_id=volume.case_id,
                    volume=Volume(
                        geometry=cropped.geometry, image_hu=np.array(cropped.image_hu), case_id=volume.case_id
                    ),
                    mask=mask,
                )
            )
    return cases


def is_validation_patient(patient_id: str, fraction: float = VALIDATION_FRACTION) -> bool:
    """True where a patient belongs to the validation part: decided by a hash of the id, so it never changes."""
    digest = hashlib.sha256(patient_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def split_by_patient(cases: Iterable[ClickCase]) -> tuple[list[ClickCase], list[ClickCase]]:
    """Training and validation cases, no patient in both."""
    training: list[ClickCase] = []
    validation: list[ClickCase] = []
    for case in cases:
        (validation if is_validation_patient(case.patient_id) else training).append(case)
    return training, validation
