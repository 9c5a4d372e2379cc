"""Scans whose nodules are all known, for training a detector and for judging one.

Most are phantoms, with nodules of their own and with real ones put into them; some are real scans with real nodules put
into them; some hold no nodule at all. Nodules and scans of held-back patients appear in held-back cases only.

``detection_folder`` says how a folder of them is laid out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind, Volume
from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import CancelledByUserError, InputError
from medai.phantom import Attachment, Kernel, Margin, NoduleSpec, Phantom, PhantomConfig, make_phantom
from medai.phantom.insertion import Host
from medai.preprocessing.lung_mask import segment_lungs
from medai.training.dataset import is_validation_patient
from medai.workflows.detection_folder import (
    is_written,
    read_detection_case,
    write_detection_cases,
    written_case_ids,
)
from medai.workflows.real_nodules import cutout_of, draw_real_scan, real_nodules

__all__ = [
    "HELD_BACK",
    "TRAINING",
    "CaseOptions",
    "draw_small_and_large",
    "held_back_case",
    "is_written",
    "prepare_detection_cases",
    "read_detection_case",
    "training_case",
    "write_detection_cases",
    "written_case_ids",
]

logger = logging.getLogger(__name__)

COARSEST_SOURCE = 1.5
"""A crop's slices may be this many times as far apart as the host's; 1.3 mm are always allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseOptions:
    """What detection cases are made of.

    Attributes:
        without_nodule: share of cases without any nodule.
        on_real_scan: share of cases whose host is a real scan, where there is real data.
        inserted: share of the nodules of a case that are real ones, where there is real data.
        with_insertions: share of the cases with nodules that have any real one.
        nodules: fewest and most nodules of a case that has any.
        slice_mm: distances of slices to choose from.
        in_plane_mm: smallest and largest pixel.
        field_mm: what a phantom shows along i, j, k.
    """

    without_nodule: float
    on_real_scan: float
    inserted: float
    with_insertions: float
    nodules: tuple[int, int]
    slice_mm: tuple[float, ...] = (1.0, 1.25, 1.25, 1.5, 2.0, 2.5, 3.0)
    in_plane_mm: tuple[float, float] = (0.68, 0.9)
    field_mm: tuple[float, float, float] = (330.0, 270.0, 290.0)


TRAINING = CaseOptions(without_nodule=0.1, on_real_scan=0.06, inserted=0.6, with_insertions=0.9, nodules=(6, 12))
HELD_BACK = CaseOptions(without_nodule=1 / 3, on_real_scan=0.1, inserted=0.7, with_insertions=0.75, nodules=(1, 5))


def training_case(seed: int, real_data: Path | None, options: CaseOptions = TRAINING) -> DetectionCase:
    """A case for training; real nodules and scans are of training patients only.

    Args:
        seed: the same seed gives the same case.
        real_data: folder with ``lidc_nodules``, ``lidc_cubes`` and ``dicom``; None for phantom nodules alone.
        options: what it is made of.
    """
    return _case(seed, real_data, options, held_back=False)


def held_back_case(seed: int, real_data: Path | None, options: CaseOptions = HELD_BACK) -> DetectionCase:
    """A case for judging; real nodules and scans are of held-back patients only.

    Args:
        seed: the same seed gives the same case; no phantom is shared with ``training_case``.
        real_data: see ``training_case``.
        options: what it is made of.
    """
    return _case(seed, real_data, options, held_back=True)


