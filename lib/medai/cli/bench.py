"""``medai bench``: how long a person waits, measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medai.cli.output import JsonOption, console, write_json

app = typer.Typer(help="Measure how long a person waits on this machine.", no_args_is_help=True)

ImageOption = Annotated[
    Path | None, typer.Option("--image", metavar="FILE", help="Scan to measure on; default: a phantom of 512×512×300.")
]


def _show(title: str, figures: Mapping[str, Any], json_file: Path | None) -> None:
    from rich.table import Table

    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        if isinstance(value, Mapping):
            for part, seconds in value.items():
                table.add_row(f"{name}.{part}", f"{seconds:.3f}")
        else:
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    console(json_file).print(table)
    write_json(json_file, figures)


@app.command("click")
def click(
    image: ImageOption = None,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Warm clicks; the median counts.")] = 5,
    json_file: JsonOption = None,
) -> None:
    """First and warm click through HTTP, beside a stock-style MONAI Label task with the same network."""
    from medai.server.benchmark import bench_click

    with console(json_file).status("Measuring clicks"):
        figures = bench_click(image, repeats=repeats)
    _show("Click", figures, json_file)


@app.command("scan")
def scan(image: ImageOption = None, json_file: JsonOption = None) -> None:
    """A whole scan, stage by stage."""
    from medai.workflows.benchmark_scan import bench_scan

    with console(json_file).status("Measuring a whole scan"):
        figures = bench_scan(image)
    _show("Whole scan", figures, json_file)


@app.command("server")
def server(
    studies: Annotated[int, typer.Option(min=10, max=100_000, help="Size of the study for the next sample.")] = 2000,
    json_file: JsonOption = None,
) -> None:
    """Start, /info/ while an inference and a training run, and the next sample of a large study."""
    from medai.server.benchmark import bench_server

    with console(json_file).status("Measuring the server"):
        figures = bench_server(study_count=studies)
    _show("Server", figures, json_file)
