"""Pictures and page of an active-learning simulation: curves, what they are worth, and what was picked when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medai.evaluation.learning_curves import BASELINES, ENOUGH, FOREGROUND_RANDOM, RANDOM
from medai.store.atomic import publish, staged_file
from medai.workflows.evaluation_page import Table, interval, number, write_page, write_tables
from medai.workflows.simulate_learning import LearningReport, TaskResult
from medai.workflows.simulated_learning import PoolCase, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE_NAME = "active-learning.html"
COLUMNS = (
    "strategy",
    "mean figure (AUBC)",
    "95 % interval",
    "gain over random",
    "p",
    "gain over foreground_random",
    "p",
    "cases to 95 %",
    "of random's",
    "ml to 95 %",
    "last",
)
FEW_COLUMNS = (0, 1, 3, 4, 7, 8)
"""What a screen of 80 columns has room for."""
_GREY = "#8a8a8a"
_BASELINE_COLOURS = {RANDOM: "#222222", FOREGROUND_RANDOM: "#777777"}
_COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#17becf",
    "#3b4cc0",
)
_KINDS = ("solid", "part-solid", "non-solid")
_MAPS = 6
_MAP_COLUMNS = 3


def figure_rows(result: TaskResult) -> list[list[str]]:
    """A row a strategy, the best first."""
    rows = []
    for name, figures in sorted(result.figures.items(), key=lambda item: -item[1].aubc):
        shown = figures.to_json()
        share = shown["share_of_random_labels"]
        rows.append(
            [
                name,
                number(shown["aubc"]),
                interval(shown["aubc_ci95"] or (None, None)),
                _signed(shown[f"gain_vs_{RANDOM}"]),
                number(shown[f"p_vs_{RANDOM}"]),
                _signed(shown[f"gain_vs_{FOREGROUND_RANDOM}"]),
                number(shown[f"p_vs_{FOREGROUND_RANDOM}"]),
                number(shown["labels_to_95pct"], 1),
                f"{100 * share:.0f} %" if share is not None else "–",
                number(shown["millilitres_to_95pct"], 1),
                number(shown["final"]),
            ]
        )
    return rows


def draw_learning(report: LearningReport, folder: Path) -> tuple[list[Path], Path]:
    """Draw a report.

    Args:
        report: what was simulated.
        folder: takes two pictures a task, the page, and its tables as Markdown.

    Returns:
        The pictures and the page.

    Raises:
        StorageError: they could not be written.
    """
    pictures = []
    for result in report.results:
        for kind, draw in (("curves", _curves_figure), ("picks", _picks_figure)):
            path = folder / f"active-learning-{result.task}-{kind}.png"
            with staged_file(path) as staged:
                draw(result).savefig(staged, dpi=110, format="png")
                publish(staged, path)
            pictures.append(path)
    tables = [
        Table(title=f"{result.task}: {headline(result)}", columns=COLUMNS, rows=figure_rows(result))
        for result in report.results
    ]
    empty = f", {100 * report.empty_share:.0f} % of the pool without a nodule" if report.empty_share else ""
    page = folder / PAGE_NAME
    title = "Which case next?"
    what = (
        "Annotation replayed on labelled nodules: a few patients are labelled, a model learns from them, each strategy "
        f"says which patients come next. {report.seeds} seeds{empty}; figures on patients that are never labelled. A "
        "gain is the difference of the mean figure over all rounds, seed by seed; p by a paired t-test."
    )
    write_page(page, title, what, pictures, tables, {}, ())
    write_tables(page.with_suffix(".md"), title, what, tables)
    return pictures, page


def headline(result: TaskResult) -> str:
    """What the figures of a task are of."""
    return (
        f"{result.measure} on {result.judged_nodules} nodules; the whole pool of {len(result.pool)} patients gives "
        f"{result.full_figure:.3f}"
    )


def _curves_figure(result: TaskResult) -> Any:
    """Curves over cases and over millilitres, and gains over random."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    by_case, by_volume, gains = figure.subplots(1, 3)
    _draw_curves(by_case, result, "cases")
    _draw_curves(by_volume, result, "millilitres")
    by_case.set_xlabel("patients labelled")
    by_volume.set_xlabel("millilitres outlined")
    by_case.legend(fontsize=7)
    _draw_gains(gains, result)
    figure.suptitle(f"{result.task}: {headline(result)}")
    return figure


