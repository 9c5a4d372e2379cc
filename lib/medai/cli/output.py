"""What every command shares: the ``--json FILE`` option, the console, the progress bar."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medai.cli.targets import output_file
from medai.errors import CancelledByUserError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress

JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result as JSON to FILE; '-' prints it instead of text.",
        callback=output_file,
    ),
]


def console(json_file: Path | None = None) -> Console:
    """The console for people: standard output, or standard error where JSON goes to standard output."""
    from rich.console import Console

    return Console(stderr=json_file is not None and str(json_file) == "-", highlight=False)


def write_json(json_file: Path | None, result: Mapping[str, Any]) -> None:
    """Write a command's result where ``--json`` asked for it; numbers that are not finite become null."""
    if json_file is None:
        return
    text = json.dumps(_finite(result), indent=2, default=str) + "\n"
    if str(json_file) == "-":
        typer.echo(text, nl=False)
        return
    temporary = json_file.with_name(json_file.name + ".part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(json_file)
    except OSError as error:
        raise StorageError(
            f"Could not write {json_file}: {error.strerror}. Name a file in a folder you can write to."
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def stoppable(words: str | Callable[[], str]) -> Iterator[None]:
    """Let Ctrl+C end a command with words of its own.

    Args:
        words: what is kept and how to go on, as sentences; a function is called when it happens.

    Raises:
        CancelledByUserError: Ctrl+C was pressed inside.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise CancelledByUserError(words if isinstance(words, str) else words()) from error


@contextmanager
def progress_bar(on: Console, *, speed_over_s: float = 30.0) -> Iterator[Progress]:
    """A progress bar with time spent and time left, removed when done.

    Args:
        on: where it is drawn.
        speed_over_s: the time left goes by the speed of the last seconds, so many; more than one step should fit.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=on, transient=True, speed_estimate_period=speed_over_s) as bar:
        yield bar
