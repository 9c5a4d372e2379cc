"""``medai train``: retrain on a study's submitted labels, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medai.cli.output import JsonOption, console, progress_bar, write_json


def train(
    studies: Annotated[Path, typer.Argument(help="Study folder with submitted labels.")],
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Passes over the labelled nodules.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed and labels train the same model on one machine.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Train a challenger on the submitted labels and publish it if it is better."""
    from medai.store.study import StudyStore
    from medai.workflows.models import open_registry
    from medai.workflows.retrain import RetrainConfig, RetrainProgress, retrain

    screen = console(json_file)
    with progress_bar(screen) as bar:
        task = bar.add_task("Training", total=epochs)

        def show(step: RetrainProgress) -> None:
            bar.update(task, completed=step.epoch, total=max(1, step.total_epochs), description=step.describe())

        report = retrain(
            StudyStore(studies),
            open_registry(studies),
            RetrainConfig(epochs=epochs, device=device, seed=seed),
            on_progress=show,
            should_stop=lambda: False,
        )
    mark = "[green]published[/]" if report.published else "[yellow]not published[/]"
    screen.print(f"{mark}: {report.reason}")
    write_json(json_file, report.to_json())