def _draw_curves(axes: Axes, result: TaskResult, budget: str) -> None:
    """Mean curve of each strategy; the band of ``random`` is its 95 % interval over seeds."""
    goal = ENOUGH * result.full_figure
    axes.axhline(goal, color=_GREY, linestyle="--", linewidth=1)
    axes.annotate("95 % of the whole pool", (1, goal), xycoords=("axes fraction", "data"), ha="right", fontsize=7)
    for name, colour in _colours(result).items():
        curves = [trial.curve for trial in result.trials if trial.strategy == name]
        x = np.mean([getattr(curve, budget) for curve in curves], axis=0)
        y = np.array([curve.figures for curve in curves])
        is_baseline = name in BASELINES
        axes.plot(x, y.mean(axis=0), color=colour, label=name, linewidth=2.2 if is_baseline else 1.3)
        if name == RANDOM and len(curves) > 1:
            half = 1.96 * y.std(axis=0, ddof=1) / np.sqrt(len(curves))
            axes.fill_between(x, y.mean(axis=0) - half, y.mean(axis=0) + half, color=colour, alpha=0.12)
    axes.set_ylabel(f"{result.measure}, mean of seeds")
    axes.grid(visible=True, alpha=0.25)


def _draw_gains(axes: Axes, result: TaskResult) -> None:
    """Gain over random with its interval, best at the top."""
    colours = _colours(result)
    shown = sorted(
        ((name, figures.gains[RANDOM]) for name, figures in result.figures.items() if RANDOM in figures.gains),
        key=lambda item: item[1].mean,
    )
    axes.axvline(0, color=_GREY, linewidth=1)
    for row, (name, gain) in enumerate(shown):
        low, high = gain.ci95 or (gain.mean, gain.mean)
        axes.errorbar(
            gain.mean, row, xerr=[[gain.mean - low], [high - gain.mean]], fmt="o", color=colours[name], capsize=4
        )
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.set_xlabel(f"gain over random in mean {result.measure}, 95 % interval over seeds")
    axes.grid(visible=True, axis="x", alpha=0.25)


