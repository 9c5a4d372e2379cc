"""What an evaluation of a detector found: FROC, CPM, and whether scans with a nodule are told from those without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError
from medai.evaluation.froc import FrocResult, Mark, ScanLevelResult, ScanTruth, froc, match_scan, scan_level

FROM_MM = 4.0
"""The target is set for nodules of this diameter and more: readers overlook smaller ones too."""
FILE_THRESHOLD = 0.5
"""Where nobody says from which probability on a mark of a file is meant."""
SIZE_CLASSES_MM = ((0.0, 4.0), (4.0, 6.0), (6.0, 8.0), (8.0, 15.0), (15.0, math.inf))
_MOST_CURVE_POINTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionConfig:
    """How a detector is judged.

    Attributes:
        threshold: a scan is called positive by a mark of this probability or more; None takes the detector's own, or
            ``FILE_THRESHOLD`` for somebody's marks.
        seed: draws the bootstrap.
        limit: at most so many scans, the first of the list; None for all.
    """

    threshold: float | None = None
    seed: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        threshold = 0.0 if self.threshold is None else self.threshold
        if not math.isfinite(threshold) or self.seed < 0 or (self.limit is not None and self.limit < 1):
            raise InputError(
                "An evaluation needs a finite threshold, a seed from 0 on and at least one scan, not "
                f"{self.threshold}, {self.seed} and {self.limit}."
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionReport:
    """What an evaluation found.

    Attributes:
        marks: scan id to marks.
        truths: scan id to what is known; the scans that count.
        all_sizes: FROC of all nodules.
        from_4_mm: FROC where smaller nodules are irrelevant.
        scans: at the level of scans.
        config: how it was judged.
        marks_from: where the marks came from, in words.
        model: which model marked, JSON-ready; empty for marks of a file.
        seconds_of_scan: scan id to wall time of reading and detecting, for the scans of this run.
        skipped: scan id to the reason why it is not in the figures.
        warnings: what a reader of the figures should know.
    """

    marks: Mapping[str, Sequence[Mark]]
    truths: Mapping[str, ScanTruth]
    all_sizes: FrocResult
    from_4_mm: FrocResult
    scans: ScanLevelResult
    config: DetectionConfig
    marks_from: str
    model: Mapping[str, Any] = field(default_factory=dict)
    seconds_of_scan: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        marks: Mapping[str, Sequence[Mark]],
        truths: Mapping[str, ScanTruth],
        config: DetectionConfig,
        *,
        threshold: float,
        marks_from: str,
        model: Mapping[str, Any],
        seconds_of_scan: Mapping[str, float],
        skipped: Mapping[str, str],
        warnings: tuple[str, ...],
    ) -> DetectionReport:
        """Hold marks against the truth."""
        return cls(
            marks=marks,
            truths=truths,
            all_sizes=froc(marks, truths, rng=np.random.default_rng(config.seed)),
            from_4_mm=froc(marks, truths, least_diameter_mm=FROM_MM, rng=np.random.default_rng(config.seed)),
            scans=scan_level(marks, truths, threshold),
            config=config,
            marks_from=marks_from,
            model=dict(model),
            seconds_of_scan=dict(seconds_of_scan),
            skipped=dict(skipped),
            warnings=warnings,
        )

    def by_size(self) -> dict[str, dict[str, float]]:
        """Class of diameter to how many nodules it has, and the share found at one false positive a scan and at all."""
        curve = self.all_sizes
        at_one = float(curve.threshold[np.flatnonzero(curve.fps_per_scan <= 1.0)[-1]])
        diameters, probabilities = self._nodules()
        rows: dict[str, dict[str, float]] = {}
        for low, high in SIZE_CLASSES_MM:
            inside = (diameters >= low) & (diameters < high)
            if inside.any():
                rows[_class_name(low, high)] = {
                    "n": int(inside.sum()),
                    "sensitivity_at_1_fp": round(float(np.mean(probabilities[inside] >= at_one)), 4),
                    "found_at_any_probability": round(float(np.mean(np.isfinite(probabilities[inside]))), 4),
                }
        return rows

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        found, scans = self.all_sizes, self.scans
        sensitivity, fps = found.at_threshold(scans.threshold)
        seconds = list(self.seconds_of_scan.values())
        return {
            "n_scans": found.scans,
            "n_nodules": found.nodules,
            **_figures(found),
            "sensitivity_at_1_fp_ge4mm": _rounded(self.from_4_mm.sensitivity_at(1.0)),
            "ge4mm": {"n_nodules": self.from_4_mm.nodules, **_figures(self.from_4_mm)},
            "scan_sensitivity": _rounded(scans.sensitivity),
            "scan_sensitivity_ci95": _pair(scans.sensitivity_ci95),
            "scan_specificity": _rounded(scans.specificity),
            "scan_specificity_ci95": _pair(scans.specificity_ci95),
            "n_scans_with_nodules": scans.positives,
            "n_scans_without_nodules": scans.negatives,
            "operating_point": {
                "threshold": scans.threshold,
                "sensitivity": _rounded(sensitivity),
                "fps_per_scan": _rounded(fps),
            },
            "by_size": self.by_size(),
            "n_found": found.found,
            "n_false_positives": found.false_positives,
            "n_marks_on_irrelevant": found.on_irrelevant,
            "n_repeated_marks": found.repeated,
            "n_marks_beyond_100": found.cut,
            "curve": self._curve(),
            "marks_from": self.marks_from,
            "model": dict(self.model),
            "seconds_per_scan": _rounded(float(np.mean(seconds))) if seconds else None,
            "seed": self.config.seed,
            "n_skipped": len(self.skipped),
            "skipped": dict(self.skipped),
            "warnings": list(self.warnings),
            "per_scan": self._per_scan(),
        }

    def _nodules(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Diameter of every nodule, and the probability it is found with."""
        diameters, probabilities = [], []
        for scan, truth in self.truths.items():
            diameters += [nodule.diameter_mm for nodule in truth.nodules]
            probabilities += match_scan(self.marks.get(scan, ()), truth).nodule_probability.tolist()
        return np.asarray(diameters, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)

    def _curve(self) -> dict[str, list[float]]:
        """Points of the curve, evenly thinned where there are many."""
        curve = self.all_sizes
        count = len(curve.fps_per_scan)
        kept = np.unique(np.linspace(0, count - 1, min(count, _MOST_CURVE_POINTS)).round().astype(int))
        return {
            "fps_per_scan": [round(float(v), 5) for v in curve.fps_per_scan[kept]],
            "sensitivity": [_rounded(float(v)) for v in curve.sensitivity[kept]],
            "threshold": [float(v) for v in curve.threshold[kept]],
        }

    def _per_scan(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for scan, truth in self.truths.items():
            match = match_scan(self.marks.get(scan, ()), truth)
            rows.append(
                {
                    "seriesuid": scan,
                    "nodules": len(truth.nodules),
                    "found": int(np.count_nonzero(match.nodule_probability >= self.scans.threshold)),
                    "false_positives": int(np.count_nonzero(match.false_positive_probability >= self.scans.threshold)),
                    "highest_probability": match.highest,
                }
            )
        return rows


def _figures(found: FrocResult) -> dict[str, Any]:
    return {
        "cpm": _rounded(found.cpm),
        "cpm_ci95": _pair(found.cpm_ci95),
        "sensitivity_at": {f"{rate:g}": _rounded(value) for rate, value in found.at_rates.items()},
        "sensitivity_at_ci95": {f"{rate:g}": _pair(value) for rate, value in found.at_rates_ci95.items()},
    }


def _class_name(low: float, high: float) -> str:
    if math.isinf(high):
        return f">={low:g} mm"
    return f"{low:g}-{high:g} mm" if low else f"<{high:g} mm"


def _pair(interval: tuple[float, float]) -> list[float]:
    return [_rounded(interval[0]), _rounded(interval[1])]


def _rounded(value: float) -> float:
    return round(value, 4) if math.isfinite(value) else math.nan
