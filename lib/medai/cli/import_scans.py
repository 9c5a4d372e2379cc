"""``medai import``: DICOM folders and volume files become a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, write_json
from medai.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from medai.workflows.import_study import ImportedCase


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
    from rich.markup import escape

    from medai.volume_io.options import ReadOptions
    from medai.workflows.import_study import import_scans as run_import

    screen = console(json_file)
    kept: list[ImportedCase] = []
    try:
        with progress_bar(screen) as bar:
            task = bar.add_task("Looking for scans", total=None)
            report = run_import(
                sources,
                to,
                options=ReadOptions(resample_irregular=resample_irregular, correct_tilt=correct_tilt),
                on_progress=lambda done, total, name: bar.update(
                    task, completed=done, total=total, description=f"Importing {escape(name)}"
                ),
                on_imported=kept.append,
            )
    except KeyboardInterrupt:
        _tell_kept(screen, kept, to)
        raise
    for case in report.imported:
        screen.print(f"[green]imported[/]  {escape(case.case_id)}  {case.geometry.describe()}")
    for case_id in report.skipped:
        screen.print(f"[dim]already there[/]  {escape(case_id)}")
    for each in report.left_out:
        screen.print(f"[dim]left out[/]  {escape(each.source)}: {escape(each.reason)}", soft_wrap=True)
    write_json(json_file, report.to_json())
    if report.refused and not report.imported and not report.skipped:
        raise InputError(
            "Nothing was imported. " + " ".join(f"{item.source}: {item.reason}" for item in report.refused)
        )
    for refusal in report.refused:
        screen.print(f"[red]refused[/]  {escape(refusal.source)}: {escape(refusal.reason)}", soft_wrap=True)
    screen.print(
        f"{len(report.imported)} imported, {len(report.skipped)} already there, {len(report.refused)} refused → {to}"
    )


def _tell_kept(screen: Console, kept: list[ImportedCase], to: Path) -> None:
    """Say what an interrupted import has brought, and how to go on."""
    from rich.markup import escape

    for case in kept:
        screen.print(f"[green]imported[/]  {escape(case.case_id)}  {case.geometry.describe()}")
    screen.print(
        f"Interrupted: {len(kept)} imported and kept in {escape(str(to))}, nothing is half there. The same command "
        "goes on: it skips what is there already.",
        soft_wrap=True,
    )
