"""Pictures of an evaluation: a PNG of its curves, and a page of HTML with the picture and the tables in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medai.errors import StorageError
from medai.evaluation.calibration import ReliabilityBins
from medai.evaluation.froc import LUNA16_RATES, FrocResult
from medai.volume_io.atomic import atomic_path
from medai.workflows.classification_report import ClassificationReport, RatedOutline
from medai.workflows.detection_report import DetectionReport
from medai.workflows.evaluation_page import (
    Table,
    auc_table,
    classification_rows,
    detection_rows,
    group_table,
    interval,
    model_name,
    number,
    segmentation_rows,
    write_page,
)
from medai.workflows.segmentation_report import SegmentationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#2a6f97", "#d17a22", "#8a8a8a"
_TEXTURE_COLOURS = {"solid": _BLUE, "part-solid": _ORANGE, "non-solid": "#3a9d5d", "unrated": _GREY}
_WORST_SHOWN = 10


def figure_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """The PNG and the page in a folder, which is made where it does not exist.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    return folder / f"{name}.png", folder / f"{name}.html"


def draw_segmentation(report: SegmentationReport, png: Path, page: Path) -> None:
    """Dice of nodules as a histogram and by diameter, reliability of voxels, and whether uncertainty warns."""
    figure, axes = _figure(2, 2)
    scores = report.scores
    dice = [score.dice for score in scores]
    axes[0].hist(dice, bins=np.linspace(0, 1, 21).tolist(), color=_BLUE)
    axes[0].axvline(report.dice.mean, color=_ORANGE, label=f"mean {report.dice.mean:.3f}")
    axes[0].legend()
    _label(axes[0], "Dice of each nodule", "Dice", "nodules")
    for name, group in report.by_texture.items():
        axes[1].scatter(
            [score.diameter_mm for score in group],
            [score.dice for score in group],
            s=14,
            alpha=0.7,
            label=f"{name} ({len(group)})",
            color=_TEXTURE_COLOURS.get(name, _GREY),
        )
    axes[1].set_ylim(0, 1.02)
    axes[1].legend(fontsize=8)
    _label(axes[1], "Dice by diameter", "diameter, mm", "Dice")
    _reliability(axes[2], {"all looked at": report.voxels, "doubtful": report.doubtful_voxels})
    _label(axes[2], "Probability of voxels", "probability", "share in the mask")
    axes[3].scatter([score.uncertainty for score in scores], dice, s=14, alpha=0.7, color=_BLUE)
    axes[3].set_ylim(0, 1.02)
    rho = report.uncertainty_agreement.rho
    title = "Uncertainty and Dice" + (f", Spearman {rho:.2f}" if math.isfinite(rho) else "")
    _label(axes[3], title, "uncertainty the model gives", "Dice")
    _save(figure, png)
    figures = report.to_json()
    worst = sorted(scores, key=lambda score: score.dice)[:_WORST_SHOWN]
    write_page(
        page,
        "Outlines by clicks",
        f"{len(scores)} nodules of {figures['n_patients']} patients; click {report.config.place}, "
        f"{report.config.clicks} in all; model {model_name(report.model)}.",
        png,
        [
            Table(title="All nodules", columns=("figure", "value"), rows=segmentation_rows(figures)),
            group_table("By diameter", figures["by_size"]),
            group_table("By texture", figures["by_texture"]),
            Table(
                title="The worst",
                columns=("nodule", "Dice", "Hausdorff 95", "diameter", "texture", "uncertainty"),
                rows=[
                    [
                        score.case_id,
                        number(score.dice),
                        f"{number(score.hausdorff95_mm, 2)} mm",
                        f"{score.diameter_mm:.1f} mm",
                        str(score.texture or "unrated"),
                        number(score.uncertainty),
                    ]
                    for score in worst
                ],
            ),
        ],
        report.skipped,
        report.warnings,
    )


