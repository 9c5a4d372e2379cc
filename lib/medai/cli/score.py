"""``medai score``: what the models make of each case, for the choice of the next one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medai.cli.executor_options import (
    AddressOption,
    ExecutorName,
    ExecutorOption,
    WorkersOption,
    build_executor,
    own_output,
)
from medai.cli.output import JsonOption, console, progress_bar, stoppable, write_json
from medai.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from medai.workflows.score_pool import PoolReport

SPEED_OVER_S = 3600.0
"""A case takes seconds to a minute: the time left goes by the last hour."""

FAILURES_SHOWN = 10


def score(
    studies: Annotated[Path, typer.Argument(metavar="STUDIES", help="The study folder.")],
    executor: ExecutorOption = ExecutorName.INPROCESS,
    workers: WorkersOption = None,
    address: AddressOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_file: JsonOption = None,
) -> None:
    """Score the cases that the present models have not seen: new ones, and all after a new champion.

    Scores are kept as they come; stopped or killed, the same command goes on. A server of the study gives way to it.
    """
    from medai.workflows.score_pool import PoolStep, score_pool

    who = build_executor(executor, workers=workers, address=address, device=device)
    screen = console(json_file)
    kept = "The scores so far are kept: the same command goes on, and a server of the study does by itself."
    with stoppable(kept), own_output(executor), progress_bar(screen, speed_over_s=SPEED_OVER_S) as bar:
        shown = bar.add_task("Scoring", total=None)

        def show(step: PoolStep) -> None:
            bar.update(shown, completed=step.done, total=step.done + step.left)

        report = score_pool(
            studies,
            who,
            device=device,
            on_begin=lambda due: bar.update(shown, total=due, description=f"Scoring by {who.description}"),
            on_step=show,
            on_wait=lambda: screen.print("Waiting: another process is scoring this study."),
        )
    _tell(screen, report)
    write_json(json_file, report.to_json())
    if report.failed and not report.scored:
        case_id, reason = next(iter(report.failed.items()))
        raise InputError(f"None of the {len(report.failed)} cases could be scored; {case_id}: {reason}")


def _tell(screen: Console, report: PoolReport) -> None:
    from rich.markup import escape

    for case_id, reason in list(report.unreadable.items())[:FAILURES_SHOWN]:
        if case_id not in report.failed:
            screen.print(f"[yellow]cannot be read[/] {escape(case_id)}: {escape(reason)}", soft_wrap=True)
    if report.note:
        screen.print(escape(report.note), soft_wrap=True)
        return
    if not report.scored and not report.failed:
        others = f" but {len(report.unreadable)} that cannot be read" if report.unreadable else ""
        screen.print(f"Every case{others} is scored by the present models.")
        return
    result: dict[str, Any] = report.to_json()
    screen.print(
        f"[bold]{report.scored}[/] cases scored in {report.seconds:.0f} s by {report.executor} "
        f"({result['cases_per_minute']} a minute)."
    )
    if report.retried:
        screen.print(f"{report.retried} of them took more than one try.")
    for case_id, reason in list(report.failed.items())[:FAILURES_SHOWN]:
        screen.print(f"[yellow]not scored[/] {escape(case_id)}: {escape(reason)}")
    if len(report.failed) > FAILURES_SHOWN:
        screen.print(f"… and {len(report.failed) - FAILURES_SHOWN} more; --json has all.")
