"""``--executor``, ``--workers`` and ``--address``: who works on many cases."""

from __future__ import annotations

import contextlib
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from medai.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medai.workflows.executors import CaseExecutor


class ExecutorName(StrEnum):
    """Who works."""

    INPROCESS = "inprocess"
    RAY = "ray"


ExecutorOption = Annotated[
    ExecutorName,
    typer.Option("--executor", help="Who works: this process, or Ray's processes (pip install 'medai\\[ray]')."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=1024, help="Cases at the same time; default: 1 in process, with Ray one a GPU or core."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="auto|HOST:PORT",
        help="A running Ray cluster that sees the same folders; default: one here.",
    ),
]


def build_executor(name: ExecutorName, *, workers: int | None, address: str | None, device: str) -> CaseExecutor:
    """The executor that was asked for.

    Raises:
        InputError: an address without Ray.
    """
    if name is ExecutorName.INPROCESS:
        from medai.workflows.executors import InProcessExecutor

        if address is not None:
            raise InputError(f"--address {address} belongs to '--executor ray'.")
        return InProcessExecutor(workers=workers or 1)
    from medai.workflows.ray_executor import RayExecutor

    return RayExecutor(address=address, workers=workers, use_gpus=device != "cpu")


@contextlib.contextmanager
def own_output(name: ExecutorName) -> Iterator[None]:
    """Keep standard output for the command's own words: Ray prints there when a worker dies, in front of any JSON."""
    with contextlib.redirect_stdout(sys.stderr) if name is ExecutorName.RAY else contextlib.nullcontext():
        yield
