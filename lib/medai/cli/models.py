"""``medai models``: which models answer, what their cards say, and the way back to the former one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.output import JsonOption, console, write_json
from medai.errors import NotFoundError

if TYPE_CHECKING:
    from medai.registry.model_registry import ModelRegistry

app = typer.Typer(help="The models that answer, their cards, and the way back.", no_args_is_help=True)

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="nodule_click, nodule_detection or nodule_classification.")
]
StudiesOption = Annotated[
    Path | None,
    typer.Option("--studies", metavar="STUDIES", help="The models this study has trained; default: the starters."),
]


@app.command("list")
def list_all(studies: StudiesOption = None, json_file: JsonOption = None) -> None:
    """Each task, the version that answers, and how good it is."""
    from rich.markup import escape
    from rich.table import Table

    from medai.cli.card_screen import figure_words
    from medai.workflows.model_cards import list_models

    found = list_models(_registry(studies))
    table = Table("task", "answers", "what", "figure", "on disk")
    for model in found:
        figure = f"{model.figure.name}: {figure_words(model.figure)}" if model.figure else ""
        table.add_row(
            model.task,
            model.version_id or "[red]none[/]",
            escape(model.words),
            escape(figure),
            str(len(model.versions)),
        )
    screen = console(json_file)
    screen.print(table)
    write_json(json_file, {"models": [model.to_json() for model in found]})


@app.command("card")
def card(
    task: TaskArgument,
    studies: StudiesOption = None,
    version: Annotated[
        str | None, typer.Option(metavar="ID", help="A version on disk; default: the one that answers.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """What a model is: data, licence, configuration, figures, and where it fails."""
    from medai.cli.card_screen import show_card
    from medai.workflows.model_cards import shown_card

    shown = shown_card(_registry(studies), task, version)
    show_card(console(json_file), shown)
    write_json(json_file, shown.to_json())


@app.command("rollback")
def rollback(
    task: TaskArgument,
    studies: Annotated[Path, typer.Option("--studies", metavar="STUDIES", help="The study whose model goes back.")],
    json_file: JsonOption = None,
) -> None:
    """Make the predecessor of a study's model answer again; a running server takes it at the next request."""
    from medai.workflows.families import task_name

    registry, name = _registry(studies), task_name(task)
    left = registry.champion(name).version_id
    now = registry.rollback(name)
    console(json_file).print(f"{name}: {now.version_id} answers again, {left} stays on disk.")
    write_json(json_file, {"task": name, "version_id": now.version_id, "left": left})


def _registry(studies: Path | None) -> ModelRegistry:
    from medai.workflows.models import open_registry

    if studies is not None and not studies.is_dir():
        raise NotFoundError(f"There is no study folder '{studies}'. Check the path.")
    return open_registry(studies)
