"""Figures and failures of a detector for its card: scans of held-back patients' nodules, by the LUNA16 rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind, Volume
from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.evaluation.contrasts import Features, describe_contrasts
from medai.evaluation.froc import match_scan, wilson_interval
from medai.geometry import IndexBox
from medai.registry.cards import WORST_CASES, CardFigure, CardGroups
from medai.volume_io.readers import read_geometry
from medai.workflows.detection_folder import read_detection_case
from medai.workflows.detection_report import DetectionConfig, DetectionReport
from medai.workflows.evaluate_detection import Detector, evaluate_detection
from medai.workflows.luna16 import read_detection_folder
from medai.workflows.measured_model import EVALUATION_SEED, Measured, Tell, figure, groups_of, known, silent
from medai.workflows.worst_cases import WorstCase, draw_worst_cases

SHOWN_RATES = ("0.125", "1", "4")
"""False positives a scan at which the sensitivity is on the card, beside the mean over all seven rates (CPM)."""
_DRAWN_MM = 40.0
"""Kept of a scan around a nodule that is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNodule:
    """One nodule of the held-back scans.

    Attributes:
        scan: the case.
        nodule: where and what it is.
        probability: of its most probable mark; minus infinity where it has none.
    """

    scan: str
    nodule: TrueNodule
    probability: float


