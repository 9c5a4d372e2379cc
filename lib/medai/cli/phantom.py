"""``medai phantom``: chest CTs with known nodules, for trying things out, for tests and for detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, stoppable, write_json
from medai.cli.targets import output_folder

app = typer.Typer(help="Make chest CTs with known nodules.", no_args_is_help=True)


@app.command("study")
def study(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Study folder to make; a complete one is left as it is.",
            callback=output_folder,
        ),
    ],
    cases: Annotated[int, typer.Option(min=1, max=1000, help="Number of scans, each of another patient.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed makes the same study.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Make a study folder of phantom chest CTs to annotate."""
    from medai.phantom.study import make_demo_study

    screen = console(json_file)
    kept = f"The scans made so far are in {folder}: the same command goes on."
    with stoppable(kept), progress_bar(screen) as bar:
        task = bar.add_task("Making phantom chest CTs", total=cases)
        made = make_demo_study(
            folder,
            case_count=cases,
            seed=seed,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    screen.print(f"Demo study: {len(made)} phantom chest CTs in {folder}")
    write_json(json_file, {"study": str(folder), "cases": [case.case_id for case in made]})


@app.command("detection")
def detection(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder to make; cases that are there are left as they are.",
            callback=output_folder,
        ),
    ],
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Number of scans.")] = 20,
    seed: Annotated[
        int, typer.Option(min=0, help="Number of the first scan; the same number makes the same scan.")
    ] = 0,
    real_data: Annotated[
        Path | None,
        typer.Option(help="Folder with lidc_nodules, lidc_cubes and dicom: real nodules are put into the scans."),
    ] = None,
    held_back: Annotated[
        bool, typer.Option("--held-back", help="Scans to judge by: held-back patients' nodules, a third have none.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Make chest CTs whose nodules are all known, laid out for ``medai evaluate detection --data FOLDER``."""
    from medai.workflows.detection_cases import prepare_detection_cases

    screen = console(json_file)
    kept = f"The scans made so far are in {folder}: the same command goes on."
    with stoppable(kept), progress_bar(screen) as bar:
        task = bar.add_task("Making detection cases", total=count)
        made = prepare_detection_cases(
            folder,
            count=count,
            seed=seed,
            real_data=real_data,
            held_back=held_back,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    screen.print(f"Detection cases: {len(made)} scans in {folder}")
    write_json(json_file, {"folder": str(folder), "cases": list(made)})
