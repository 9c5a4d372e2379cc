"""Model cards: what a model is, what it was trained on, how good it is and where it fails.

``StarterCard`` is what ``card.json`` beside packaged weights must hold; a model a study has trained has a shorter card
(``StudyCard``): where it comes from, what it has seen, and why it was published. ``read_card`` reads either.

The figures of a starter card are of held-back patients alone. Everything in it is written by the commands that measure
(``medai train TASK``), nothing by hand but the words on data, training and limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medai.errors import ModelError
from medai.registry.version_files import STARTER, ModelVersion, sha256_of

Words = Annotated[str, Field(min_length=1)]
C = TypeVar("C", bound=BaseModel)
Finite = Annotated[float, Field(allow_inf_nan=False)]

WORST_CASES = 10
"""So many failures are drawn."""
LARGEST_PICTURE_BYTES = 40 << 10
LARGEST_MONTAGE_BYTES = 400 << 10


class _Part(BaseModel):
    """A part of a card; a card may hold more than is asked for."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CardData(_Part):
    """What a model was trained and measured on."""

    name: Words
    licence: Words
    attribution: Words
    truth: Words
    split: Words


class CardTraining(_Part):
    """How a model was trained: in words, and the configuration that ``medai train TASK`` runs again."""

    how: Words
    config: Annotated[dict[str, Any], Field(min_length=1)]


class CardFigure(_Part):
    """One figure with its interval.

    Attributes:
        name: what was measured, in words.
        value: the figure.
        low: lower end of the 95 % interval; None where there is none.
        high: upper end of it.
        n: over how many nodules or scans.
    """

    name: Words
    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int | None = None


class CardGroups(_Part):
    """One figure by subgroup.

    Attributes:
        by: what the held-back cases are grouped by ("size", "texture").
        measure: the figure's name.
        rows: the groups; ``name`` is the group's.
    """

    by: Words
    measure: Words
    rows: Annotated[tuple[CardFigure, ...], Field(min_length=1)]


class CardMetrics(_Part):
    """The figures of a model.

    Attributes:
        what: what was measured on whom, and how the intervals were drawn.
        figures: the headline figures, most telling first.
        groups: by subgroup.
    """

    what: Words
    figures: Annotated[tuple[CardFigure, ...], Field(min_length=1)]
    groups: Annotated[tuple[CardGroups, ...], Field(min_length=1)]


class CardFailure(_Part):
    """One of the worst cases.

    Attributes:
        case_id: the case, by its public id.
        words: what went wrong, with the figures.
        picture: file below the card's folder.
    """

    case_id: Words
    words: Words
    picture: Words


class CardFailures(_Part):
    """The known failures of a model.

    Attributes:
        what: which cases these are.
        in_common: measured: how they differ from the other held-back cases, a sentence each.
        montage: all of them in one picture, a file below the card's folder.
        cases: the worst first.
    """

    what: Words
    in_common: Annotated[tuple[Words, ...], Field(min_length=1)]
    montage: Words
    cases: Annotated[tuple[CardFailure, ...], Field(min_length=1, max_length=WORST_CASES)]


class StarterCard(_Part):
    """The card of weights that travel in the package."""

    task: Words
    version_id: Words
    name: Words
    date: Words
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    data: CardData
    training: CardTraining
    metrics: CardMetrics
    known_failures: CardFailures
    limits: Annotated[tuple[Words, ...], Field(min_length=1)]


class StudyCard(_Part):
    """The card of a model that a study has trained.

    Attributes:
        version_id: the version.
        trained_from: the version it started from.
        trained_on: cases of the study it has seen.
        judged_on: cases of the study, of other patients, that it was compared with its predecessor on.
        label_sha256: case of the study to the sha256 of its label's file, of both sorts of cases.
        split_sha256: of the file that says which patient trains and which judges.
        epochs: passes over the labels.
        seed: of the training.
        training_config: what the training was asked for; the network's own configuration is in the weights' file.
        published_at: UTC.
    """

    version_id: Words
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    trained_from: str = ""
    trained_on: tuple[str, ...] = ()
    judged_on: tuple[str, ...] = ()
    label_sha256: dict[str, str] = Field(default_factory=dict)
    split_sha256: str = ""
    epochs: int | None = None
    seed: int | None = None
    training_config: dict[str, Any] = Field(default_factory=dict)
    published_at: str = ""


def read_card(version: ModelVersion) -> StarterCard | StudyCard:
    """The card of a version.

    Raises:
        ModelError: the card lacks what a card of its sort must hold; the message names it.
    """
    if version.version_id == STARTER:
        return _checked(StarterCard, version.card, version.task)
    return _checked(StudyCard, version.card, version.task)


def check_starter(folder: Path, *, task: str | None = None) -> StarterCard:
    """Check a starter's folder: a complete card, weights with its sha256, and every picture it names.

    Args:
        folder: holds card, weights and pictures.
        task: what the card must be of; None: what the folder is called.

    Raises:
        ModelError: what is wrong, in words.
    """
    task = task or folder.name
    card = _checked(StarterCard, json.loads((folder / "card.json").read_text(encoding="utf-8")), task)
    if card.task != task:
        raise ModelError(f"The card in {folder} is of task '{card.task}'.")
    actual = sha256_of(folder / "weights.safetensors")
    if actual != card.weights_sha256:
        raise ModelError(
            f"The card in {folder} is of other weights: it says {card.weights_sha256}, they have {actual}."
        )
    for name, largest in picture_names(card).items():
        path = folder / name
        if not path.is_file() or path.suffix != ".png":
            raise ModelError(f"The card in {folder} names the picture {name}, which is not there as a PNG file.")
        if path.stat().st_size > largest:
            raise ModelError(
                f"{path} has {path.stat().st_size >> 10} KB, more than {largest >> 10} KB: draw it smaller."
            )
    return card


def picture_names(card: StarterCard | StudyCard) -> dict[str, int]:
    """The pictures a card names, below its folder, and the most bytes each may have."""
    if isinstance(card, StudyCard):
        return {}
    failures = card.known_failures
    single = {failure.picture: LARGEST_PICTURE_BYTES for failure in failures.cases}
    return {failures.montage: LARGEST_MONTAGE_BYTES, **single}


def _checked(kind: type[C], content: Mapping[str, Any], task: str) -> C:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in found['loc'])}: {found['msg'].lower()}" for found in error.errors()[:5]
        )
        raise ModelError(f"The card of '{task}' is not complete ({wrong}).") from error