def _picks_figure(result: TaskResult) -> Any:
    """What was picked when: size, kind, and where on the map of the pool."""
    from matplotlib.figure import Figure

    mapped = _mapped(result)
    rows = -(-len(mapped) // _MAP_COLUMNS)
    figure = Figure(figsize=(14, 4.2 + 3.6 * rows), layout="constrained")
    parts = np.asarray(figure.subfigures(2, 1, height_ratios=(4.2, 3.6 * rows)))
    above, below = parts.tolist()
    sizes, kinds = above.subplots(1, 2)
    _draw_sizes(sizes, result)
    _draw_kinds(kinds, result)
    maps = np.atleast_1d(below.subplots(rows, _MAP_COLUMNS, sharex=True, sharey=True)).ravel()
    for axes, name in zip(maps, mapped, strict=False):
        _draw_map(axes, result, name)
    for axes in maps[len(mapped) :]:
        axes.set_visible(False)
    below.suptitle("the pool on the two main axes of its embeddings; picked with the first seed, dark ones first")
    figure.suptitle(f"{result.task}: what was picked when")
    return figure


def _draw_sizes(axes: Axes, result: TaskResult) -> None:
    """Mean diameter of all that came in until each round: of one round alone it is of a few nodules."""
    for name, colour in _colours(result).items():
        values = [_until_round(result, name, number, _mean_diameter) for number in range(1, result.plan.rounds + 1)]
        axes.plot(range(1, len(values) + 1), values, color=colour, label=name)
    whole = [diameter for case in result.pool.values() for diameter in case.diameters_mm]
    axes.axhline(float(np.mean(whole)), color=_GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("round (dashed: the whole pool)")
    axes.set_ylabel("mean diameter of the nodules picked until then, mm")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.grid(visible=True, alpha=0.25)


def _draw_kinds(axes: Axes, result: TaskResult) -> None:
    """Shares of the attenuation types among all that was picked, beside the pool's."""
    rows = {name: _kind_shares(_picked(result, name)) for name in result.figures}
    rows["the whole pool"] = _kind_shares(list(result.pool.values()))
    start = np.zeros(len(rows))
    for index, (kind, colour) in enumerate(zip(_KINDS, ("#2a6f97", "#d17a22", "#7fb2cf"), strict=True)):
        share = 100 * np.array([shares[index] for shares in rows.values()])
        axes.barh(range(len(rows)), share, left=start, color=colour, label=kind)
        start = start + share
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlabel("% of the nodules picked, by attenuation")
    axes.legend(fontsize=7, loc="lower left")


def _draw_map(axes: Axes, result: TaskResult, strategy: str) -> None:
    """Where one seed's picks lie among the pool."""
    everything = np.array(list(result.places.values()))
    axes.scatter(everything[:, 0], everything[:, 1], s=6, color="#dddddd")
    trial = min((t for t in result.trials if t.strategy == strategy), key=lambda t: t.seed)
    picked = [
        (each.number, result.places[name]) for each in trial.rounds for name in each.picked if name in result.places
    ]
    axes.scatter(
        [place[0] for _, place in picked],
        [place[1] for _, place in picked],
        c=[round_number for round_number, _ in picked],
        cmap="viridis",
        s=18,
    )
    axes.set_title(strategy, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _mapped(result: TaskResult) -> list[str]:
    """Random, and the strategies worth most."""
    others = sorted((n for n in result.figures if n not in BASELINES), key=lambda n: -result.figures[n].aubc)
    return [name for name in (RANDOM, *others) if name in result.figures][:_MAPS]


def _picked(result: TaskResult, strategy: str) -> list[PoolCase]:
    """Everything that a strategy asked for, in all seeds."""
    return [
        result.pool[name]
        for trial in result.trials
        if trial.strategy == strategy
        for each in trial.rounds[1:]
        for name in each.picked
    ]


def _until_round(result: TaskResult, strategy: str, number: int, value: Any) -> float:
    """The mean over seeds of a value of the cases that were picked until a round."""
    trials: list[Trial] = [trial for trial in result.trials if trial.strategy == strategy]
    found = [
        value([result.pool[name] for each in trial.rounds[1 : number + 1] for name in each.picked]) for trial in trials
    ]
    known = [each for each in found if np.isfinite(each)]
    return float(np.mean(known)) if known else float("nan")


def _mean_diameter(cases: Sequence[PoolCase]) -> float:
    diameters = [diameter for case in cases for diameter in case.diameters_mm]
    return float(np.mean(diameters)) if diameters else float("nan")


def _kind_shares(cases: Sequence[PoolCase]) -> list[float]:
    kinds = [kind for case in cases for kind in case.kinds if kind in _KINDS]
    return [kinds.count(kind) / len(kinds) if kinds else 0.0 for kind in _KINDS]


def _colours(result: TaskResult) -> Mapping[str, Any]:
    """A colour a strategy, baselines in greys."""
    others = [name for name in result.figures if name not in BASELINES]
    chosen = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(others)}
    return {name: _BASELINE_COLOURS.get(name) or chosen[name] for name in result.figures}


def _signed(value: float | None) -> str:
    return f"{value:+.4f}" if value is not None else "–"
