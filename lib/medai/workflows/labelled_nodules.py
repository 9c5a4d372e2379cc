"""The nodules of a study that annotators have submitted, apart for training and for judging."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError, MedaiError
from medai.geometry import IndexBox
from medai.store.split import FrozenSplit, patient_key_of_case
from medai.training.dataset import nodule_cases
from medai.volume_io.readers import read_label_map, read_volume

logger = logging.getLogger(__name__)

SUBMITTED_TAG = "final"
"""MONAI Label's tag for what an annotator has accepted."""

LARGEST_EXTENT_MM = 120.0
"""A longer segment is a lung or a body outline, whatever its name: a nodule has 30 mm at most, a mass seldom 100."""


class LabelledStudy(Protocol):
    """What is read of a study; ``medai.store.study.StudyStore`` is one."""

    folder: Path

    def labeled(self, tag: str = ...) -> list[str]:
        """Ids of the cases with a label of this tag."""
        ...

    def image_path(self, case_id: str) -> Path:
        """The scan's file."""
        ...

    def label_path(self, case_id: str, tag: str) -> Path:
        """The label's file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledNodules:
    """Submitted nodules; each one's ``patient_id`` is the split's patient key, which is not for logs.

    Attributes:
        train: nodules of the patients that train.
        held_back: nodules of the patients that judge; no patient is in both.
        skipped: study case to the reason why its label is not used.
    """

    train: tuple[ClickCase, ...]
    held_back: tuple[ClickCase, ...]
    skipped: Mapping[str, str]


def collect_labelled_nodules(
    study: LabelledStudy, *, should_stop: Callable[[], bool] = lambda: False
) -> LabelledNodules:
    """Read every submitted label of a study and place its patients.

    A label that cannot be used (another grid than its scan, damaged, without a nodule, a detection markup) is left out
    with the reason: one annotator's slip does not stop the training of all.

    Args:
        study: the study.
        should_stop: asked before each case; scans take seconds to decode.

    Raises:
        InputError: too few usable labels to train on some patients and judge on others.
        CancelledByUserError: ``should_stop`` said so.
    """
    nodules: dict[str, list[ClickCase]] = {}
    skipped: dict[str, str] = {}
    for case_id in study.labeled(SUBMITTED_TAG):
        if should_stop():
            raise CancelledByUserError("The training was stopped (collect); the model in use stays.")
        try:
            found = _nodules_of_case(study, case_id)
        except MedaiError as error:
            skipped[case_id] = str(error)
            logger.warning("The submitted label of case %s is not used: %s", case_id, error)
            continue
        if found:
            nodules[case_id] = found
        else:
            skipped[case_id] = "It holds no nodule."
    placed = FrozenSplit(study.folder).place_cases(nodules)
    train = tuple(n for case_id, found in nodules.items() if placed[case_id] == "train" for n in found)
    held_back = tuple(n for case_id, found in nodules.items() if placed[case_id] == "validation" for n in found)
    if not train or not held_back:
        raise InputError(_too_few(len(nodules), skipped, has_train=bool(train)))
    return LabelledNodules(
        train=train,
        held_back=held_back,
        skipped=skipped,
    )


def _nodules_of_case(study: LabelledStudy, case_id: str) -> list[ClickCase]:
    label_path = study.label_path(case_id, SUBMITTED_TAG)
    if label_path.suffix == ".json":
        raise InputError(f"{label_path.name} is a detection markup, not an outline.")
    label_map = read_label_map(label_path)
    if not label_map.labels.any():
        return []
    scan = read_volume(study.image_path(case_id))
    named = Volume(geometry=scan.geometry, image_hu=scan.image_hu, case_id=case_id, header=scan.header)
    found = [nodule for nodule in nodule_cases([(named, label_map)]) if _extent_mm(nodule) <= LARGEST_EXTENT_MM]
    patient_key = patient_key_of_case(study.folder, case_id)
    return [replace(nodule, patient_id=patient_key) for nodule in found]


def _extent_mm(nodule: ClickCase) -> float:
    """Longest side of the nodule's box."""
    box = IndexBox.of_mask(nodule.mask)
    sides = zip(box.shape_ijk, nodule.volume.geometry.spacing_mm, strict=True) if box else ()
    return max((count * spacing_mm for count, spacing_mm in sides), default=0.0)


def _too_few(usable: int, skipped: Mapping[str, str], *, has_train: bool) -> str:
    """Why there can be no training yet, and what to do."""
    left_out = "".join(f" Not used: case {case_id} ({reason})" for case_id, reason in skipped.items())
    if usable == 0:
        what = "No case of this study has a usable submitted label"
    else:
        missing = "held back to judge the new model" if has_train else "left to train on"
        what = (
            f"{usable} case{'s have' if usable > 1 else ' has'} a usable submitted label, but no patient is {missing}"
        )
    return (
        f"{what}. Training needs nodules of at least two patients: one to learn from, one held back. Submit another "
        f"patient's label and train again.{left_out}"
    )
