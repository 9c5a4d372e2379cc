"""What a click challenger is shown beside new labels, so that it does not forget: old labels, phantoms, real crops.

A network that is fine-tuned on this week's corrections alone gets worse at everything that did not occur this week. So
each training draws, beside the new nodules, from

1. the study's labels that the champion has learned from already;
2. phantom nodules of fixed seeds, as the starter was trained on them: made once a user and kept;
3. LIDC crops of the starter's training patients, where ``MEDAI_REAL_DATA`` names a folder with ``lidc_nodules``. The
   patients whom this study holds back are left out, whichever side they are on for the starter.

The shares: a new nodule is drawn ``NEW_OVER_OLD`` times as often as an old one of the study, and the starter's data are
drawn as often as the study's old labels together.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medai.domain import LabelMap, Segment
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, MedaiError, StorageError
from medai.phantom import Kernel, PhantomConfig, make_phantom
from medai.store.layout import user_state_folder
from medai.store.split import FrozenSplit
from medai.training.case_files import load_cases, save_cases
from medai.training.dataset import is_validation_patient, nodule_cases
from medai.training.label_weights import label_weight, readers_weight
from medai.training.lidc import lidc_cases, lidc_patients
from medai.volume_io.dicom_headers import patient_key_of
from medai.workflows.click_keepers import Keeper, keeper_nodules
from medai.workflows.families import AnnotationLookup, ChallengerTrainer, Lesson
from medai.workflows.labelled_examples import LabelledExamples, LabelledStudy

logger = logging.getLogger(__name__)

REAL_DATA_VARIABLE = "MEDAI_REAL_DATA"
NEW_OVER_OLD = 4.0
LEAST_REPLAY = 0.3
PHANTOM_SEEDS = (5001, 5002)
"""None of the starter's: a skill is kept by new questions of the same kind as well as by the old ones."""
PHANTOM_CONTEXT_MM = 24.0
"""Scan kept around a phantom nodule: half the diagonal of a first look."""
LIDC_PATIENTS = 24
"""Reading more crops would take longer than a small study's training."""


def plan_click_lesson(
    examples: LabelledExamples[ClickCase],
    *,
    study: LabelledStudy,
    trained_before: frozenset[str],
    annotation_of: AnnotationLookup | None,
    should_stop: Callable[[], bool],
    trainer: Callable[..., Path],
    recipe: Callable[[Path, Callable[[], bool]], list[ClickCase]] | None = None,
    keepers: Callable[[Path, Callable[[], bool]], list[Keeper]] = keeper_nodules,
) -> Lesson[ClickCase]:
    """Weigh the study's nodules, add the replay, and name the old nodules that say how much of a training is kept.

    Args:
        examples: the study's nodules.
        study: where they come from.
        trained_before: cases the champion has learned from: they are replayed, not new.
        annotation_of: how each label came about; None: all count the same.
        should_stop: asked between phantoms.
        trainer: takes ``replayed`` and ``recipe`` beside what a challenger's trainer takes.
        recipe: gives the starter's own kind of data; None: phantoms, and real crops where there are some.
        keepers: gives the old nodules that neither train nor judge; asked after the training.

    Returns:
        The weighted nodules and the trainer with the replay bound to it.

    Raises:
        CancelledByUserError: ``should_stop`` said so.
    """
    weighted = weigh(examples.train, annotation_of)
    # Where everything has been withdrawn the labels still train: the gate decides what comes of it.
    learned = weighted or examples.train
    bound: ChallengerTrainer[ClickCase] = partial(
        trainer,
        replayed=frozenset(nodule.case_id for nodule in learned if case_of(nodule) in trained_before),
        recipe=(recipe or starter_recipe)(study.folder, should_stop),
        keepers=partial(keepers, study.folder, should_stop),
    )
    return Lesson(examples=tuple(learned), train=bound)


def weigh(nodules: Sequence[ClickCase], annotation_of: AnnotationLookup | None) -> tuple[ClickCase, ...]:
    """Multiply each nodule's weight by that of its label; those of labels that must not train are left out."""
    weighted: list[ClickCase] = []
    for nodule in nodules:
        weight = label_weight(annotation_of(case_of(nodule)) if annotation_of else None)
        if weight > 0:
            weighted.append(replace(nodule, weight=nodule.weight * weight * readers_weight(nodule.readers)))
    return tuple(weighted)


def case_of(nodule: ClickCase) -> str:
    """The study's case that a nodule was cut out of."""
    return nodule.case_id.rpartition("#")[0] or nodule.case_id


