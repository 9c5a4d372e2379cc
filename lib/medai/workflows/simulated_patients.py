"""The patients of a retraining simulation and their parts in it; no patient has two.

- *Figure* patients are never in a study: every version is scored on their reference outlines, and no gate sees them.
- *Start* patients train the weak network that the session begins with, and are what the replay shows later on.
- *Regression* patients are the fixed old cases that no challenger may get worse on.
- All others are the *pool*, from which each seed draws the cases that are annotated.

Start and regression patients are copied into a folder of their own, which ``MEDAI_REAL_DATA`` names while the
simulation runs: retraining then finds its real nodules where it always looks for them, and finds no others.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.store.annotations import URL_VARIABLE
from medai.store.atomic import write_bytes
from medai.training.dataset import is_validation_patient
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.click_replay import REAL_DATA_VARIABLE
from medai.workflows.nodule_folder import FolderNodule, load_nodule, read_nodule_folder

LIDC_FOLDER = "lidc_nodules"
OUTSIDE_FOLDER = "outside"
STATE_FOLDER = "state"
STATE_VARIABLE = "XDG_STATE_HOME"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientCounts:
    """How many patients have each part.

    Attributes:
        figure: scored on; a training changes a patient by 0.13 either way, so that with 240 its mean change is known to
            about 0.008: a loss of the margin, 0.02, can be told from chance.
        start: train the weak network.
        regression: old cases, at most.
    """

    figure: int = 240
    start: int = 16
    regression: int = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPatients:
    """The nodules of each part.

    Attributes:
        figure: one a patient.
        start: all of these patients.
        regression: all of these patients.
        pool: one a patient, in an order that is the same in every run; a seed shuffles it.
    """

    figure: tuple[FolderNodule, ...]
    start: tuple[FolderNodule, ...]
    regression: tuple[FolderNodule, ...]
    pool: tuple[FolderNodule, ...]


def nodule_data(data: Path) -> Path:
    """The folder with ``images/``, ``masks/`` and ``nodules.csv``: the one named, or ``lidc_nodules`` in it."""
    return data / LIDC_FOLDER if (data / LIDC_FOLDER).is_dir() else data


def read_patients(data: Path, counts: PatientCounts) -> SimulatedPatients:
    """Give each patient of a folder its part.

    Raises:
        InputError: no such folder, or too few patients in it.
    """
    return part_patients(read_nodule_folder(nodule_data(data)).nodules, counts)


def part_patients(nodules: Sequence[FolderNodule], counts: PatientCounts) -> SimulatedPatients:
    """Give each patient its part, by a hash: the same whatever else is in the folder.

    Start patients are among those who may train a starter (``is_validation_patient``), regression patients among those
    who may not, as the replay and the regression set of a study ask for.

    Raises:
        InputError: fewer patients than the parts need.
    """
    of_patient: dict[str, list[FolderNodule]] = {}
    for nodule in sorted(nodules, key=lambda nodule: _hash(nodule.case_id)):
        of_patient.setdefault(nodule.patient_id, []).append(nodule)
    patients = sorted(of_patient, key=_hash)
    figure, rest = patients[: counts.figure], patients[counts.figure :]
    start = [name for name in rest if not is_validation_patient(name)][: counts.start]
    regression = [name for name in rest if is_validation_patient(name)][: counts.regression]
    pool = [name for name in rest if name not in {*start, *regression}]
    if len(start) < counts.start or not regression or not pool:
        raise InputError(
            f"The folder has nodules of {len(patients)} patients: too few for {counts.figure} patients to score on, "
            f"{counts.start} to start from, some old cases and others to annotate."
        )
    return SimulatedPatients(
        figure=tuple(of_patient[name][0] for name in figure),
        start=tuple(nodule for name in start for nodule in of_patient[name]),
        regression=tuple(nodule for name in regression for nodule in of_patient[name]),
        pool=tuple(of_patient[name][0] for name in pool),
    )


def cases_of_rounds(
    pool: Sequence[FolderNodule], *, rounds: int, cases_per_round: int, seed: int
) -> tuple[tuple[FolderNodule, ...], ...]:
    """Draw the cases of each round; more rounds leave the earlier ones as they were.

    Raises:
        InputError: the pool is too small.
    """
    needed = rounds * cases_per_round
    if needed > len(pool):
        raise InputError(
            f"{rounds} rounds of {cases_per_round} cases take {needed} patients; {len(pool)} are left to annotate. "
            "Ask for fewer rounds or cases."
        )
    drawn = [pool[n] for n in np.random.default_rng(seed).permutation(len(pool))]
    return tuple(tuple(drawn[n * cases_per_round : (n + 1) * cases_per_round]) for n in range(rounds))


def load_nodules(nodules: Sequence[FolderNodule]) -> list[ClickCase]:
    """Read nodules with their reference outlines."""
    return [load_nodule(nodule) for nodule in nodules]


def write_outside(patients: SimulatedPatients, out: Path) -> None:
    """Copy start and regression patients to ``<out>/outside/lidc_nodules``; one that is complete stays.

    Raises:
        InputError: a nodule cannot be read.
        StorageError: the disk refused.
    """
    folder = out / OUTSIDE_FOLDER / LIDC_FOLDER
    if (folder / "nodules.csv").is_file():
        return
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    kept = (*patients.start, *patients.regression)
    for nodule in kept:
        case = load_nodule(nodule)
        write_volume(case.volume, folder / "images" / f"{nodule.case_id}.nii.gz")
        write_label_map(mask_label_map(case), folder / "masks" / f"{nodule.case_id}.nii.gz")
    write_bytes(folder / "nodules.csv", _table(kept).encode())


def mask_label_map(case: ClickCase, mask: NDArray[np.bool_] | None = None) -> LabelMap:
    """An outline of a case as a label map with one segment; None takes the case's own."""
    labels = (case.mask if mask is None else mask).astype(np.uint8)
    return LabelMap(geometry=case.volume.geometry, labels=labels, segments=(Segment(value=1, name="nodule"),))


@contextlib.contextmanager
def simulation_environment(out: Path) -> Iterator[None]:
    """Real data, converted networks and histories of this process come from the simulation's folder alone."""
    wanted: Mapping[str, str | None] = {
        REAL_DATA_VARIABLE: str(out / OUTSIDE_FOLDER),
        STATE_VARIABLE: str(out / STATE_FOLDER),
        # Thousands of made-up labels do not belong into anybody's database.
        URL_VARIABLE: None,
    }
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _table(nodules: Sequence[FolderNodule]) -> str:
    ratings = sorted({name for nodule in nodules for name in nodule.ratings})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["case_id", "patient_id", "diameter_mm", *ratings])
    for nodule in nodules:
        own = [f"{nodule.ratings[name]:g}" if name in nodule.ratings else "" for name in ratings]
        writer.writerow([nodule.case_id, nodule.patient_id, nodule.diameter_mm or "", *own])
    return text.getvalue()


def _hash(name: str) -> str:
    return hashlib.sha256(f"medai simulation {name}".encode()).hexdigest()
