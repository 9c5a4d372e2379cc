"""``medai simulate active-learning``: which strategy needs the fewest labels, on nodules whose labels are known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, stoppable, write_json
from medai.cli.targets import output_folder

if TYPE_CHECKING:
    from rich.console import Console

    from medai.workflows.simulate_learning import LearningReport


def active_learning(
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR", help="Folder with images/, masks/, nodules.csv, or with lidc_nodules/."),
    ],
    strategies: Annotated[str, typer.Option(metavar="NAMES", help="Strategies, comma-separated; default: all.")] = "",
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="segmentation, classification, or both.")
    ] = "segmentation,classification",
    rounds: Annotated[int | None, typer.Option(min=1, max=500, help="Queries; default: as suits the task.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, max=500, help="Patients a query.")] = None,
    warm_start: Annotated[int | None, typer.Option(min=1, max=500, help="Patients labelled to begin with.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Times that all is played.")] = 5,
    empty_share: Annotated[
        float, typer.Option(min=0.0, max=0.95, help="Share of the pool without a nodule, as in screening.")
    ] = 0.0,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Takes rounds, pictures and page; a second run goes on.",
            callback=output_folder,
        ),
    ] = Path("medai-active-learning"),
    jobs: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes at once; default: one a processor.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Replay annotation on labelled nodules: what each strategy reaches with how many labels."""
    from medai.active_learning.strategies import STRATEGIES
    from medai.workflows.learning_pictures import draw_learning
    from medai.workflows.simulate_learning import DEFAULT_PLANS, LearningSimulation, simulate_learning

    asked = {"rounds": rounds, "budget": budget, "warm_start": warm_start}
    changes = {name: value for name, value in asked.items() if value is not None}
    simulation = LearningSimulation(
        tasks=_names(tasks),
        strategies=_names(strategies) or tuple(name for name in STRATEGIES if name not in ("first", "last")),
        seeds=seeds,
        plans={name: replace(plan, **changes) for name, plan in DEFAULT_PLANS.items()},
        empty_share=empty_share,
    )
    screen = console(json_file)
    kept = f"The rounds played so far are in {out}: the same command goes on."
    with stoppable(kept), progress_bar(screen) as bar:
        shown = bar.add_task("Preparing", total=None)
        report = simulate_learning(
            data,
            out,
            simulation,
            jobs=jobs or len(os.sched_getaffinity(0)),
            on_progress=lambda done, total, words: bar.update(
                shown, completed=done, total=total, description=words.capitalize()
            ),
        )
    pictures, page = draw_learning(report, out)
    write_json(out / "report.json", report.to_json())
    write_json(json_file, report.to_json())
    show_learning(screen, report)
    screen.print(f"[dim]{page} · {' · '.join(path.name for path in pictures)}[/]")


def show_learning(screen: Console, report: LearningReport) -> None:
    """A table a task, the best strategy first."""
    from rich.markup import escape
    from rich.table import Table

    from medai.workflows.learning_pictures import COLUMNS, FEW_COLUMNS, figure_rows, headline

    for result in report.results:
        table = Table(
            *(COLUMNS[index] for index in FEW_COLUMNS),
            title=f"{result.task}: {headline(result)}; {report.seeds} seeds",
        )
        for cells in figure_rows(result):
            table.add_row(*(escape(cells[index]) for index in FEW_COLUMNS))
        screen.print(table)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
