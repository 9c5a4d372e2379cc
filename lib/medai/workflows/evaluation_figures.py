"""Pictures of an evaluation: a PNG of its curves, and a page of HTML with the picture and the tables in one file."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medai.errors import StorageError
from medai.evaluation.calibration import ReliabilityBins
from medai.evaluation.froc import LUNA16_RATES, FrocResult
from medai.volume_io.atomic import atomic_path
from medai.workflows.detection_report import DetectionReport
from medai.workflows.segmentation_report import SegmentationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#2a6f97", "#d17a22", "#8a8a8a"
_TEXTURE_COLOURS = {"solid": _BLUE, "part-solid": _ORANGE, "non-solid": "#3a9d5d", "unrated": _GREY}
_WORST_SHOWN = 10
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.5em 0 1.5em}th,td{padding:.2em .9em .2em 0;text-align:left;"
    "border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}img{max-width:100%}.note{color:#a33}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a page: a title, column names and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


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
    _write_page(
        page,
        "Outlines by clicks",
        f"{len(scores)} nodules of {figures['n_patients']} patients; click {report.config.place}, "
        f"{report.config.clicks} in all; model {_model_name(report.model)}.",
        png,
        [
            Table(title="All nodules", columns=("figure", "value"), rows=_segmentation_rows(figures)),
            _group_table("By diameter", figures["by_size"]),
            _group_table("By texture", figures["by_texture"]),
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
    _write_page(
        page,
        "Detection by the LUNA16 rules",
        f"{figures['n_scans']} scans with {figures['n_nodules']} nodules; marks from {report.marks_from}"
        + (f", model {_model_name(report.model)}." if report.model else "."),
        png,
        [
            Table(title="All nodules", columns=("figure", "value"), rows=_detection_rows(figures)),
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


def number(value: Any, digits: int = 3) -> str:
    """A figure as text; "–" where it does not exist."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits}f}" if isinstance(value, float) and math.isfinite(value) else "–"


def interval(pair: Sequence[Any], digits: int = 3) -> str:
    """An interval as text."""
    return f"{number(pair[0], digits)} to {number(pair[1], digits)}"


def _segmentation_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    uncertainty, volume = figures["calibration"]["uncertainty"], figures["volume_error"]
    return [
        ["mean Dice", f"{number(figures['dice_mean'])} (95 % interval {interval(figures['dice_ci95'])})"],
        ["median Dice", number(figures["dice_median"])],
        *(
            [f"mean Dice after click {row['clicks']}", f"{number(row['dice_mean'])} ({interval(row['dice_ci95'])})"]
            for row in figures["dice_by_click"]
            if figures["clicks"] > 1
        ),
        ["Hausdorff 95", f"{number(figures['hd95_mm_mean'], 2)} mm (median {number(figures['hd95_mm_median'], 2)})"],
        [
            "volume error",
            f"{number(volume['mean_percent'], 1)} % (absolute {number(volume['mean_absolute_percent'], 1)} %)",
        ],
        [
            "calibration error of voxels",
            f"{number(figures['calibration']['ece'])} (doubtful {number(figures['calibration']['ece_doubtful'])})",
        ],
        ["uncertainty against Dice", f"Spearman {number(uncertainty['spearman_with_dice'], 2)}"],
        ["seconds an answer", number(figures["seconds_per_click"]["median"], 2)],
    ]


def _detection_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    return [
        ["CPM", f"{number(figures['cpm'])} (95 % interval {interval(figures['cpm_ci95'])})"],
        ["sensitivity at 1 false positive, 4 mm and more", number(figures["sensitivity_at_1_fp_ge4mm"])],
        ["scans with nodules called positive", number(figures["scan_sensitivity"])],
        ["scans without nodules not called positive", number(figures["scan_specificity"])],
        ["threshold", f"{figures['operating_point']['threshold']:g}"],
        ["false positives a scan there", number(figures["operating_point"]["fps_per_scan"], 2)],
    ]


def _group_table(title: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        title=title,
        columns=("class", "nodules", "mean Dice", "95 % interval", "median", "Hausdorff 95"),
        rows=[
            [
                name,
                str(row["n"]),
                number(row["dice_mean"]),
                interval(row["dice_ci95"]),
                number(row["dice_median"]),
                f"{number(row['hd95_mm_mean'], 2)} mm",
            ]
            for name, row in groups.items()
        ],
    )


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


def _write_page(
    page: Path,
    title: str,
    what: str,
    png: Path,
    tables: Sequence[Table],
    skipped: Mapping[str, str],
    warnings: Sequence[str],
) -> None:
    """One file that can be sent on its own."""
    safe: Callable[[str], str] = html.escape
    picture = base64.b64encode(png.read_bytes()).decode("ascii")
    if skipped:
        rows = [[case, reason] for case, reason in skipped.items()]
        tables = [*tables, Table(title=f"Left out: {len(skipped)}", columns=("case", "why"), rows=rows)]
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{safe(title)}</title><style>{_STYLE}</style>",
        f"<h1>{safe(title)}</h1><p>{safe(what)}</p>",
        *(f"<p class='note'>{safe(warning)}</p>" for warning in warnings),
        f"<img alt='{safe(title)}' src='data:image/png;base64,{picture}'>",
    ]
    for table in tables:
        head = "".join(f"<th>{safe(column)}</th>" for column in table.columns)
        body = "".join("<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
        parts.append(f"<h2>{safe(table.title)}</h2><table><tr>{head}</tr>{body}</table>")
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join([*parts, "</html>", ""]), encoding="utf-8")


def _model_name(model: Mapping[str, Any]) -> str:
    digest = str(model.get("weights_sha256", ""))[:8]
    return f"{model.get('version_id', 'unknown')} ({digest})" if digest else str(model.get("version_id", "unknown"))
