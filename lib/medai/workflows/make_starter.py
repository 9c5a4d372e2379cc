"""``medai train TASK --data DIR``: a starter from scratch, by the one recorded configuration, measured, with its card.

1. The family's recipe trains on the patients that are not held back; its state lies in ``training/`` of the output
   folder, so that an interrupted run goes on where it was.
2. The weights are measured on the held-back patients, and the ten worst cases are drawn.
3. Weights, card and pictures lie in the output folder as they do in the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from medai import __version__
from medai.errors import InputError, NotFoundError
from medai.registry.cards import StarterCard, check_starter
from medai.registry.version_files import CARD_FILE, STARTER, WEIGHTS_FILE, sha256_of
from medai.volume_io.atomic import atomic_path
from medai.workflows.families import CLASSIFICATION_TASK, CLICK_TASK, DETECTION_TASK, task_name
from medai.workflows.measured_model import Measured

NODULES, CUBES = "lidc_nodules", "lidc_cubes"
NODULES_TABLE = "nodules.csv"
WORK_FOLDER = "training"
LOG_FILE = "training.log"

LIDC_ATTRIBUTION = (
    "Armato SG III, McLennan G, Bidaut L, et al. Data From LIDC-IDRI. The Cancer Imaging Archive, 2015. "
    "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX"
)
LIDC_LICENCE = "CC BY 3.0"
SPLIT_WORDS = (
    "by patient: SHA-256 of the patient id, one in five held back, the same for every family; held-back patients are "
    "never trained on and give the figures"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterOptions:
    """What may differ from the recorded configuration.

    Attributes:
        epochs: passes, or what the family counts; None: as recorded.
        device: "auto", "cpu" or "cuda".
        seed: None: as recorded.
        start_from: weights to go on from; None: from scratch.
        resume: go on from the state in the output folder, where there is one.
        members: networks of an ensemble; None: as recorded.
        processes: that train one network together; only the click network can.
    """

    epochs: int | None = None
    device: str = "auto"
    seed: int | None = None
    start_from: Path | None = None
    resume: bool = True
    members: int | None = None
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterStep:
    """How far a training is: in words and, where it is known, in steps done and in all."""

    words: str
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStarter:
    """What a recipe made.

    Attributes:
        weights_path: the network.
        config: of the training, JSON-ready.
        how: in words.
    """

    weights_path: Path
    config: Mapping[str, Any]
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterFacts:
    """What a card says of a family in words.

    Attributes:
        name: what the model does.
        data: ``data`` of the card: name, licence, attribution, truth, split.
        limits: what it is not good at.
    """

    name: str
    data: Mapping[str, str]
    limits: tuple[str, ...]


Tell = Callable[[StarterStep], None]
Stop = Callable[[], bool]


class StarterRecipe(Protocol):
    """How one family's starter is made and measured."""

    @property
    def facts(self) -> StarterFacts:
        """What the card says in words."""
        ...

    def train(
        self, data: Path, folder: Path, options: StarterOptions, *, on_step: Tell, should_stop: Stop
    ) -> TrainedStarter:
        """Train by the recorded configuration; write only below ``folder``."""
        ...

    def measure(
        self, data: Path, weights_path: Path, card_folder: Path, *, device: str, on_step: Tell, should_stop: Stop
    ) -> Measured:
        """Measure on the held-back patients and draw the worst cases into ``card_folder``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterOutcome:
    """A starter that was made.

    Attributes:
        task: the task.
        folder: holds weights, card, pictures and the log.
        card: the card.
        seconds: wall time.
    """

    task: str
    folder: Path
    card: StarterCard
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task,
            "folder": str(self.folder),
            "weights_sha256": self.card.weights_sha256,
            "figures": [figure.model_dump(exclude_none=True) for figure in self.card.metrics.figures],
            "seconds": round(self.seconds, 1),
        }


def _click() -> StarterRecipe:
    from medai.workflows.recipe_click import ClickRecipe

    return ClickRecipe()


def _detection() -> StarterRecipe:
    from medai.workflows.recipe_detection import DetectionRecipe

    return DetectionRecipe()


def _classification() -> StarterRecipe:
    from medai.workflows.recipe_classification import ClassificationRecipe

    return ClassificationRecipe()


RECIPES: dict[str, Callable[[], StarterRecipe]] = {
    CLICK_TASK: _click,
    DETECTION_TASK: _detection,
    CLASSIFICATION_TASK: _classification,
}
"""Task to the function that imports its recipe."""


def make_starter(
    name: str,
    data: Path,
    folder: Path,
    options: StarterOptions,
    *,
    card_only: bool = False,
    recipe: StarterRecipe | None = None,
    on_step: Tell = lambda step: None,
    should_stop: Stop = lambda: False,
) -> StarterOutcome:
    """Train a starter, measure it and write its card.

    Args:
        name: the task, or an alias.
        data: a folder with ``lidc_nodules`` (and ``lidc_cubes`` …), or one like ``lidc_nodules`` itself.
        folder: takes everything.
        options: what differs from the recorded configuration.
        card_only: measure the weights that lie in ``folder`` and write card and pictures anew.
        recipe: how; None: the task's own.
        on_step: told of every step.
        should_stop: asked now and then.

    Raises:
        InputError: the data cannot be used, or ``folder`` has no weights to measure.
        CancelledByUserError: ``should_stop`` said so; the state is kept.
    """
    started = time.monotonic()
    task = task_name(name)
    if options.processes > 1 and task != CLICK_TASK:
        raise InputError(f"{task} trains in one process; only {CLICK_TASK} can train in {options.processes}.")
    recipe = recipe or RECIPES[task]()
    work = folder / WORK_FOLDER
    root = data_root(data, work)
    resumed = (folder / LOG_FILE).is_file()
    tell = _logged(folder / LOG_FILE, on_step)
    weights = folder / WEIGHTS_FILE
    if card_only:
        training = _recorded_training(folder)
    else:
        trained = recipe.train(root, work, options, on_step=tell, should_stop=should_stop)
        with atomic_path(weights) as temporary:
            shutil.copyfile(trained.weights_path, temporary)
        # A run that goes on from another does not know how long that took.
        minutes = {} if resumed else {"minutes": round((time.monotonic() - started) / 60, 1)}
        training = {
            **minutes,
            "how": f"{trained.how} {_machine()}.",
            "config": dict(trained.config),
        }
    measured = recipe.measure(root, weights, folder, device=options.device, on_step=tell, should_stop=should_stop)
    write_card(folder, task, recipe.facts, training, measured)
    return StarterOutcome(
        task=task, folder=folder, card=check_starter(folder, task=task), seconds=time.monotonic() - started
    )


def write_card(
    folder: Path, task: str, facts: StarterFacts, training: Mapping[str, Any], measured: Measured
) -> dict[str, Any]:
    """Write ``card.json`` beside the weights it describes; returns the card."""
    card = {
        "task": task,
        "version_id": STARTER,
        "name": facts.name,
        "date": datetime.now(UTC).date().isoformat(),
        "medai_version": __version__,
        "weights_sha256": sha256_of(folder / WEIGHTS_FILE),
        "data": dict(facts.data),
        "training": dict(training),
        "metrics": measured.metrics_json(),
        "known_failures": dict(measured.failures),
        "limits": list(facts.limits),
    }
    with atomic_path(folder / CARD_FILE) as temporary:
        text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return card


def data_root(data: Path, work: Path) -> Path:
    """The folder that holds ``lidc_nodules``, whether it was named or the one inside.

    Args:
        data: what the user named.
        work: where a folder of another name is linked to from.

    Raises:
        NotFoundError: no such folder.
        InputError: neither the one nor the other; the message says what is looked for.
    """
    if not data.is_dir():
        raise NotFoundError(f"There is no folder '{data}'. Check the path.")
    data = data.resolve()
    if (data / NODULES / NODULES_TABLE).is_file():
        return data
    missing = [name for name in ("images", "masks", NODULES_TABLE) if not (data / name).exists()]
    if not missing:
        if data.name == NODULES:
            return data.parent
        # Recipes look for data sets by name: one that is called otherwise is linked to under that name.
        linked = work / f"data-{hashlib.sha256(str(data).encode()).hexdigest()[:12]}"
        linked.mkdir(parents=True, exist_ok=True)
        link = linked / NODULES
        if not link.is_symlink():
            link.symlink_to(data, target_is_directory=True)
        return linked
    raise InputError(
        f"{data} holds no nodules to train on: it should hold {NODULES}/ (with images/, masks/ and {NODULES_TABLE}), "
        f"or these three itself; {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    )


def _recorded_training(folder: Path) -> dict[str, Any]:
    """``training`` of the card that lies there."""
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"There are no weights at {folder / WEIGHTS_FILE} to measure.")
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        return dict(card["training"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CARD_FILE} does not say how the weights were trained ({error}): a card needs its 'training' "
            "with 'how' and 'config'."
        ) from error


def _logged(path: Path, on_step: Tell) -> Tell:
    """``on_step``, and each new line of words in a file with the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = ""

    def tell(step: StarterStep) -> None:
        nonlocal said
        if step.words != said:
            said = step.words
            with path.open("a", encoding="utf-8") as log:
                log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {step.words}\n")
        on_step(step)

    return tell


def _machine() -> str:
    return f"On {len(os.sched_getaffinity(0))} cores of {platform.machine()}"
