"""``medai demo``: plays the whole annotation loop without a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, stoppable, write_json
from medai.cli.targets import output_folder

if TYPE_CHECKING:
    from rich.table import Table

    from medai.workflows.annotation_loop import RoundReport


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Where to make the demo study; default: a temporary folder that is removed again.",
            callback=output_folder,
        ),
    ] = None,
    cases: Annotated[int, typer.Option(min=4, max=200, help="Number of phantom scans.")] = 6,
    strategy: Annotated[
        str, typer.Option(help="How the next case is chosen; medai status lists them.")
    ] = "uncertainty",
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over the labels in each round of training.")] = 8,
    seed: Annotated[int, typer.Option(help="The same seed plays the same demo.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Play the loop on phantom scans: next case, propose, correct, submit, retrain; says what each round gained."""
    import tempfile

    from medai.phantom.study import make_demo_study
    from medai.workflows.annotation_loop import LoopConfig, play_annotation_loop

    screen = console(json_file)
    kept = f"The study with its labels so far is in {folder}." if folder else "The temporary study was removed."
    with stoppable(kept), tempfile.TemporaryDirectory(prefix="medai-demo-") as temporary:
        studies = folder or Path(temporary) / "study"
        with screen.status("Making phantom chest CTs"):
            make_demo_study(studies, case_count=cases, seed=seed)
        rounds: list[RoundReport] = []
        with screen.status("Starting") as status:
            config = LoopConfig(strategy=strategy, epochs=epochs, seed=seed)
            for report in play_annotation_loop(studies, config, on_step=status.update):
                rounds.append(report)
                screen.print(report.describe())
        screen.print(_table(rounds))
        write_json(
            json_file, {"study": str(folder) if folder else None, "rounds": [report.to_json() for report in rounds]}
        )


def _table(rounds: list[RoundReport]) -> Table:
    from rich.table import Table

    columns = ("#", "case", "found", "false", "Dice", "clicks", "held-back Dice", "model")
    table = Table(*columns, title="What each round gained", caption="Dice: of the proposals, before any correction")
    for report in rounds:
        table.add_row(*report.table_row())
    return table
