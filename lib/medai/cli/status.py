"""``medai status``: where an annotation session stands, and whether another case is worth it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from medai.workflows.session_status import SessionStatus

UNREADABLE_SHOWN = 10


SHOWN_WITHHELD = 5


def status(
    studies: Annotated[Path, typer.Argument(metavar="STUDIES", help="The study folder.")],
    strategy: Annotated[str, typer.Option(help="By which strategy the queue is shown.")] = "default",
    queue: Annotated[int, typer.Option(min=0, max=200, help="How many of the next cases are shown.")] = 5,
    json_file: JsonOption = None,
) -> None:
    """Say what is labelled and left, what it brought, whether more is worth it, what comes next and who is at work."""
    from medai.workflows.session_status import study_status

    found = study_status(studies, strategy=strategy, queue_length=queue)
    _show(console(json_file), found)
    write_json(json_file, found.to_json())


def _show(screen: Console, found: SessionStatus) -> None:
    from rich.markup import escape

    left = f", about {_hours(found.minutes_left)} of work" if found.minutes_left is not None else ""
    screen.print(f"{found.labelled} of {found.total} cases labelled; {found.left} left{left}; {found.scored} scored.")
    if found.unreadable:
        screen.print(f"[yellow]{len(found.unreadable)} cannot be read[/] and are nobody's next case until mended:")
        for case_id, reason in list(found.unreadable.items())[:UNREADABLE_SHOWN]:
            screen.print(f"  {escape(case_id)}: {escape(reason)}", soft_wrap=True)
        if len(found.unreadable) > UNREADABLE_SHOWN:
            screen.print(f"  … and {len(found.unreadable) - UNREADABLE_SHOWN} more; --json has all.")
    if found.withheld:
        screen.print(f"{len(found.withheld)} labels train nothing until somebody has looked (medai annotations).")
        for case_id, reason in list(found.withheld.items())[:SHOWN_WITHHELD]:
            screen.print(f"  {escape(case_id)}: {escape(reason)}", soft_wrap=True)
        if len(found.withheld) > SHOWN_WITHHELD:
            screen.print(f"  and {len(found.withheld) - SHOWN_WITHHELD} more: --json names them all.")
    for problem in found.passed_over:
        screen.print(f"[yellow]Passed over:[/] {escape(problem)}", soft_wrap=True)
    colour = "green" if found.advice.is_worth_it else "yellow"
    screen.print(f"[{colour}]{escape(found.advice.summary)}[/]")
    for reason in found.advice.reasons:
        screen.print(f"  {escape(reason)}", soft_wrap=True)
    _show_trainings(screen, found)
    _show_queue(screen, found)
    _show_annotators(screen, found)
    for warning in found.warnings:
        screen.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


def _show_trainings(screen: Console, found: SessionStatus) -> None:
    from rich.table import Table

    if not found.trainings:
        return
    table = Table("model", "labels", "score", "gained", "", title="What the last trainings gained")
    for task, trainings in found.trainings.items():
        for training in trainings:
            score = f"{training.measure} {training.champion_score:.3f} → {training.challenger_score:.3f}"
            outcome = "published" if training.published else "refused"
            table.add_row(task, str(training.labels), score, f"{training.gain:+.3f}", outcome)
    screen.print(table)


def _show_queue(screen: Console, found: SessionStatus) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not found.queue:
        return
    table = Table("case", "why", title=f"Next by {found.strategy}")
    for case in found.queue:
        table.add_row(escape(case.case_id), escape(case.reason))
    screen.print(table)


def _show_annotators(screen: Console, found: SessionStatus) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not found.at_work and not found.skipped:
        screen.print("Nobody is at work.")
        return
    table = Table("annotator", "case", "minutes", "skipped", title="At work")
    for each in found.at_work:
        skipped = [case_id for case_id in found.skipped.get(each.annotator, ()) if case_id != each.case_id]
        table.add_row(escape(each.annotator), escape(each.case_id), f"{each.minutes:.0f}", escape(", ".join(skipped)))
    present = {each.annotator for each in found.at_work}
    for annotator, cases in found.skipped.items():
        if annotator not in present:
            table.add_row(escape(annotator), "", "", escape(", ".join(cases)))
    screen.print(table)


def _hours(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
