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

    table = Table()
    for name in ("when (UTC)", "what", "answers since"):
        table.add_column(name, no_wrap=True)
    table.add_column("why")
    for event in events:
        table.add_row(
            event.at[:16].replace("T", " "),
            f"[{_COLOURS[event.kind]}]{event.kind}[/]\n{_score(event) or escape(event.who)}",
            f"{event.version_id or event.former}\n[dim]{_before(event)}[/]",
            escape(event.reason),
        )
    if not table.row_count:
        screen.print("Nothing has been decided yet: the packaged starter answers.")
        return
    screen.print(table)


def _before(event: HistoryEvent) -> str:
    """The version left; nothing where the champion stayed."""
    return f"was {event.former}" if event.kind.is_publish else ""


def _score(event: HistoryEvent) -> str:
    """What the gate measured, champion to challenger."""
    figures = event.verdict.get("figures", {})
    if not {"champion_mean", "challenger_mean"} <= set(figures):
        return ""
    return f"{figures['champion_mean']:.3f} → {figures['challenger_mean']:.3f}"
