"""The click network's fixed regression set: old nodules that no challenger may get worse on, kept for the study.

``<study>/.medai/regression/nodule_click/``: ``set.json`` and, for nodules from outside the study, ``<case id>.npz``.

- From outside: real nodules of held-back patients where ``MEDAI_REAL_DATA`` names a folder with ``lidc_nodules/``, else
  phantom nodules of fixed seeds, two of every size and texture. They are cut out once, at a study's first training
  (seconds), and kept as they are: a later release that draws phantoms otherwise judges on the same ones.
- From the study: the nodules of its first held-back patients, at most ``MOST_OF_STUDY``, by their case ids. Their truth
  is the label of today: an annotator's first slip is not frozen into the gate. Those whose label is gone are left out.

Sizes and textures are decided when a nodule enters the set and stay. The two sorts are never one subgroup: a gain on
what the session is about must not hide a loss elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medai.clinical.measurements import attenuation_kind, volume_mm3
from medai.domain import NoduleKind, Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, MedaiError, StorageError
from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom import NoduleSpec, PhantomConfig, make_phantom
from medai.store.atomic import publish, staged_file, sweep, write_json
from medai.store.layout import state_folder
from medai.store.split import patient_key_of_case
from medai.training.classification_fit import kind_of_texture
from medai.training.dataset import is_validation_patient
from medai.volume_io.dicom_headers import patient_key_of
from medai.workflows.families import CLICK_TASK, OldExamples
from medai.workflows.labelled_examples import LabelledStudy
from medai.workflows.nodule_folder import load_nodule, read_nodule_folder
from medai.workflows.segmentation_report import size_class_of
from medai.workflows.submitted_label import SUBMITTED_TAG

logger = logging.getLogger(__name__)

REGRESSION_FOLDER = "regression"
SET_FILE = "set.json"
REAL_DATA_VARIABLE = "MEDAI_REAL_DATA"
REAL_FOLDER = "lidc_nodules"

REAL_EACH = 6
"""Real nodules of each size and texture, as far as there are: with half as many a loss can hardly be told from chance.
Of the phantoms there are two: six of a size, eight of a texture."""
MOST_OF_STUDY = 12
STUDY_GROUPS = "study "
"""Leads the names of what the study's own nodules are grouped by: "study size"."""
PHANTOM_DIAMETERS_MM = (5.0, 7.0, 11.0, 19.0)
"""One in each class of size below 30 mm; a mass does not fit beside the others."""
PHANTOM_SEEDS = (20240301, 20240302)
PHANTOM_SHAPE_IJK, PHANTOM_SPACING_MM = (400, 340, 72), (0.8, 0.8, 1.5)
"""Both lungs across, 11 cm from foot to head."""
CONTEXT_MM = 32.0
"""Scan kept around a nodule: a first look of the click network sees no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A nodule of the set; ``patient`` is a hash."""

    case_id: str
    patient: str
    source: Literal["study", "real", "phantom"]
    size: str
    texture: str


def old_nodules(
    study: LabelledStudy, held_back: Sequence[ClickCase], *, should_stop: Callable[[], bool] = lambda: False
) -> OldExamples[ClickCase]:
    """The study's regression set, made at the first call; one training at a time calls this.

    Args:
        study: the study.
        held_back: the nodules that judge today.
        should_stop: asked now and then while the set is made.

    Raises:
        StorageError: the set is damaged or cannot be written.
        CancelledByUserError: ``should_stop`` said so.
    """
    folder = state_folder(study.folder) / REGRESSION_FOLDER / CLICK_TASK
    entries = _read_set(folder)
    if entries is None:
        sweep(folder)
        entries = _from_outside(folder, should_stop)
        _write_set(folder, entries)
    of_study = [entry for entry in entries if entry.source == "study"]
    new = _first_of_study(held_back, {entry.case_id for entry in of_study}, MOST_OF_STUDY - len(of_study))
    if new:
        entries = [*entries, *new]
        _write_set(folder, entries)
    today = {case.case_id: case for case in held_back}
    # A patient of the study may be among the real ones: one that trains here must not judge.
    in_study = {patient_key_of_case(study.folder, case_id) for case_id in study.labeled(SUBMITTED_TAG)}
    examples, groups, truth = [], {}, {}
    for entry in entries:
        if entry.source == "study":
            case = today.get(entry.case_id)
        else:
            case = None if entry.patient in in_study else _load(folder, entry)
        if case is not None:
            examples.append(case)
            prefix = STUDY_GROUPS if entry.source == "study" else ""
            groups[case.case_id] = {f"{prefix}size": entry.size, f"{prefix}texture": entry.texture}
            truth[case.case_id] = _truth_of(case)
    return OldExamples(examples=tuple(examples), groups_of_case=groups, truth_of_case=truth)


