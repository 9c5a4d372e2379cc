"""``medai train``: retrain on a study's submitted labels, or make a starter from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medai.cli.output import JsonOption, console, progress_bar, stoppable, write_json
from medai.cli.targets import output_folder
from medai.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from rich.console import Console

STUDY_EPOCHS = 20
OUTPUT_FOLDER = Path("medai-models")


def train(
    target: Annotated[
        str,
        typer.Argument(
            metavar="STUDIES|TASK",
            help="A study folder with submitted labels, or (with --data) a task: nodule_click, nodule_detection, "
            "nodule_classification.",
        ),
    ],
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Study: which model learns; default: nodule_click.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Task: folder with lidc_nodules/ (images/, masks/, nodules.csv), or that."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Task: takes all; default: medai-models/TASK.",
            callback=output_folder,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Passes; default: 20 for a study, as recorded for a task."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed trains the same model on one machine.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="starter|scratch|FILE", help="Task: weights to go on from.")
    ] = None,
    resume: Annotated[
        bool | None, typer.Option("--resume/--anew", help="Task: go on from the state in FOLDER (default), or not.")
    ] = None,
    members: Annotated[int | None, typer.Option(min=1, max=10, help="Task: networks of an ensemble.")] = None,
    card_only: Annotated[
        bool, typer.Option("--card-only", help="Task: measure FOLDER's weights and write their card anew.")
    ] = False,
    tracking: Annotated[
        str | None,
        typer.Option(metavar="local|off|URL", help="Study: where MLflow keeps the run; default: in the study."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Click network: processes that train together, one a GPU.")
    ] = 1,
    keep: Annotated[int | None, typer.Option(min=2, help="Study: model versions kept on disk; default: 5.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Retrain a study's model on its submitted labels (it is published if it is better), or make a starter.

    medai train STUDIES [--task TASK] retrains; medai train TASK --data DIR makes the packaged starter again.
    """
    of_task = {
        "--out": out,
        "--from": start_from,
        "--resume/--anew": resume,
        "--members": members,
        "--card-only": card_only or None,
    }
    if data is not None and is_task(target, data):
        if task is not None:
            raise InputError(f"--task belongs to a study folder; the task named here is '{target}'.")
        if tracking is not None or keep is not None:
            raise InputError(f"--tracking and --keep belong to a study folder; the task named here is '{target}'.")
        outcome = _make_starter(
            target,
            data,
            out,
            start_from=start_from,
            card_only=card_only,
            on_screen=console(json_file),
            changed={
                "epochs": epochs,
                "device": device,
                "seed": seed,
                "resume": resume is not False,
                "members": members,
                "processes": processes,
            },
        )
    else:
        is_task(target, None)
        given = [name for name, value in of_task.items() if value is not None]
        if given:
            raise InputError(
                f"{', '.join(given)} belongs to 'medai train TASK --data DIR'; '{target}' is a study folder."
            )
        outcome = _retrain(
            Path(target),
            task,
            {
                "epochs": epochs or STUDY_EPOCHS,
                "device": device,
                "seed": 1 if seed is None else seed,
                "processes": processes,
            },
            tracking=tracking or "local",
            keep=keep,
            on_screen=console(json_file),
        )
    write_json(json_file, outcome)


def is_task(target: str, data: Path | None) -> bool:
    """Whether a task's starter is meant rather than a study folder.

    Args:
        target: what was named.
        data: where its data are; a task needs it and a study has none.

    Raises:
        InputError: it may be either, or the data are missing or too much.
        NotFoundError: it is neither.
    """
    from medai.workflows.families import ALIASES, TASKS

    names_task, is_folder = target in (*TASKS, *ALIASES), Path(target).is_dir()
    if data is not None:
        if not names_task and is_folder:
            raise InputError(f"--data belongs to a task ({', '.join(TASKS)}); '{target}' is a folder.")
        if not names_task:
            raise NotFoundError(f"There is no task '{target}'. There are: {', '.join(TASKS)}.")
        return True
    if names_task and is_folder:
        raise InputError(
            f"'{target}' is a task and a folder: write ./{target} for the study, or add --data DIR "
            "to make the task's starter."
        )
    if names_task:
        raise InputError(f"Making the starter of '{target}' takes real nodules: add --data DIR.")
    if not is_folder:
        raise NotFoundError(f"'{target}' is neither a study folder nor a task ({', '.join(TASKS)}).")
    return False


def _retrain(
    studies: Path, task: str | None, values: dict[str, Any], *, tracking: str, keep: int | None, on_screen: Console
) -> dict[str, Any]:
    from medai.registry.keep_policy import DEFAULT_KEEP
    from medai.store.study import StudyStore
    from medai.workflows.annotation_history import recorded_annotations
    from medai.workflows.families import CLICK_TASK, family_of
    from medai.workflows.found_labels import look_for_labels
    from medai.workflows.models import open_registry
    from medai.workflows.retrain import RetrainConfig, RetrainProgress, retrain
    from medai.workflows.run_tracking import resolve_tracking, trackers_for

    tracker = trackers_for(studies, resolve_tracking(tracking))
    config, family = RetrainConfig(**values), family_of(task or CLICK_TASK)
    kept = "The model in use stays. The epochs done are kept for a day: the same command with the same labels goes on."
    with stoppable(kept), progress_bar(on_screen) as bar:
        shown = bar.add_task("Training", total=config.epochs)

        def show(step: RetrainProgress) -> None:
            bar.update(shown, completed=step.epoch, total=max(1, step.total_epochs), description=step.describe())

        study = StudyStore(studies)
        look_for_labels(study)
        report = retrain(
            study,
            open_registry(studies, keep=keep or DEFAULT_KEEP),
            config,
            on_progress=show,
            should_stop=lambda: False,
            family=family,
            tracker=tracker,
            annotation_of=recorded_annotations(studies),
        )
    mark = "[green]published[/]" if report.published else "[yellow]not published[/]"
    on_screen.print(f"{mark}: {report.reason}")
    return report.to_json()


def _make_starter(
    name: str,
    data: Path,
    out: Path | None,
    *,
    start_from: str | None,
    card_only: bool,
    on_screen: Console,
    changed: dict[str, Any],
) -> dict[str, Any]:
    from medai.cli.card_screen import figure_words
    from medai.workflows.families import task_name
    from medai.workflows.make_starter import StarterOptions, StarterStep, make_starter

    task = task_name(name)
    folder = out or OUTPUT_FOLDER / task
    options = StarterOptions(start_from=_start(task, start_from), **changed)
    kept = f"What was reached is in {folder}: the same command goes on, with --anew it begins anew."
    with stoppable(kept), progress_bar(on_screen) as bar:
        shown = bar.add_task("Starting", total=None)

        def show(step: StarterStep) -> None:
            bar.update(shown, completed=step.done, total=step.total, description=step.words)

        outcome = make_starter(task, data, folder, options, card_only=card_only, on_step=show)
    for figure in outcome.card.metrics.figures:
        on_screen.print(f"{figure.name}: [bold]{figure_words(figure)}[/]")
    on_screen.print(f"Weights, card and pictures: {folder}.")
    return outcome.to_json()


def _start(task: str, named: str | None) -> Path | None:
    """The weights to go on from; None for scratch."""
    if named in (None, "scratch"):
        return None
    if named == "starter":
        from medai.workflows.models import open_registry

        return open_registry(None).champion(task).weights_path
    path = Path(str(named))
    if not path.is_file():
        raise InputError(f"--from takes 'starter', 'scratch' or a weights file; there is no file '{named}'.")
    return path
