"""The picture and the page of a retraining simulation: what the gate is for, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medai.store.atomic import publish, staged_file
from medai.workflows.evaluation_page import Table, write_page, write_tables
from medai.workflows.simulated_stream import BAD_EVERY, READERS, is_bad_round
from medai.workflows.simulation_report import (
    ARM_COLUMNS,
    READER_COLUMNS,
    ROUND_COLUMNS,
    SimulationReport,
    arm_row,
    reader_rows,
    round_rows,
)
from medai.workflows.simulation_results import ArmResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PNG_NAME, PAGE_NAME = "simulation.png", "simulation.html"
_ON, _OFF, _GREY, _FAINT = "#2a6f97", "#c0392b", "#8a8a8a", "#f3e3e0"
_TRAIN, _JUDGE, _TEST, _LEFT, _HELD = "#2a6f97", "#7fb2cf", "#c9d6dd", "#e8c39e", "#d17a22"


def draw_simulation(report: SimulationReport, folder: Path) -> tuple[Path, Path]:
    """Draw a report, and write its tables as Markdown beside the page.

    Args:
        report: what was simulated.
        folder: takes the files.

    Returns:
        The picture and the page.

    Raises:
        StorageError: they could not be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    ((curves, changes), (biases, labels)) = figure.subplots(2, 2)
    _draw_curves(curves, report)
    _draw_changes(changes, report)
    _draw_biases(biases, report.of_gate(True))
    _draw_labels(labels, report.of_gate(True))
    figure.suptitle(_headline(report), fontsize=13)
    png, page = folder / PNG_NAME, folder / PAGE_NAME
    with staged_file(png) as staged:
        figure.savefig(staged, dpi=110, format="png")
        publish(staged, png)
    title = "Retraining that never makes it worse"
    what = (
        "Six simulated annotators correct a weak network's outlines of real nodules in rounds; every "
        f"{BAD_EVERY}rd round the honest ones are away. The same labels train twice: with the promotion gate on, and "
        "with it off, where every challenger is published. Dice is measured on patients who are in no study."
    )
    tables = [
        Table(
            title="What was to be shown",
            columns=("", ""),
            rows=[["holds" if claim.holds else "fails", claim.words] for claim in report.claims],
        ),
        Table(title="Arms", columns=ARM_COLUMNS, rows=[arm_row(arm, report.margin) for arm in report.arms]),
        Table(
            title="Labels with the gate on, all seeds", columns=READER_COLUMNS, rows=reader_rows(report.of_gate(True))
        ),
        Table(title="Rounds", columns=ROUND_COLUMNS, rows=round_rows(report.arms)),
    ]
    write_page(page, title, what, png, tables, {}, [claim.words for claim in report.claims if not claim.holds])
    write_tables(page.with_suffix(".md"), title, what, tables)
    return png, page


def _headline(report: SimulationReport) -> str:
    on, off = report.of_gate(True), report.of_gate(False)
    return (
        f"Harmful promotions: {sum(len(arm.harmful(report.margin)) for arm in on)} with the gate on, "
        f"{sum(len(arm.harmful(report.margin)) for arm in off)} with the gate off (a loss of more than "
        f"{report.margin:g} Dice)"
    )


def _draw_curves(axes: Axes, report: SimulationReport) -> None:
    """Dice of the model that answers, round by round: thin lines are seeds, thick ones their mean."""
    last = max((len(arm.rounds) for arm in report.arms), default=0)
    for number in filter(is_bad_round, range(1, last + 1)):
        axes.axvspan(number - 0.5, number + 0.5, color=_FAINT, zorder=0)
    for gate_is_on, colour, name in ((False, _OFF, "gate off"), (True, _ON, "gate on")):
        arms = report.of_gate(gate_is_on)
        for arm in arms:
            axes.plot(range(len(arm.curve)), arm.curve, color=colour, linewidth=0.9, alpha=0.5)
        complete = [arm.curve for arm in arms if len(arm.curve) == last + 1]
        if complete:
            axes.plot(range(last + 1), np.mean(complete, axis=0), color=colour, linewidth=2.8, label=name)
    axes.set_title("The model that answers (shaded: rounds of mostly bad labels)", fontsize=10)
    axes.set_xlabel("round")
    axes.set_ylabel("Dice, patients of no study")
    axes.set_xlim(0, max(1, last) + 0.5)
    axes.legend(loc="lower right")
    axes.grid(visible=True, alpha=0.25)