def measure_detection(
    cases: Path,
    load_detector: Callable[[], Detector],
    card_folder: Path,
    *,
    model: Mapping[str, Any],
    marks_file: Path,
    tell: Tell = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measure a detector on a folder of held-back cases, and draw what it misses.

    Args:
        cases: written by ``medai phantom detection`` or ``workflows.detection_cases``.
        load_detector: makes the detector.
        card_folder: takes the pictures.
        model: which weights, JSON-ready.
        marks_file: keeps the marks, so that a second run on the same weights is short.
        tell: told what is being done.
        should_stop: asked before each scan.
    """
    report = evaluate_detection(
        cases,
        load_detector,
        DetectionConfig(seed=EVALUATION_SEED),
        model=model,
        marks_file=marks_file,
        on_progress=lambda done, total, scan: tell("Looking at held-back scans", done, total),
        should_stop=should_stop,
    )
    shown = report.to_json()
    nodules = _nodules(cases, report)
    at_one = float(report.all_sizes.threshold[np.flatnonzero(report.all_sizes.fps_per_scan <= 1.0)[-1]])
    by_size = groups_of(
        _with_intervals(shown["by_size"]), "rows", by="size", measure="Sensitivity at 1 FP a scan", value="value",
        interval="ci95",
    )  # fmt: skip
    groups = (by_size, _by(nodules, "kind", at_one), _by(nodules, "source", at_one))
    return Measured(
        what=(
            f"{shown['n_scans']} scans with {shown['n_nodules']} nodules: real nodules of held-back patients put into "
            "phantoms and real scans, and phantom nodules; LUNA16's rules, 95 % intervals by bootstrap over scans"
        ),
        figures=known(
            figure("Sensitivity at 1 FP a scan, 4 mm and more", shown["sensitivity_at_1_fp_ge4mm"],
                   shown["ge4mm"]["sensitivity_at_ci95"].get("1"), shown["ge4mm"]["n_nodules"]),
            figure("CPM (mean sensitivity at 1/8 … 8 FP a scan)", shown["cpm"], shown["cpm_ci95"], shown["n_nodules"]),
            *(
                figure(f"Sensitivity at {rate} FP a scan", shown["sensitivity_at"].get(rate),
                       shown["sensitivity_at_ci95"].get(rate), shown["n_nodules"])
                for rate in SHOWN_RATES
            ),
            figure("Scan sensitivity", shown["scan_sensitivity"], shown["scan_sensitivity_ci95"],
                   shown["n_scans_with_nodules"]),
            figure("Scan specificity", shown["scan_specificity"], shown["scan_specificity_ci95"],
                   shown["n_scans_without_nodules"]),
        ),
        groups=tuple(group for group in groups if group is not None),
        failures=_failures(cases, nodules, card_folder, tell),
        commands=(
            "medai phantom detection OUT --real-data DIR --held-back --count COUNT",
            "medai evaluate detection --data OUT",
        ),
        evaluation={"operating_point": shown["operating_point"], "seconds_per_scan": shown["seconds_per_scan"]},
    )  # fmt: skip


def _nodules(cases: Path, report: DetectionReport) -> list[FoundNodule]:
    """Every nodule, with the probability it is found with."""
    folder = read_detection_folder(cases)
    found: list[FoundNodule] = []
    for scan, truth in report.truths.items():
        probabilities = match_scan(report.marks.get(scan, ()), truth).nodule_probability
        detailed = _facts(cases, scan, folder.truths[scan].nodules)
        found += [
            FoundNodule(scan=scan, nodule=nodule, probability=float(probability))
            for nodule, probability in zip(detailed, probabilities, strict=True)
        ]
    return found


def _facts(cases: Path, scan: str, listed: Sequence[TrueNodule]) -> Sequence[TrueNodule]:
    """The nodules with kind and source, which the lists do not tell, in the order of the lists."""
    path = cases / "truth" / f"{scan}.json"
    if not path.is_file():
        return listed
    facts = json.loads(path.read_text(encoding="utf-8"))["nodules"]
    centres = np.array([fact["centre_ras_mm"] for fact in facts]).reshape(-1, 3)
    told = []
    for nodule in listed:
        fact = facts[int(np.argmin(np.linalg.norm(centres - nodule.centre_ras_mm, axis=1)))]
        kind = NoduleKind(fact["kind"]) if fact.get("kind") else None
        told.append(replace(nodule, kind=kind, source=str(fact.get("source", ""))))
    return told


def _with_intervals(by_size: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    rows = {}
    for name, row in by_size.items():
        hits = round(row["sensitivity_at_1_fp"] * row["n"])
        interval = wilson_interval(hits, int(row["n"]))
        rows[name] = {"value": row["sensitivity_at_1_fp"], "ci95": interval, "n": int(row["n"])}
    return {"rows": rows}


def _by(nodules: Sequence[FoundNodule], what: str, threshold: float) -> CardGroups | None:
    """Sensitivity at one false positive a scan by the nodules' kind or where they come from."""
    groups: dict[str, list[bool]] = {}
    for found in nodules:
        name = str(found.nodule.kind or "not known") if what == "kind" else _source(found.nodule)
        groups.setdefault(name, []).append(found.probability >= threshold)
    rows: list[CardFigure | None] = []
    for name, hits in sorted(groups.items()):
        rows.append(figure(name, float(np.mean(hits)), wilson_interval(sum(hits), len(hits)), len(hits)))
    return CardGroups(by=what, measure="Sensitivity at 1 FP a scan", rows=known(*rows)) if rows else None


def _source(nodule: TrueNodule) -> str:
    """Where a nodule comes from: "real" put in, "phantom", or "scan" for the host's own."""
    return nodule.source.split(":", 1)[0] or "not known"


def _failures(cases: Path, nodules: Sequence[FoundNodule], card_folder: Path, tell: Tell) -> Mapping[str, Any]:
    """The nodules missed or found with the least probability, drawn, and what sets them apart."""
    tell("Drawing the worst cases")
    ranked = sorted(nodules, key=lambda found: (found.probability, found.scan, found.nodule.centre_ras_mm))
    worst = ranked[:WORST_CASES]
    scans = {scan: read_detection_case(cases, scan) for scan in sorted({found.scan for found in worst})}
    drawn = draw_worst_cases([_worst_case(scans[found.scan], found) for found in worst], card_folder)
    missed = sum(not np.isfinite(found.probability) for found in nodules)
    images = read_detection_folder(cases).images
    slice_mm = {scan: read_geometry(images[scan]).spacing_mm[2] for scan in {found.scan for found in nodules}}
    return {
        "what": (
            f"the {len(worst)} of {len(nodules)} nodules that are missed or found with the least probability; "
            f"{missed} have no mark at all"
        ),
        "in_common": list(
            describe_contrasts(
                [_features(found, slice_mm) for found in worst],
                [_features(found, slice_mm) for found in ranked[WORST_CASES:]],
                units={"diameter": "mm", "slice distance": "mm"},
            )
        ),
        **drawn,
    }


def _features(found: FoundNodule, slice_mm: Mapping[str, float]) -> Features:
    nodule = found.nodule
    return {
        "diameter": nodule.diameter_mm,
        "kind": str(nodule.kind) if nodule.kind else None,
        "source": _source(nodule),
        "slice distance": slice_mm[found.scan],
    }


def _worst_case(case: DetectionCase, found: FoundNodule) -> WorstCase:
    """The scan around a nodule, with a ball where it is."""
    geometry = case.volume.geometry
    middle = np.rint(geometry.ras_to_ijk(found.nodule.centre_ras_mm)).astype(int)
    i, j, k = (int(c) for c in np.clip(middle, 0, np.asarray(geometry.shape_ijk) - 1))
    margin = [int(np.ceil(_DRAWN_MM / spacing)) for spacing in geometry.spacing_mm]
    around = IndexBox(start_ijk=(i, j, k), stop_ijk=(i + 1, j + 1, k + 1)).expand(margin).clip(geometry.shape_ijk)
    volume = case.volume.crop(around)
    probability = f"{100 * found.probability:.0f} %" if np.isfinite(found.probability) else "no mark"
    kind = f" {found.nodule.kind}" if found.nodule.kind else ""
    start = around.start_ijk
    return WorstCase(
        case_id=found.scan,
        words=f"{found.nodule.diameter_mm:.1f} mm{kind}, {_source(found.nodule)}: {probability}",
        volume=Volume(geometry=volume.geometry, image_hu=np.array(volume.image_hu)),
        truth=_ball(volume, found.nodule),
        centre_ijk=(i - start[0], j - start[1], k - start[2]),
    )


def _ball(volume: Volume, nodule: TrueNodule) -> NDArray[np.bool_]:
    """A ball of the nodule's diameter."""
    index = np.indices(volume.geometry.shape_ijk).reshape(3, -1).T
    points = volume.geometry.ijk_to_ras(index)
    inside = np.linalg.norm(points - np.asarray(nodule.centre_ras_mm), axis=1) <= nodule.diameter_mm / 2
    return np.asarray(inside.reshape(volume.geometry.shape_ijk), dtype=bool)
