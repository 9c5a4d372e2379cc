"""Figures and failures of a click network for its card: the held-back patients, through the whole click path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medai.evaluation.contrasts import Features, describe_contrasts
from medai.evaluation.simulated_clicks import ClickPlace
from medai.geometry import IndexBox
from medai.inference.evaluate_click import Outliner
from medai.registry.cards import WORST_CASES
from medai.workflows.evaluate_segmentation import evaluate_segmentation
from medai.workflows.measured_model import EVALUATION_SEED, Measured, Tell, figure, groups_of, known, silent
from medai.workflows.nodule_folder import FolderNodule, load_nodule, read_nodule_folder
from medai.workflows.segmentation_report import NoduleScore, SegmentationConfig, SegmentationReport
from medai.workflows.worst_cases import WorstCase, draw_worst_cases

TRIALS = (
    ("Dice, one click within 3 mm of the innermost point", ClickPlace.CENTRE, 1),
    ("Dice, one click anywhere in the nodule", ClickPlace.ANYWHERE, 1),
    ("Dice, three clicks", ClickPlace.CENTRE, 3),
)
"""The first is the one that subgroups and failures are of."""

RATED = ("texture", "subtlety", "margin", "spiculation", "lobulation", "sphericity", "calcification")
"""Readers' ratings that the worst cases are compared by."""


def measure_segmentation(
    nodules: Path,
    segmenter: Outliner,
    card_folder: Path,
    *,
    tell: Tell = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measure a click network on the held-back patients of a folder, and draw where it is worst.

    Args:
        nodules: holds ``images/``, ``masks/``, ``nodules.csv``.
        segmenter: answers the clicks.
        card_folder: takes the pictures.
        tell: told what is being done.
        should_stop: asked before each nodule.
    """
    reports: list[SegmentationReport] = []
    for name, place, clicks in TRIALS:

        def on_progress(done: int, total: int, name: str = name) -> None:
            tell(f"Measuring {name}", done, total)

        config = SegmentationConfig(place=place, clicks=clicks, seed=EVALUATION_SEED, held_back_only=True)
        reports.append(
            evaluate_segmentation(nodules, segmenter, config, on_progress=on_progress, should_stop=should_stop)
        )
    shown = [report.to_json() for report in reports]
    first = shown[0]
    by_size = groups_of(first, "by_size", by="size", measure="Dice", value="dice_mean", interval="dice_ci95")
    by_texture = groups_of(first, "by_texture", by="texture", measure="Dice", value="dice_mean", interval="dice_ci95")
    return Measured(
        what=(
            f"{first['n']} nodules of {first['n_patients']} held-back patients, simulated clicks, on the scan's own "
            "grid; 95 % intervals by bootstrap over patients"
        ),
        figures=known(
            *(
                figure(name, row["dice_mean"], row["dice_ci95"], row["n"])
                for (name, _, _), row in zip(TRIALS, shown, strict=True)
            ),
            figure("Hausdorff 95 (mm), one click", first["hd95_mm_mean"], first["hd95_mm_ci95"], first["n"]),
            figure("Dice, one click, median", first["dice_median"], None, first["n"]),
            figure(
                "Volume error (%), one click",
                first["volume_error"]["mean_percent"],
                first["volume_error"]["ci95_percent"],
                first["n"],
            ),
            figure("Calibration error of voxels", first["calibration"]["ece"], None, first["n"]),
        ),
        groups=tuple(group for group in (by_size, by_texture) if group is not None),
        failures=_failures(nodules, segmenter, reports[0], card_folder, tell),
        commands=tuple(
            f"medai evaluate segmentation --data DIR --held-back-only --click {place} --clicks {clicks}"
            for _, place, clicks in TRIALS
        ),
        evaluation={"calibration": _without_bins(first["calibration"])},
    )


def _failures(
    folder: Path, segmenter: Outliner, report: SegmentationReport, card_folder: Path, tell: Tell
) -> Mapping[str, Any]:
    """The nodules with the lowest Dice, drawn, and what sets them apart."""
    tell("Drawing the worst cases")
    listed = {nodule.case_id: nodule for nodule in read_nodule_folder(folder).nodules}
    ranked = sorted(report.scores, key=lambda score: (score.dice, score.case_id))
    worst, others = ranked[:WORST_CASES], ranked[WORST_CASES:]
    drawn = draw_worst_cases([_worst_case(listed[score.case_id], score, segmenter) for score in worst], card_folder)
    features = {score.case_id: _features(listed[score.case_id], score) for score in ranked}
    return {
        "what": f"the {len(worst)} of {len(ranked)} held-back nodules with the lowest Dice after one click",
        "in_common": list(
            describe_contrasts(
                [features[score.case_id] for score in worst],
                [features[score.case_id] for score in others],
                units={"diameter": "mm", "slice distance": "mm"},
            )
        ),
        **drawn,
    }


def _worst_case(nodule: FolderNodule, score: NoduleScore, segmenter: Outliner) -> WorstCase:
    """The nodule with the outline it was judged by: the same click gives the same answer."""
    case = load_nodule(nodule)
    result = segmenter.segment(case.volume, foreground_ijk=[score.first_click_ijk], background_ijk=[])
    answer = np.zeros(case.mask.shape, dtype=bool)
    answer[result.box.slices] = result.mask
    texture = f", {score.texture}" if score.texture else ""
    return WorstCase(
        case_id=score.case_id,
        words=f"Dice {score.dice:.2f}, {score.diameter_mm:.1f} mm{texture}",
        volume=case.volume,
        truth=case.mask,
        answer=answer,
    )


def _features(nodule: FolderNodule, score: NoduleScore) -> Features:
    """What is known of a nodule that may make it hard."""
    case = load_nodule(nodule)
    box = IndexBox.of_mask(case.mask)
    slices = box.shape_ijk[2] if box else 0
    return {
        "diameter": score.diameter_mm,
        "kind": str(score.texture) if score.texture else None,
        "slice distance": case.volume.geometry.spacing_mm[2],
        "slices with the nodule": float(slices),
        **{f"{name} (rated)": nodule.ratings.get(name) for name in RATED},
    }


def _without_bins(calibration: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in calibration.items() if not key.startswith("bins")}
