"""A picture of how annotators agree: the bias in volume of each with its interval, and the Dice to the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medai.errors import InputError
from medai.store.atomic import publish, staged_file
from medai.workflows.annotators import AnnotatorsReport, AnnotatorSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FINE, _BAD, _DISPUTED = "#2a6f97", "#c0392b", "#d17a22"


def draw_annotators(report: AnnotatorsReport, path: Path) -> None:
    """Draw the report, an annotator a row.

    Args:
        report: what was compared.
        path: picture to write, .png.

    Raises:
        InputError: another ending.
        StorageError: the picture could not be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    shown = report.annotators
    figure = Figure(figsize=(11, 1.8 + 0.45 * len(shown)), layout="constrained")
    bias, overlap = figure.subplots(1, 2, sharey=True)
    _draw_bias(bias, shown, 100 * report.margin)
    _draw_overlap(overlap, shown)
    bias.set_yticks(range(len(shown)), [f"{each.name} ({each.cases})" for each in shown])
    bias.set_ylim(len(shown) - 0.5, -0.5)
    figure.suptitle(f"{len(shown)} annotators, {report.cases} cases, {report.shared_cases} of them read by several")
    with staged_file(path) as staged:
        figure.savefig(staged, dpi=110, format="png")
        publish(staged, path)


def check_picture(path: Path) -> None:
    """Refuse a name that is no PNG's before the work is done, not after it."""
    if path.suffix != ".png":
        raise InputError(f"The picture is a PNG: name it .png, not '{path.name}'.")


def _draw_bias(axes: Axes, shown: tuple[AnnotatorSummary, ...], margin_percent: float) -> None:
    axes.axvspan(-margin_percent, margin_percent, color="#8a8a8a", alpha=0.15, label=f"±{margin_percent:.0f} %")
    axes.axvline(0, color="#8a8a8a", linewidth=1)
    for row, each in enumerate(shown):
        if each.bias is not None:
            mean, low, high = each.bias.percent
            colour = _BAD if each.bias.is_biased else _DISPUTED if each.bias.is_disputed else _FINE
            axes.errorbar(
                mean, row, xerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]], fmt="o", color=colour, capsize=4
            )
    axes.set_xlabel("bias in volume, %, with 95 % interval")
    axes.legend(fontsize=8)
    axes.grid(visible=True, axis="x", alpha=0.25)


def _draw_overlap(axes: Axes, shown: tuple[AnnotatorSummary, ...]) -> None:
    for row, each in enumerate(shown):
        if each.overlap is not None:
            value = each.overlap.dice
            axes.errorbar(
                value.mean,
                row,
                xerr=[[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]],
                fmt="o",
                color=_BAD if each.overlap.is_outlier else _FINE,
                capsize=4,
            )
            if each.overlap.limit is not None:
                axes.plot([each.overlap.limit] * 2, [row - 0.3, row + 0.3], color="#8a8a8a", linestyle=":")
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("Dice to the others, with 95 % interval; dotted: outliers lie below")
    axes.grid(visible=True, axis="x", alpha=0.25)
