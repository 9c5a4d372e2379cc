"""The models a study answers with and their cards, for the command line and the server."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.errors import ModelError, NotFoundError, StorageError
from medai.registry.cards import CardFigure, StarterCard, StudyCard, picture_names, read_card
from medai.registry.history import HistoryEvent
from medai.registry.model_registry import ModelRegistry
from medai.registry.version_files import STARTER, ModelVersion
from medai.workflows.families import TASKS, task_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """One task's model in a line.

    Attributes:
        task: the task.
        version_id: the version that answers; "" where there are no weights.
        versions: those on disk that can be gone back to or were tried, oldest first.
        pinned: those of them that are never removed.
        figure: its first figure, None for a model that has none on its card.
        since: when it was made or published.
        words: what it is, or why there is none.
    """

    task: str
    version_id: str
    versions: tuple[str, ...]
    pinned: tuple[str, ...] = ()
    figure: CardFigure | None
    since: str
    words: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        figure = None if self.figure is None else self.figure.model_dump(include={"name", "value", "low", "high", "n"})
        return {
            "task": self.task,
            "version_id": self.version_id,
            "versions": list(self.versions),
            "pinned": list(self.pinned),
            "figure": figure,
            "since": self.since,
            "words": self.words,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCard:
    """A version with its card, checked.

    Attributes:
        version: the version.
        card: its card.
        pictures: name below the card's folder to the file.
    """

    version: ModelVersion
    card: StarterCard | StudyCard
    pictures: dict[str, Path]

    def to_json(self) -> dict[str, Any]:
        """The card as it is on disk, with the version and why it was published."""
        return {
            "task": self.version.task,
            "version_id": self.version.version_id,
            "card": dict(self.version.card),
            "verdict": dict(self.version.verdict),
            "pictures": {name: str(path) for name, path in self.pictures.items()},
        }


def list_models(registry: ModelRegistry) -> list[ModelSummary]:
    """Every task with the model that answers for it."""
    return [_summary(registry, task) for task in TASKS]


def shown_card(registry: ModelRegistry, task: str, version_id: str | None = None) -> ShownCard:
    """The card of a task's model.

    Args:
        registry: of a study, or of the starters.
        task: its name or an alias.
        version_id: a version on disk; None: the one that answers.

    Raises:
        NotFoundError: no such task or version.
        ModelError: there are no weights, or the card is not complete.
    """
    task = task_name(task)
    version = registry.champion(task) if version_id is None else _version(registry, task, version_id)
    card = read_card(version)
    folder = version.weights_path.parent
    return ShownCard(version=version, card=card, pictures={name: folder / name for name in picture_names(card)})


def listed_history(registry: ModelRegistry, task: str) -> tuple[HistoryEvent, ...]:
    """Everything that was decided about a task's models, oldest first.

    Args:
        registry: of a study.
        task: its name or an alias.

    Raises:
        NotFoundError: no such task.
        StorageError: the history cannot be read.
    """
    return registry.history(task_name(task))


def _version(registry: ModelRegistry, task: str, version_id: str) -> ModelVersion:
    found = {version.version_id: version for version in registry.versions(task)}
    if version_id not in found:
        raise NotFoundError(f"There is no version '{version_id}' of '{task}'. There are: {', '.join(found) or 'none'}.")
    return found[version_id]


def _summary(registry: ModelRegistry, task: str) -> ModelSummary:
    versions = tuple(version.version_id for version in registry.versions(task))
    pinned = _pinned(registry, task)
    version_id = ""
    figure: CardFigure | None
    try:
        version = registry.champion(task)
        version_id = version.version_id
        card = read_card(version)
    except ModelError as error:
        words = str(error)
        return ModelSummary(
            task=task, version_id=version_id, versions=versions, pinned=pinned, figure=None, since="", words=words
        )
    if isinstance(card, StarterCard):
        figure, since, words = card.metrics.figures[0], card.date, card.name
    else:
        since = card.published_at
        words = f"trained from {card.trained_from or STARTER} on {len(card.trained_on)} cases of the study"
        figure = _verdict_figure(version)
    return ModelSummary(
        task=task,
        version_id=version.version_id,
        versions=versions,
        pinned=pinned,
        figure=figure,
        since=since,
        words=words,
    )


def _pinned(registry: ModelRegistry, task: str) -> tuple[str, ...]:
    """The pinned versions; a damaged list of them is told in the log and takes no card with it."""
    try:
        return registry.pinned(task)
    except StorageError as error:
        logger.warning("%s", error)
        return ()


def _verdict_figure(version: ModelVersion) -> CardFigure | None:
    """What the gate measured on the study's held-back patients."""
    figures = version.verdict.get("figures", {})
    if "challenger_mean" not in figures:
        return None
    name = f"{version.verdict.get('measure', 'Dice')} on the study's held-back patients"
    return CardFigure(name=name, value=figures["challenger_mean"], n=figures.get("case_count"))
