"""``medai simulate``: plays annotation sessions with readers whose faults are known, and says what they show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, stoppable, write_json
from medai.cli.simulate_learning import active_learning
from medai.cli.targets import output_folder

if TYPE_CHECKING:
    from rich.console import Console

    from medai.workflows.simulation_report import SimulationReport

app = typer.Typer(help="Play annotation sessions with simulated readers on real nodules.", no_args_is_help=True)
app.command("active-learning")(active_learning)

DataOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder with images/, masks/, nodules.csv, or with lidc_nodules/.")
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Takes studies, results, picture and page; a second run goes on.",
        callback=output_folder,
    ),
]
JobsOption = Annotated[int | None, typer.Option(min=1, max=256, help="Processes at once; default: one a processor.")]


@app.command("retrain")
def retrain(
    data: DataOption,
    out: OutOption = Path("medai-simulation"),
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds of labels and retraining.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Times that all is played, with other cases.")] = 3,
    first_seed: Annotated[int, typer.Option(min=1, max=10_000, help="The first of these seeds.")] = 1,
    cases: Annotated[int, typer.Option(min=1, max=100, help="New patients a round.")] = 10,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over the labels in each training.")] = 16,
    margin: Annotated[float, typer.Option(min=0.001, max=0.5, help="Dice that no promotion may cost.")] = 0.02,
    jobs: JobsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Honest, careless, biased and malicious annotators: retrain in rounds, with the promotion gate on and off."""
    from medai.workflows.simulate_retraining import SimulationConfig, SimulationProgress, simulate_retraining
    from medai.workflows.simulation_pictures import draw_simulation

    screen = console(json_file)
    config = SimulationConfig(
        rounds=rounds, seeds=seeds, first_seed=first_seed, cases_per_round=cases, epochs=epochs, margin=margin
    )
    kept = f"The rounds played so far are in {out}: the same command goes on."
    with stoppable(kept), progress_bar(screen) as bar:
        shown = bar.add_task("Preparing", total=None)

        def tell(progress: SimulationProgress) -> None:
            bar.update(
                shown, completed=round(progress.done, 1), total=progress.total, description=progress.words.capitalize()
            )

        report = simulate_retraining(
            data, out, config, jobs=jobs or max(1, len(os.sched_getaffinity(0))), on_progress=tell
        )
    png, page = draw_simulation(report, out)
    write_json(out / "report.json", report.to_json())
    write_json(json_file, report.to_json())
    show_simulation(screen, report)
    screen.print(f"[dim]{png}  {page}[/]")


def show_simulation(screen: Console, report: SimulationReport) -> None:
    """A row an arm, a row an annotator, and what was to be shown in words."""
    from rich.markup import escape
    from rich.table import Table

    from medai.workflows.simulation_report import ARM_CAPTION, ARM_COLUMNS, READER_COLUMNS, arm_row, reader_rows

    title = f"Dice on patients of no study; the margin is {report.margin:g}"
    table = Table(*ARM_COLUMNS, title=title, caption=ARM_CAPTION)
    for arm in report.arms:
        row = [escape(cell) for cell in arm_row(arm, report.margin)]
        table.add_row(*row, style="red" if arm.harmful(report.margin) else None)
    screen.print(table)
    readers = Table(*READER_COLUMNS, title="Labels with the gate on, all seeds")
    for cells in reader_rows(report.of_gate(True)):
        readers.add_row(*(escape(cell) for cell in cells))
    screen.print(readers)
    for claim in report.claims:
        screen.print(
            f"[green]holds[/]  {escape(claim.words)}" if claim.holds else f"[red]fails[/]  {escape(claim.words)}"
        )
