"""``medai models``: which models answer and why, what their cards say, and the way back to a former one."""

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
StudyOption = Annotated[Path, typer.Option("--studies", metavar="STUDIES", help="The study whose models are meant.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A version on disk, such as v0007-1a2b3c4d.")]
WhoOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides, for the history; default: who is logged in.")
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
            f"{len(model.versions)}, {len(model.pinned)} pinned" if model.pinned else str(len(model.versions)),
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


@app.command("history")
def history(task: TaskArgument, studies: StudyOption, json_file: JsonOption = None) -> None:
    """Everything that was decided about a study's models: promoted, refused and why, rolled back."""
    from medai.cli.history_screen import show_history
    from medai.workflows.model_cards import listed_history

    events = listed_history(_registry(studies), task)
    show_history(console(json_file), events)
    write_json(json_file, {"events": [event.to_json() for event in events]})


@app.command("promote")
def promote(
    task: TaskArgument,
    version: VersionArgument,
    studies: StudyOption,
    why: Annotated[str, typer.Option(metavar="WORDS", help="Kept in the history.", prompt="Why")],
    who: WhoOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make a version on disk answer, without a judgement; a running server takes it at the next request."""
    from medai.workflows.families import task_name

    registry, name = _registry(studies), task_name(task)
    left = registry.champion(name).version_id
    now = registry.promote(name, version, who=who or _user(), reason=why)
    console(json_file).print(f"{name}: {now.version_id} answers now, in place of {left}.")
    write_json(json_file, {"task": name, "version_id": now.version_id, "left": left})


@app.command("rollback")
def rollback(
    task: TaskArgument,
    studies: StudyOption,
    why: Annotated[str, typer.Option(metavar="WORDS", help="Kept in the history.")] = "",
    who: WhoOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make the predecessor of a study's model answer again; a running server takes it at the next request."""
    from medai.workflows.families import task_name

    registry, name = _registry(studies), task_name(task)
    left = registry.champion(name).version_id
    now = registry.rollback(name, who=who or _user(), reason=why)
    console(json_file).print(f"{name}: {now.version_id} answers again, {left} stays on disk.")
    write_json(json_file, {"task": name, "version_id": now.version_id, "left": left})


@app.command("pin")
def pin(task: TaskArgument, version: VersionArgument, studies: StudyOption, json_file: JsonOption = None) -> None:
    """Keep a version on disk whatever is published after it."""
    from medai.workflows.families import task_name

    registry, name = _registry(studies), task_name(task)
    registry.pin(name, version)
    console(json_file).print(f"{name}: {version} stays on disk.")
    write_json(json_file, {"task": name, "pinned": list(registry.pinned(name))})


@app.command("unpin")
def unpin(task: TaskArgument, version: VersionArgument, studies: StudyOption, json_file: JsonOption = None) -> None:
    """Let a version be removed again when newer ones need its place."""
    from medai.workflows.families import task_name

    registry, name = _registry(studies), task_name(task)
    registry.unpin(name, version)
    console(json_file).print(f"{name}: {version} may be removed by a later publish.")
    write_json(json_file, {"task": name, "pinned": list(registry.pinned(name))})


def _user() -> str:
    """Who is logged in, where the system says."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def _registry(studies: Path | None) -> ModelRegistry:
    from medai.workflows.models import open_registry

    if studies is not None and not studies.is_dir():
        raise NotFoundError(f"There is no study folder '{studies}'. Check the path.")
    return open_registry(studies)
