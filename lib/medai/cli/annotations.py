"""``medai annotations``: who submitted what, how much was corrected, and what is kept from training."""

from __future__ import annotations

import textwrap
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, write_json

if TYPE_CHECKING:
    from medai.domain.annotation import Annotation


def list_annotations(
    studies: Annotated[Path, typer.Argument(metavar="STUDIES", help="The study folder.")],
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only labels that no training learns from until somebody has looked.")
    ] = False,
    release: Annotated[
        str | None, typer.Option(metavar="ID", help="Let a quarantined label train: you have looked at it.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """List every label ever submitted, or release a quarantined one."""
    from medai.workflows.annotation_history import annotation_to_json, open_history

    log = open_history(studies)
    try:
        if release is not None:
            released = log.release(release, _user())
            console(json_file).print(f"{released.annotation_id} (case {released.case_id}) may train.", markup=False)
            write_json(json_file, {"released": annotation_to_json(released)})
            return
        found = log.all(is_quarantined=True if quarantined else None, with_deleted=True)
    finally:
        log.close()
    console(json_file).print(_table(found) if found else "No label fits.")
    write_json(json_file, {"annotations": [annotation_to_json(annotation) for annotation in found]})


def _table(found: list[Annotation]) -> object:
    """Four columns of lines, so that 80 columns hold a whole id: it is copied into ``--release``."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True)
    # The other columns make room. A longer case's name is folded, never cut: what is cut cannot be copied.
    table.add_column("id and case", no_wrap=True)
    width = max(len(each.annotation_id) for each in found)
    for name in ("by", "label and correction", "state"):
        table.add_column(name, overflow="fold")
    for each in found:
        source = escape(" ".join(part for part in (each.proposal_model, each.proposal_version) if part))
        nodules = f"{each.nodules} nodule{'' if each.nodules == 1 else 's'}, {each.volume_ml:.2f} ml"
        table.add_row(
            "\n".join([each.annotation_id, *map(escape, textwrap.wrap(each.case_id, width))]),
            f"{escape(each.annotator) or '[dim]nobody said[/]'}\n[dim]{_when(each)}[/]",
            "\n".join(line for line in (nodules, source and f"from {source}", _correction(each)) if line),
            _state(each),
        )
    return table


def _when(annotation: Annotation) -> str:
    at = datetime.fromtimestamp(annotation.submitted_at_s).astimezone().strftime("%Y-%m-%d %H:%M")
    return at if annotation.seconds_spent is None else f"{at}, {annotation.seconds_spent:.0f} s"


def _correction(annotation: Annotation) -> str:
    found = annotation.correction
    if found is None:
        return ""
    return (
        f"Dice {found.dice:.2f}, path {found.added_path_length_mm:.0f} mm, {found.volume_change_ml:+.2f} ml, "
        f"+{found.nodules_added} -{found.nodules_removed} nodules"
    )


def _state(annotation: Annotation) -> str:
    from rich.markup import escape

    if annotation.is_of_deleted_scan:
        return "[dim]of a scan that was deleted or replaced: trains nothing[/]"
    if annotation.quarantine_reason:
        return f"[red]quarantined[/]: {escape(annotation.quarantine_reason)}"
    by = f" by {escape(annotation.review_by)}" if annotation.review_by else ""
    words = f"{annotation.review}{by}" if annotation.review else ""
    return words if annotation.is_own_latest else f"{words} [dim]replaced[/]".strip()


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
