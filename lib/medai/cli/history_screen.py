"""The history of a task's models in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from medai.registry.history import EventKind, HistoryEvent

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {
    EventKind.PUBLISHED: "green",
    EventKind.REFUSED: "yellow",
    EventKind.PROMOTED: "cyan",
    EventKind.ROLLED_BACK: "magenta",
}


def show_history(screen: Console, events: Iterable[HistoryEvent]) -> None:
    """A row an event, oldest first.

    Args:
        screen: takes the table.
        events: what was decided.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table("when (UTC)", "what", "answers since", "before", "score", "why", "who")
    for event in events:
        table.add_row(
            event.at,
            f"[{_COLOURS[event.kind]}]{event.kind}[/]",
            event.version_id or event.former,
            event.former,
            _score(event),
            escape(event.reason),
            escape(event.who or "the gate"),
        )
    if not table.row_count:
        screen.print("Nothing has been decided yet: the packaged starter answers.")
        return
    screen.print(table)


def _score(event: HistoryEvent) -> str:
    """What the gate measured, champion to challenger."""
    figures = event.verdict.get("figures", {})
    if not {"champion_mean", "challenger_mean"} <= set(figures):
        return ""
    return f"{figures['champion_mean']:.3f} → {figures['challenger_mean']:.3f}"