def phantom_nodules(seed: int) -> list[tuple[ClickCase, NoduleKind, float]]:
    """Cut the nodules of one regression phantom out: every size and texture once, with its diameter in mm."""
    specs = tuple(
        NoduleSpec(diameter_mm=diameter, kind=kind)
        for diameter in reversed(PHANTOM_DIAMETERS_MM)
        for kind in NoduleKind
    )
    config = PhantomConfig(
        shape_ijk=PHANTOM_SHAPE_IJK, spacing_mm=PHANTOM_SPACING_MM, nodules=specs, detail=0.5, contrast=False
    )
    phantom = make_phantom(config, np.random.default_rng(seed))
    found = []
    for number, nodule in enumerate(phantom.nodules, start=1):
        mask = np.zeros(phantom.volume.geometry.shape_ijk, dtype=bool)
        mask[nodule.box.slices] = nodule.mask
        name = f"phantom-{seed}-{number}"
        whole = ClickCase(case_id=name, patient_id=name, volume=phantom.volume, mask=mask)
        found.append((_cropped(whole), nodule.kind, nodule.diameter_mm))
    return found


def _from_outside(folder: Path, should_stop: Callable[[], bool]) -> list[_Entry]:
    """Choose and keep the nodules from outside the study."""
    entries = _kept(folder, _real_nodules(), "real", should_stop)
    if not entries:
        entries = _kept(
            folder, (each for seed in PHANTOM_SEEDS for each in phantom_nodules(seed)), "phantom", should_stop
        )
    logger.info("The regression set of '%s' has %d nodules from outside the study", CLICK_TASK, len(entries))
    return entries


def _kept(
    folder: Path,
    nodules: Iterator[tuple[ClickCase, NoduleKind, float]],
    source: Literal["real", "phantom"],
    should_stop: Callable[[], bool],
) -> list[_Entry]:
    entries = []
    for case, kind, diameter_mm in nodules:
        if should_stop():
            raise CancelledByUserError("The training was stopped (regression set); the model in use stays.")
        _keep(folder, case)
        entries.append(
            _Entry(
                case_id=case.case_id,
                patient=patient_key_of(case.patient_id),
                source=source,
                size=size_class_of(diameter_mm),
                texture=str(kind),
            )
        )
    return entries


def _real_nodules() -> Iterator[tuple[ClickCase, NoduleKind, float]]:
    """Real nodules of patients that the starters were not trained on, ``REAL_EACH`` of a size and texture."""
    return ((_cropped(case), kind, diameter) for case, kind, diameter in unlearned_nodules(REAL_EACH))


def judging_patients(study_folder: Path) -> frozenset[str]:
    """Keys of the patients outside a study whose nodules judge there; empty before its first training."""
    entries = _read_set(state_folder(study_folder) / REGRESSION_FOLDER / CLICK_TASK) or []
    return frozenset(entry.patient for entry in entries if entry.source == "real")