def replay_share(new: float, old: float) -> float:
    """Share of the patches drawn from the replay.

    Args:
        new: sum of the weights of the new nodules, above 0.
        old: of the study's old ones.

    Returns:
        ``LEAST_REPLAY`` or more, below 1.
    """
    return max(LEAST_REPLAY, old / (NEW_OVER_OLD * new + old))


def balanced_replay(old: Sequence[ClickCase], recipe: Sequence[ClickCase]) -> tuple[ClickCase, ...]:
    """The study's old nodules and the starter's data, each half of the draws where there are both."""
    if not old or not recipe:
        return (*old, *recipe)
    factor = sum(nodule.weight for nodule in old) / sum(case.weight for case in recipe)
    return (*old, *(replace(case, weight=case.weight * factor) for case in recipe))


def starter_recipe(study_folder: Path, should_stop: Callable[[], bool]) -> list[ClickCase]:
    """Phantom nodules, and real crops where they are at hand; what cannot be had is told in the log and left out.

    A training goes on without a replay: the gate still refuses a model that has become worse.
    """
    cases: list[ClickCase] = []
    for seed in PHANTOM_SEEDS:
        if should_stop():
            raise CancelledByUserError("The training was stopped (collect); the model in use stays.")
        try:
            cases += phantom_nodules(seed, user_state_folder() / "replay")
        except MedaiError as error:
            logger.warning("No phantom nodules are replayed: %s", error)
    named = os.environ.get(REAL_DATA_VARIABLE)
    if named and (Path(named) / "lidc_nodules" / "nodules.csv").is_file():
        try:
            cases += real_crops(Path(named) / "lidc_nodules", study_folder)
        except MedaiError as error:
            logger.warning("No real crops are replayed: %s", error)
    return cases


def real_crops(folder: Path, study_folder: Path) -> list[ClickCase]:
    """Crops of the starter's training patients, the same few each time, without those the study holds back.

    Args:
        folder: ``lidc_nodules``.
        study_folder: its split names the patients to leave out.
    """
    patients = [name for name in sorted(lidc_patients(folder), key=_hash) if not is_validation_patient(name)]
    placed = FrozenSplit(study_folder).known(patient_key_of(name) for name in patients)
    # Chosen before the study's patients are left out, so that the others stay the same whatever the study holds.
    wanted = {name for name in patients[:LIDC_PATIENTS] if placed.get(patient_key_of(name), "train") == "train"}
    return [replace(case, patient_id=patient_key_of(case.patient_id)) for case in lidc_cases(folder, wanted)]


def phantom_nodules(seed: int, cache_folder: Path) -> list[ClickCase]:
    """The nodules of one phantom, cut out; made at the first call and kept.

    Args:
        seed: of the phantom.
        cache_folder: where its nodules are kept, a megabyte or two a phantom.

    Raises:
        StorageError: they cannot be kept.
    """
    path = cache_folder / f"phantom-{seed}-2.npz"
    try:
        return load_cases(path)
    except FileNotFoundError:
        pass
    except (OSError, MedaiError) as error:
        logger.warning("%s", error)
    cases = _make_phantom_nodules(seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path.parent} cannot be made: {error.strerror}. Check its permissions."
        ) from error
    save_cases(path, cases, compressed=True)
    return cases


def _make_phantom_nodules(seed: int) -> list[ClickCase]:
    """Smaller than the starter's phantoms and coarser in plane: seconds instead of half a minute."""
    rng = np.random.default_rng(seed)
    slice_mm = float(rng.choice([1.25, 2.0, 2.5]))
    phantom = make_phantom(
        PhantomConfig(
            shape_ijk=(300, 250, round(260 / slice_mm)),
            spacing_mm=(1.0, 1.0, slice_mm),
            nodule_count=8,
            kernel=list(Kernel)[int(rng.integers(len(Kernel)))],
            noise_hu=float(rng.uniform(12, 35)),
        ),
        rng,
    )
    volume = replace(phantom.volume, case_id=f"phantom{seed}")
    labels = np.zeros(volume.geometry.shape_ijk, dtype=np.uint8)
    for number, nodule in enumerate(phantom.nodules, start=1):
        labels[nodule.box.slices][nodule.mask] = number
    segments = tuple(Segment(value=n, name=f"{n}") for n in range(1, len(phantom.nodules) + 1))
    label_map = LabelMap(geometry=volume.geometry, labels=labels, segments=segments)
    return nodule_cases([(volume, label_map)], context_mm=PHANTOM_CONTEXT_MM)


def _hash(patient_id: str) -> str:
    return hashlib.sha256(patient_id.encode()).hexdigest()