def prepare_detection_cases(
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    real_data: Path | None = None,
    held_back: bool = False,
    options: CaseOptions | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[str, ...]:
    """Make a folder of cases, or complete one that was interrupted; cases that are there are left as they are.

    The lists are rewritten after every case, so that the folder can be used while it grows.

    Args:
        folder: made where it does not exist; see the module's docstring.
        count: cases in all, seeds ``seed`` … ``seed + count - 1``.
        seed: first seed.
        real_data: see ``training_case``.
        held_back: whether to make held-back cases.
        options: what they are made of; None for the usual ones of their side.
        on_progress: called with (cases done, cases in all).
        should_stop: asked between cases.

    Returns:
        The cases' ids.

    Raises:
        InputError: ``count`` below 1, or the real data is not there.
        CancelledByUserError: stopped on request; what is written stays.
        StorageError: the disk refuses.
    """
    if count < 1:
        raise InputError(f"The number of cases is {count}; at least one is made.")
    if real_data is not None:
        # Before the first phantom is made: a wrong folder is said at once.
        real_nodules(real_data)
    make = held_back_case if held_back else training_case
    options = options or (HELD_BACK if held_back else TRAINING)
    ids = [_case_id(number, held_back=held_back) for number in range(seed, seed + count)]
    for done, (number, case_id) in enumerate(zip(range(seed, seed + count), ids, strict=True)):
        on_progress(done, count)
        if should_stop():
            raise CancelledByUserError(f"Stopped after {done} of {count} cases; the same command goes on from there.")
        if not is_written(folder, case_id):
            write_detection_cases(folder, [make(number, real_data, options)])
            logger.info("made detection case %s (%d of %d)", case_id, done + 1, count)
    on_progress(count, count)
    return tuple(ids)


def _case_id(seed: int, *, held_back: bool) -> str:
    return f"{'held-back' if held_back else 'train'}-{seed:05d}"


def _evenly(seed: int, step: float) -> float:
    """Numbers 0–1 that consecutive seeds spread evenly: a set of 40 cases has its third without nodules."""
    return (0.5 + seed * step) % 1.0


def _case(seed: int, real_data: Path | None, options: CaseOptions, *, held_back: bool) -> DetectionCase:
    """Draw what the case is to be and make it."""
    case_id = _case_id(seed, held_back=held_back)
    rng = np.random.default_rng([18 if held_back else 17, seed])
    empty = _evenly(seed, 0.6180339887) < options.without_nodule
    wanted = 0 if empty else int(rng.integers(options.nodules[0], options.nodules[1] + 1))
    on_real = real_data is not None and _evenly(seed, 0.7548776662) < options.on_real_scan and not empty
    if on_real and real_data is not None:
        host = draw_real_scan(rng, real_data, held_back=held_back)
        if host is not None:
            scan, findings, patient_id = host
            # A slab of a few centimetres has no room for many.
            room = max(1, int(wanted * min(1.0, scan.geometry.shape_ijk[2] * scan.geometry.spacing_mm[2] / 200)))
            return _with_insertions(
                case_id, scan, segment_lungs(scan).labels, findings, (patient_id,), room, rng, real_data, held_back
            )
    real = 0
    if real_data is not None and rng.random() < options.with_insertions:
        real = int(rng.binomial(wanted, options.inserted))
    phantom = _phantom(rng, options, wanted - real)
    own = tuple(
        TrueNodule(centre_ras_mm=n.centre_ras_mm, diameter_mm=n.diameter_mm, kind=n.kind, source="phantom")
        for n in phantom.nodules
    )
    if real == 0 or real_data is None:
        volume = _named(phantom.volume, case_id)
        return DetectionCase(case_id=case_id, patient_ids=(), volume=volume, nodules=own)
    return _with_insertions(case_id, phantom.volume, phantom.lungs, (own, ()), (), real, rng, real_data, held_back)


def _with_insertions(
    case_id: str,
    scan: Volume,
    lungs: NDArray[np.uint8],
    findings: tuple[tuple[TrueNodule, ...], tuple[TrueNodule, ...]],
    patient_ids: tuple[str, ...],
    count: int,
    rng: np.random.Generator,
    real_data: Path,
    held_back: bool,
) -> DetectionCase:
    """Put real nodules into a scan."""
    nodules, irrelevant = findings
    host = Host.prepare(scan, lungs, tuple((n.centre_ras_mm, n.diameter_mm) for n in (*nodules, *irrelevant)))
    finest = max(COARSEST_SOURCE * scan.geometry.spacing_mm[2], 1.3)
    rows = [row for row in real_nodules(real_data) if is_validation_patient(row.patient_id) == held_back]
    for n in rng.permutation(len(rows))[: 6 * count]:
        if len(host.inserted) == count:
            break
        cutout = cutout_of(rows[n])
        if cutout is not None and cutout.spacing_mm[2] <= finest:
            scale = float(np.clip(rng.normal(1.0, 0.12), 0.8, 1.25))
            host.insert(cutout, rng, scale=scale)
    added = tuple(
        TrueNodule(centre_ras_mm=n.centre_ras_mm, diameter_mm=n.diameter_mm, kind=n.kind, source=f"real:{n.case_id}")
        for n in host.inserted
    )
    return DetectionCase(
        case_id=case_id,
        patient_ids=tuple(dict.fromkeys((*patient_ids, *(n.patient_id for n in host.inserted)))),
        volume=_named(host.volume, case_id),
        nodules=(*nodules, *added),
        irrelevant=irrelevant,
    )


def _named(volume: Volume, case_id: str) -> Volume:
    return Volume(geometry=volume.geometry, image_hu=volume.image_hu, case_id=case_id, header=volume.header)


def _phantom(rng: np.random.Generator, options: CaseOptions, nodule_count: int) -> Phantom:
    """A phantom of any slice distance, kernel and noise; fewer nodules where they do not all find room."""
    in_plane_mm = float(rng.uniform(*options.in_plane_mm))
    slice_mm = float(rng.choice(options.slice_mm))
    kernel = list(Kernel)[int(rng.choice(3, p=[0.3, 0.45, 0.25]))]
    noise_hu = float(np.exp(rng.uniform(np.log(9), np.log(60 if kernel is Kernel.SHARP else 32))))
    steps = (in_plane_mm, in_plane_mm, slice_mm)
    i, j, k = (round(whole / step) for whole, step in zip(options.field_mm, steps, strict=True))
    specs = draw_small_and_large(rng, nodule_count, smallest_mm=max(3.0, 1.6 * slice_mm))
    seeds = [int(n) for n in rng.integers(2**62, size=6)]
    for attempt, seed in enumerate(seeds):
        kept = specs[: len(specs) - attempt] if attempt < len(specs) else ()
        try:
            return make_phantom(
                PhantomConfig(
                    shape_ijk=(i, j, k),
                    spacing_mm=steps,
                    nodules=kept,
                    kernel=kernel,
                    noise_hu=noise_hu,
                    benign_findings=True,
                ),
                np.random.default_rng(seed),
            )
        except InputError as error:
            logger.info("phantom drawn again: %s", error)
    raise InputError(f"No phantom of {i}×{j}×{k} voxels had room for {nodule_count} nodules; ask for fewer.")


def draw_small_and_large(rng: np.random.Generator, count: int, *, smallest_mm: float) -> tuple[NoduleSpec, ...]:
    """Nodules to place in a phantom: half of them of 3–6 mm, which the real ones are short of; largest first.

    Args:
        rng: kinds and sizes.
        count: how many.
        smallest_mm: nothing smaller, for the sake of thick slices.
    """
    specs: list[NoduleSpec] = []
    for _ in range(count):
        kind = (NoduleKind.SOLID, NoduleKind.PART_SOLID, NoduleKind.NON_SOLID)[int(rng.choice(3, p=[0.66, 0.12, 0.22]))]
        low = max(smallest_mm, {NoduleKind.SOLID: 3.0, NoduleKind.NON_SOLID: 4.0, NoduleKind.PART_SOLID: 6.5}[kind])
        is_small = rng.random() < 0.5 and kind is not NoduleKind.PART_SOLID
        usual_mm = float(np.clip(low + rng.gamma(1.7, 4.0), low, 30.0 if kind is NoduleKind.SOLID else 14.0))
        diameter_mm = float(rng.uniform(low, max(low + 0.5, 6.0))) if is_small else max(usual_mm, low)
        # A small nodule on a vessel as wide as itself could be told from a branching by nobody.
        attachments = [0.62, 0.3, 0.08] if diameter_mm < 6 else [0.5, 0.27, 0.23]
        smooth = [0.25, 0.75, 0.0] if kind is not NoduleKind.SOLID else [0.7, 0.3, 0.0]
        margins = [0.4, 0.3, 0.3] if diameter_mm > 8 and kind is not NoduleKind.NON_SOLID else smooth
        specs.append(
            NoduleSpec(
                diameter_mm=diameter_mm,
                kind=kind,
                attachment=list(Attachment)[int(rng.choice(3, p=attachments))],
                margin=list(Margin)[int(rng.choice(3, p=margins))],
                attenuation_hu=float(rng.uniform(-740, -480)) if kind is NoduleKind.NON_SOLID else None,
            )
        )
    return tuple(sorted(specs, key=lambda spec: -spec.diameter_mm))