def draw_detection(report: DetectionReport, png: Path, page: Path) -> None:
    """FROC curves with the interval at LUNA16's rates, and sensitivity by size."""
    figure, axes = _figure(1, 2)
    _froc(axes[0], report.all_sizes, "all nodules", _BLUE)
    if report.from_4_mm.nodules != report.all_sizes.nodules:
        _froc(axes[0], report.from_4_mm, "4 mm and more", _ORANGE)
    axes[0].set_xscale("log", base=2)
    axes[0].set_xlim(LUNA16_RATES[0] / 1.3, LUNA16_RATES[-1] * 1.3)
    axes[0].set_xticks(LUNA16_RATES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes[0].set_ylim(0, 1.02)
    if report.all_sizes.nodules:
        axes[0].legend(loc="lower right")
    _label(axes[0], "FROC", "false positives a scan", "sensitivity")
    by_size = report.by_size()
    places = np.arange(len(by_size))
    axes[1].bar(places, [row["sensitivity_at_1_fp"] for row in by_size.values()], color=_BLUE)
    axes[1].set_xticks(places, [f"{name}\n({row['n']:.0f})" for name, row in by_size.items()], fontsize=8)
    axes[1].set_ylim(0, 1.02)
    _label(axes[1], "Found at one false positive a scan", "diameter (nodules)", "share found")
    _save(figure, png)
    figures = report.to_json()
    write_page(
        page,
        "Detection by the LUNA16 rules",
        f"{figures['n_scans']} scans with {figures['n_nodules']} nodules; marks from {report.marks_from}"
        + (f", model {model_name(report.model)}." if report.model else "."),
        png,
        [
            Table(title="All nodules", columns=("figure", "value"), rows=detection_rows(figures)),
            Table(
                title="Sensitivity by false positives a scan",
                columns=("false positives a scan", "sensitivity", "95 % interval", "4 mm and more"),
                rows=[
                    [
                        rate,
                        number(value),
                        interval(figures["sensitivity_at_ci95"][rate]),
                        number(figures["ge4mm"]["sensitivity_at"][rate]),
                    ]
                    for rate, value in figures["sensitivity_at"].items()
                ],
            ),
        ],
        report.skipped,
        report.warnings,
    )


def draw_classification(report: ClassificationReport, png: Path, page: Path) -> None:
    """ROC of malignancy beside that of size alone, its calibration, the probabilities, and the attributes."""
    figures = report.to_json()
    figure, axes = _figure(2, 2)
    curves = roc_curves(report)
    for name, colour, points in curves:
        axes[0].plot([x for x, _ in points], [y for _, y in points], color=colour, label=name)
    axes[0].plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    if curves:
        axes[0].legend(loc="lower right", fontsize=8)
    _label(
        axes[0],
        f"ROC, {figures['n_malignant']} suspicious, {figures['n_benign']} benign",
        "1 − specificity",
        "sensitivity",
    )
    outline = report.config.outline
    values = [score.assessment(outline).malignancy.value for score in report.decided]
    truth = [bool(score.malignant) for score in report.decided]
    _reliability(axes[1], {"malignancy": ReliabilityBins.of(values, truth)})
    _label(axes[1], "Probability of malignancy", "probability", "share rated 4 or 5")
    bins = np.linspace(0, 1, 21).tolist()
    for wanted, colour, name in ((False, _BLUE, "rated 1 or 2"), (True, _ORANGE, "rated 4 or 5")):
        group = [value for value, is_malignant in zip(values, truth, strict=True) if is_malignant == wanted]
        axes[2].hist(group, bins=bins, color=colour, alpha=0.6, label=f"{name} ({len(group)})")
    axes[2].legend(fontsize=8)
    _label(axes[2], "Probabilities", "probability of malignancy", "nodules")
    kappas = {name: row["weighted_kappa"] or 0.0 for name, row in figures["attributes"].items()}
    axes[3].barh(list(kappas), list(kappas.values()), color=_BLUE)
    axes[3].set_xlim(min(0.0, *kappas.values(), 0.0), 1)
    _label(axes[3], "Agreement with the table", "weighted kappa", "")
    _save(figure, png)
    write_page(
        page,
        "Ratings of nodules",
        f"{figures['n_nodules']} nodules of {figures['n_patients']} patients, outlined by "
        f"{'the folder' if outline is RatedOutline.REFERENCE else 'one click'}; model {model_name(report.model)}.",
        png,
        [
            Table(title="All nodules", columns=("figure", "value"), rows=classification_rows(figures)),
            Table(
                title="Attributes",
                columns=("attribute", "nodules", "weighted kappa", "rank correlation", "mean error"),
                rows=[
                    [
                        name,
                        str(row["n"]),
                        number(row["weighted_kappa"]),
                        number(row["spearman"]),
                        number(row["mean_absolute_error"], 2),
                    ]
                    for name, row in figures["attributes"].items()
                ],
            ),
            *(
                auc_table(title, figures[key])
                for title, key in (("By diameter", "by_size"), ("By texture", "by_texture"))
            ),
            Table(
                title="The worst",
                columns=("nodule", "rated", "probability", "interval", "diameter"),
                rows=[
                    [
                        score.case_id,
                        number(score.voted.get("malignancy"), 1),
                        number(score.assessment(outline).malignancy.value),
                        interval((score.assessment(outline).malignancy.low, score.assessment(outline).malignancy.high)),
                        f"{score.diameter_mm:.1f} mm",
                    ]
                    for score in report.worst_cases(_WORST_SHOWN)
                ],
            ),
        ],
        report.skipped,
        report.warnings,
    )


def roc_curves(report: ClassificationReport) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """Name, colour and points (1 − specificity, sensitivity) of each score; none where a sort of nodule is missing."""
    decided = report.decided
    truth = np.array([bool(score.malignant) for score in decided], dtype=bool)
    if not truth.any() or truth.all():
        return []
    scores = {
        ("with the folder's outline", _BLUE): [score.reference.malignancy.value for score in decided],
        ("size alone", _GREY): [score.diameter_mm for score in decided],
    }
    if all(score.own is not None for score in decided):
        scores["with the outline of one click", _ORANGE] = [
            score.assessment(RatedOutline.CLICK).malignancy.value for score in decided
        ]
    return [(name, colour, _roc_points(np.asarray(values), truth)) for (name, colour), values in scores.items()]


def _roc_points(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """A point a distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    right, wrong = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    points = zip((wrong / max(1, wrong[-1])).tolist(), (right / max(1, right[-1])).tolist(), strict=True)
    return [(0.0, 0.0), *points]


def _froc(axes: Axes, result: FrocResult, name: str, colour: str) -> None:
    if not math.isfinite(result.cpm):
        return
    at = np.concatenate([np.geomspace(LUNA16_RATES[0], LUNA16_RATES[-1], 200), LUNA16_RATES])
    at.sort()
    axes.plot(at, [result.sensitivity_at(rate) for rate in at], color=colour, label=f"{name}: CPM {result.cpm:.3f}")
    for rate, (low, high) in result.at_rates_ci95.items():
        axes.plot([rate, rate], [low, high], color=colour, alpha=0.5, linewidth=3)


def _reliability(axes: Axes, sets: Mapping[str, ReliabilityBins]) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    for (name, bins), colour in zip(sets.items(), (_BLUE, _ORANGE), strict=False):
        rows = bins.rows()
        error = bins.expected_calibration_error
        axes.plot(
            [row["mean_probability"] for row in rows],
            [row["observed"] for row in rows],
            marker="o",
            markersize=4,
            color=colour,
            label=f"{name}: error {number(error)}",
        )
    axes.legend(fontsize=8)


def _figure(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.25)


def _save(figure: Figure, png: Path) -> None:
    with atomic_path(png) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