def unlearned_nodules(
    each: int, *, leave_out: Callable[[str], bool] = lambda patient_key: False
) -> Iterator[tuple[ClickCase, NoduleKind, float]]:
    """Real nodules of patients that no starter was trained on, where ``MEDAI_REAL_DATA`` names a folder of them.

    Args:
        each: nodules of every size and texture, at most.
        leave_out: asked with a patient's key (``patient_key_of``).

    Yields:
        The nodule in its whole crop, its texture by the readers, its diameter in mm.
    """
    named = os.environ.get(REAL_DATA_VARIABLE)
    if not named or not (Path(named) / REAL_FOLDER).is_dir():
        return
    taken: dict[tuple[str, NoduleKind], int] = {}
    try:
        nodules = read_nodule_folder(Path(named) / REAL_FOLDER).nodules
    except MedaiError as error:
        logger.warning("The real nodules that %s names are not used: %s", REAL_DATA_VARIABLE, error)
        return
    for nodule in nodules:
        kind = kind_of_texture(nodule.ratings["texture"]) if "texture" in nodule.ratings else None
        if kind is None or nodule.diameter_mm is None or not is_validation_patient(nodule.patient_id):
            continue
        group = (size_class_of(nodule.diameter_mm), kind)
        if taken.get(group, 0) >= each or leave_out(patient_key_of(nodule.patient_id)):
            continue
        try:
            case = load_nodule(nodule)
        except MedaiError as error:
            logger.warning("Nodule %s is not used as an old one: %s", nodule.case_id, error)
            continue
        taken[group] = taken.get(group, 0) + 1
        yield case, kind, nodule.diameter_mm


def _first_of_study(held_back: Sequence[ClickCase], known: set[str], most: int) -> list[_Entry]:
    """Entries of the study's own nodules that are not in the set yet."""
    new = [case for case in held_back if case.case_id not in known]
    return [
        _Entry(
            case_id=case.case_id,
            patient="",
            source="study",
            size=size_class_of(_diameter_mm(case)),
            texture=str(attenuation_kind(case.volume.image_hu, case.mask, case.volume.geometry)),
        )
        for case in new[: max(0, most)]
    ]


def _diameter_mm(case: ClickCase) -> float:
    """Of the sphere with the mask's volume."""
    return float((6 * volume_mm3(case.mask, case.volume.geometry) / np.pi) ** (1 / 3))


def _truth_of(case: ClickCase) -> str:
    """A digest of the outline: an annotator who corrects it makes it another question."""
    shape = repr(case.mask.shape).encode()
    return hashlib.sha256(shape + np.packbits(case.mask).tobytes()).hexdigest()[:16]


def _cropped(case: ClickCase) -> ClickCase:
    """The nodule with the scan around it that a click looks at."""
    box = IndexBox.of_mask(case.mask) or IndexBox.of_shape(case.mask.shape)
    margin = [int(np.ceil(CONTEXT_MM / spacing)) for spacing in case.volume.geometry.spacing_mm]
    region = box.expand(margin).clip(case.mask.shape)
    part = case.volume.crop(region)
    return ClickCase(
        case_id=case.case_id,
        patient_id=case.patient_id,
        volume=Volume(geometry=part.geometry, image_hu=np.array(part.image_hu), case_id=case.case_id),
        mask=np.array(case.mask[region.slices]),
    )


def _keep(folder: Path, case: ClickCase) -> None:
    path = folder / f"{case.case_id}.npz"
    with staged_file(path) as staged:
        with staged.open("wb") as stream:
            np.savez_compressed(
                stream,
                image_hu=np.rint(case.volume.image_hu).astype(np.int16),
                mask=case.mask,
                affine=case.volume.geometry.affine_ijk_to_ras_mm,
            )
        publish(staged, path)


def _load(folder: Path, entry: _Entry) -> ClickCase:
    path = folder / f"{entry.case_id}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            image_hu, mask, affine = kept["image_hu"], kept["mask"], kept["affine"]
        geometry = VolumeGeometry(shape_ijk=image_hu.shape, affine_ijk_to_ras_mm=affine)
        return ClickCase(
            case_id=entry.case_id,
            patient_id=entry.patient,
            volume=Volume(geometry=geometry, image_hu=image_hu, case_id=entry.case_id),
            mask=mask,
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, MedaiError) as error:
        raise _damaged(path, error) from error


def _read_set(folder: Path) -> list[_Entry] | None:
    """The entries on disk; None where the set has not been made."""
    path = folder / SET_FILE
    try:
        content: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
        nodules = content["nodules"]
        if not isinstance(nodules, list):
            raise TypeError("'nodules' is no list")
        return [_Entry(**nodule) for nodule in nodules]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _write_set(folder: Path, entries: Sequence[_Entry]) -> None:
    write_json(folder / SET_FILE, {"version": 1, "nodules": [asdict(entry) for entry in entries]})


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"{path} of the regression set is damaged ({error}). Restore it, or remove its folder: the next training then "
        "makes the set anew."
    )