def _draw_changes(axes: Axes, report: SimulationReport) -> None:
    """What each challenger changed, filled where it was published."""
    axes.axhspan(-report.margin, report.margin, color=_GREY, alpha=0.15, label=f"±{report.margin:g}")
    axes.axhline(0, color=_GREY, linewidth=1)
    for gate_is_on, colour, name, shift in ((True, _ON, "gate on", -0.12), (False, _OFF, "gate off", 0.12)):
        for is_published, fill, words in ((True, colour, "published"), (False, "white", "refused")):
            points = [
                (outcome.number + shift, outcome.change.difference, outcome.change.low, outcome.change.high)
                for arm in report.of_gate(gate_is_on)
                for outcome in arm.rounds
                if outcome.change is not None and outcome.published is is_published
            ]
            if points:
                x, y, low, high = np.array(points).T
                axes.vlines(x, low, high, color=colour, linewidth=0.7, alpha=0.4)
                axes.scatter(x, y, facecolors=fill, edgecolors=colour, s=34, zorder=3, label=f"{name}, {words}")
    axes.set_title("What each new model changed, with its 90 % interval (filled: it was published)", fontsize=10)
    axes.set_xlabel("round")
    axes.set_ylabel("change in Dice")
    axes.legend(fontsize=8)
    axes.grid(visible=True, alpha=0.25)


def _draw_biases(axes: Axes, arms: Sequence[ArmResult]) -> None:
    """Bias in volume as ``medai annotators`` computes it, a point a seed."""
    axes.axvline(0, color=_GREY, linewidth=1)
    for row, name in enumerate(READERS):
        for place, arm in enumerate(arms):
            if name not in arm.bias_percent:
                continue
            mean, low, high = arm.bias_percent[name]
            is_named = bool(arm.rounds) and name in arm.rounds[-1].biased
            axes.errorbar(
                mean,
                row + 0.22 * (place - (len(arms) - 1) / 2),
                xerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
                fmt="o",
                color=_OFF if is_named else _ON,
                markersize=4,
                capsize=2,
            )
    axes.set_yticks(range(len(READERS)), list(READERS))
    axes.set_ylim(len(READERS) - 0.5, -0.5)
    # A malicious reader's interval may reach a thousand percent.
    axes.set_xlim(-105, 305)
    axes.set_title("Bias in volume, as 'medai annotators' finds it (red: named as biased)", fontsize=10)
    axes.set_xlabel("%, with 95 % interval")
    axes.grid(visible=True, axis="x", alpha=0.25)


def _draw_labels(axes: Axes, arms: Sequence[ArmResult]) -> None:
    """What became of each annotator's labels."""
    parts = (("train", _TRAIN, "trained"), ("judge", _JUDGE, "judged"), ("test", _TEST, "neither"))
    left = np.zeros(len(READERS))
    for part, colour, words in (*parts, ("left_out", _LEFT, "left out"), ("quarantined", _HELD, "quarantined")):
        counts = [sum(getattr(r, part) for arm in arms for r in arm.readers if r.reader == name) for name in READERS]
        axes.barh(range(len(READERS)), counts, left=left, color=colour, label=words)
        left += counts
    axes.set_yticks(range(len(READERS)), list(READERS))
    axes.set_ylim(len(READERS) - 0.5, -0.5)
    axes.set_title("What became of the labels, gate on, all seeds", fontsize=10)
    axes.set_xlabel("labels")
    axes.legend(fontsize=8)
