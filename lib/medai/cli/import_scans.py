"""``medai import``: DICOM folders and volume files become a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, write_json
from medai.errors import InputError


def import_scans(
    sources: Annotated[list[Path], typer.Argument(help="DICOM folders or files, NIfTI, NRRD or MetaImage files.")],
    to: Annotated[Path, typer.Option("--to", metavar="STUDIES", help="Study folder, made where it does not exist.")],
    resample_irregular: Annotated[
        bool, typer.Option(help="Resample series with missing or uneven slices instead of refusing them.")
    ] = False,
    correct_tilt: Annotated[
        bool, typer.Option(help="Straighten series taken with a tilted gantry instead of refusing them.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Bring scans into a study folder; what cannot be used is named with the reason."""
    from medai.volume_io.options import ReadOptions
    from medai.workflows.import_study import import_scans as run_import

    screen = console(json_file)
    with progress_bar(screen) as bar:
        task = bar.add_task("Importing", total=None)
        report = run_import(
            sources,
            to,
            options=ReadOptions(resample_irregular=resample_irregular, correct_tilt=correct_tilt),
            on_progress=lambda done, total, name: bar.update(
                task, completed=done, total=total, description=f"Importing {name}"
            ),
        )
    for case in report.imported:
        screen.print(f"[green]imported[/]  {case.case_id}  {case.geometry.describe()}")
    for case_id in report.skipped:
        screen.print(f"[dim]already there[/]  {case_id}")
    write_json(json_file, report.to_json())
    if report.refused and not report.imported and not report.skipped:
        raise InputError(
            "Nothing was imported. " + " ".join(f"{item.source}: {item.reason}" for item in report.refused)
        )
    for refusal in report.refused:
        screen.print(f"[red]refused[/]  {refusal.source}: {refusal.reason}")
    screen.print(
        f"{len(report.imported)} imported, {len(report.skipped)} already there, {len(report.refused)} refused → {to}"
    )
