"""``medai audit``: who read, downloaded and wrote what of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medai.cli.output import JsonOption, console, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


def audit(
    studies: Annotated[Path, typer.Argument(metavar="STUDIES", help="The study folder.")],
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Only what this user did.")] = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="ID", help="Only what was done to this case; names are found too.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the latest lines are shown; --json has all.")] = 50,
    json_file: JsonOption = None,
) -> None:
    """Show the audit log: who read, downloaded and wrote what, when, from where; refused requests too."""
    from collections import deque

    from medai.errors import NotFoundError
    from medai.store.audit_log import read_audit

    if not studies.is_dir():
        raise NotFoundError(f"There is no study folder {studies}.")
    screen = console(json_file)
    found = read_audit(studies, user=user, case=case)
    if json_file is None:
        shown, count = deque[dict[str, Any]](maxlen=last), 0
        for count, record in enumerate(found, start=1):  # noqa: B007  # how many there were
            shown.append(record)
    else:
        records = list(found)
        shown, count = deque(records, maxlen=last), len(records)
        write_json(json_file, {"lines": records})
    _show(screen, list(shown), count)


def _show(screen: Console, records: Sequence[dict[str, Any]], count: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("time (UTC)", "user", "from", "request", "case", "tag", "status", "bytes")
    for record in records:
        if "event" in record:
            table.add_row(str(record.get("time")), "", "", f"{record.get('lines')} lines {record['event']}")
            continue
        status = record.get("status")
        colour = "red" if isinstance(status, int) and status >= 400 else "green"
        request = f"{record.get('method')} {record.get('route')}"
        table.add_row(
            str(record.get("time")),
            *(escape(str(record.get(name) or "")) for name in ("user", "address")),
            escape(request),
            *(escape(str(record.get(name) or "")) for name in ("case", "tag")),
            f"[{colour}]{status}[/]",
            str(record.get("bytes", "")),
        )
    screen.print(table)
    screen.print(f"{len(records)} of {count} lines.")
