"""``medai phantom``: chest CTs with known nodules, for trying things out and for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, write_json

app = typer.Typer(help="Make chest CTs with known nodules.", no_args_is_help=True)


@app.command("study")
def study(
    folder: Annotated[Path, typer.Argument(help="Study folder to make; a complete one is left as it is.")],
    cases: Annotated[int, typer.Option(min=1, max=1000, help="Number of scans, each of another patient.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed makes the same study.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Make a study folder of phantom chest CTs to annotate."""
    from medai.phantom.study import make_demo_study

    screen = console(json_file)
    with progress_bar(screen) as bar:
        task = bar.add_task("Making phantom chest CTs", total=cases)
        made = make_demo_study(
            folder,
            case_count=cases,
            seed=seed,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    screen.print(f"Demo study: {len(made)} phantom chest CTs in {folder}")
    write_json(json_file, {"study": str(folder), "cases": [case.case_id for case in made]})
