"""How well nodules are found: scans with lists of their nodules, marks of a detector or of a file, LUNA16's rules.

One scan is in memory at a time, and its marks are kept as soon as they are known: a run over a whole LUNA16 can be
stopped and gone on with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medai.domain import Candidate, Volume
from medai.errors import CancelledByUserError, InputError, MedaiError
from medai.evaluation.froc import Mark, ScanTruth
from medai.preprocessing.lung_mask import LungMask, segment_lungs
from medai.volume_io.plausibility import read_chest_ct
from medai.workflows.detection_report import FILE_THRESHOLD, DetectionConfig, DetectionReport
from medai.workflows.luna16 import DetectionFolder, read_detection_folder
from medai.workflows.marks_cache import MarksCache, foreign_marks

logger = logging.getLogger(__name__)

LIDC_SERIES = "1.3.6.1.4.1.14519.5.2.1.6279.6001."
"""How the series of LIDC-IDRI, and so of LUNA16, begin."""


class Detector(Protocol):
    """What marks places however improbable: ``medai.inference.detect.NoduleDetector``."""

    @property
    def operating_probability(self) -> float:
        """From here on a candidate is worth showing."""
        ...

    def detect_all(self, volume: Volume, lungs: LungMask) -> list[Candidate]:
        """Every place, most probable first."""
        ...


@dataclass(slots=True)
class _Run:
    """What a run of a detector gave: marks, the scans it could not use, and times."""

    marks: dict[str, Sequence[Mark]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def evaluate_detection(
    data: Path,
    load_detector: Callable[[], Detector],
    config: DetectionConfig,
    *,
    model: Mapping[str, Any],
    marks_file: Path | None = None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, scan: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> DetectionReport:
    """Judge a detector, or a file of marks, on a LUNA16 download or a folder of the same layout.

    Args:
        data: holds the lists and the scans at any depth.
        load_detector: makes the detector; not called for somebody's marks.
        config: how it is judged.
        model: which weights the detector has, JSON-ready; the marks are kept together with it.
        marks_file: a LUNA16 submission. Somebody's own is scored as it is; else the marks are kept there, and scans
            that are done are not done again.
        on_progress: told scans done, in all, and the one at hand.
        should_stop: asked before each scan.

    Raises:
        InputError: the folder, a list or the file of marks cannot be used, or not one scan.
        CancelledByUserError: ``should_stop`` said so.
    """
    folder = read_detection_folder(data)
    truths = dict(list(folder.truths.items())[: config.limit])
    given = foreign_marks(marks_file) if marks_file is not None else None
    if given is not None and marks_file is not None:
        return DetectionReport.of(
            given,
            truths,
            config,
            threshold=FILE_THRESHOLD if config.threshold is None else config.threshold,
            marks_from=f"file {marks_file.name}",
            model={},
            seconds_of_scan={},
            skipped={},
            warnings=(*folder.warnings, *_remarks_on_marks(given, truths, folder)),
        )
    cache = MarksCache(marks_file, model) if marks_file is not None else None
    if not folder.images and not (cache is not None and cache.marks):
        raise InputError(
            f"There is no scan file in {data}, only lists: unpack the scans there, or name a file of marks (--marks) "
            "to score."
        )
    detector = load_detector()
    run = _run(folder, list(truths), detector, cache, on_progress, should_stop)
    if not run.marks:
        scan, reason = next(iter(run.skipped.items()))
        raise InputError(f"Not one scan of {data} could be used. The first: {scan}: {reason}")
    if cache is not None:
        cache.finish()
    return DetectionReport.of(
        run.marks,
        {scan: truths[scan] for scan in truths if scan in run.marks},
        config,
        threshold=detector.operating_probability if config.threshold is None else config.threshold,
        marks_from="detector",
        model=model,
        seconds_of_scan=run.seconds,
        skipped=run.skipped,
        warnings=(*folder.warnings, *_remarks_on_run(run, truths)),
    )


def _run(
    folder: DetectionFolder,
    scans: Sequence[str],
    detector: Detector,
    cache: MarksCache | None,
    on_progress: Callable[[int, int, str], None],
    should_stop: Callable[[], bool],
) -> _Run:
    """Mark every scan that is not marked yet."""
    run = _Run()
    for number, scan in enumerate(scans):
        if should_stop():
            raise CancelledByUserError("The evaluation was stopped; with --marks what is done so far is kept.")
        on_progress(number, len(scans), scan)
        if cache is not None and scan in cache.marks:
            run.marks[scan] = cache.marks[scan]
            continue
        if scan not in folder.images:
            run.skipped[scan] = "There is no file of it."
            continue
        begun = time.perf_counter()
        try:
            found = _marks_of(folder.images[scan], detector)
        except (MedaiError, OSError, ValueError) as error:
            run.skipped[scan] = str(error)
            logger.info("Scan %s is left out: %s", scan, error)
            continue
        run.seconds[scan] = time.perf_counter() - begun
        run.marks[scan] = found
        if cache is not None:
            cache.add(scan, found)
    on_progress(len(scans), len(scans), "")
    return run


def _marks_of(path: Path, detector: Detector) -> list[Mark]:
    """The marks of one scan file."""
    volume = read_chest_ct(path)
    candidates = detector.detect_all(volume, segment_lungs(volume))
    return [Mark(centre_ras_mm=c.centre_ras_mm, probability=c.probability) for c in candidates]


def _remarks_on_marks(
    marks: Mapping[str, Sequence[Mark]], truths: Mapping[str, ScanTruth], folder: DetectionFolder
) -> list[str]:
    """What is odd about somebody's marks."""
    remarks: list[str] = []
    marked = [scan for scan in truths if marks.get(scan)]
    if len(marked) < len(truths):
        missing = len(truths) - len(marked)
        remarks.append(f"{missing} of the {len(truths)} scans have no mark: what they hold is missed.")
    if marks and not marked:
        raise InputError(
            f"The file of marks names none of the {len(truths)} scans: it has {', '.join(list(marks)[:3])}, the scans "
            f"are {', '.join(list(truths)[:3])}. Is its first column the series uid?"
        )
    elsewhere = set(marks) - set(folder.truths)
    if elsewhere:
        remarks.append(f"Marks of {len(elsewhere)} scans that do not count are passed over.")
    return remarks


def _remarks_on_run(run: _Run, truths: Mapping[str, ScanTruth]) -> list[str]:
    remarks: list[str] = []
    if run.skipped:
        remarks.append(
            f"{len(run.skipped)} of {len(truths)} scans could not be used and are in no figure: "
            f"{', '.join(list(run.skipped)[:3])}{' …' if len(run.skipped) > 3 else ''}."
        )
    if any(scan.startswith(LIDC_SERIES) for scan in run.marks):
        remarks.append(
            "These are scans of LIDC-IDRI: nodules of four fifths of its patients have trained the starter models, so "
            "that the figures flatter them."
        )
    return remarks
