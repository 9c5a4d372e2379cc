"""The model families that a study can retrain: how each reads the labels, trains a challenger and is judged.

``workflows.retrain`` is the same for all of them; a family says what differs. Families are listed by hand in
``FAMILIES`` and imported when they are asked for: each brings its network library with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from medai.domain.annotation import Annotation
from medai.errors import InputError, NotFoundError
from medai.evaluation.promotion import PromotionRules
from medai.workflows.labelled_examples import E, LabelledExamples, LabelledStudy

E_contra = TypeVar("E_contra", contravariant=True)

CLICK_TASK = "nodule_click"
DETECTION_TASK = "nodule_detection"
CLASSIFICATION_TASK = "nodule_classification"
TASKS = (CLICK_TASK, DETECTION_TASK, CLASSIFICATION_TASK)

ALIASES = {
    "segmentation": CLICK_TASK,
    "nodule_segmentation": CLICK_TASK,
    "detection": DETECTION_TASK,
    "classification": CLASSIFICATION_TASK,
}
"""Other names of the tasks: the short ones of ``medai evaluate``, and what the server's first trainer used to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """What a training run is asked for.

    Attributes:
        epochs: passes over the labels.
        device: "auto", "cpu" or "cuda".
        seed: the same seed and labels train the same model on one machine.
        rules: the gate's thresholds; None: the family's.
    """

    epochs: int = 20
    device: str = "auto"
    seed: int = 1
    rules: PromotionRules | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"A training of {self.epochs} epochs learns nothing: ask for 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """One epoch of a training: its number from 1, how many there are, the mean loss, and how good the epoch was.

    ``validation`` is the score (0–1) on the nodules that choose the epoch, not on those that judge; None where a family
    chooses none.
    """

    epoch: int
    total_epochs: int
    loss: float | None
    validation: float | None = None


class Collector(Protocol[E]):
    """Reads a study's labels."""

    def __call__(self, study: LabelledStudy, *, should_stop: Callable[[], bool]) -> LabelledExamples[E]:
        """The examples to learn from and to judge by, no patient on both sides; InputError where they are too few."""
        ...


class ChallengerTrainer(Protocol[E_contra]):
    """Trains a challenger and says where its weights lie."""

    def __call__(
        self,
        examples: Sequence[E_contra],
        *,
        start_from: Path,
        output_folder: Path,
        config: RetrainConfig,
        on_epoch: Callable[[EpochFigures], None],
        should_stop: Callable[[], bool],
    ) -> Path:
        """Train on ``examples`` from the weights ``start_from``; write only below ``output_folder``."""
        ...


class ExampleScorer(Protocol[E_contra]):
    """Scores a model."""

    def __call__(self, weights_path: Path, examples: Sequence[E_contra], *, device: str) -> Mapping[str, float]:
        """Score (0–1, higher is better) by example; the same questions for every model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OldExamples(Generic[E]):
    """A fixed set of old examples, which no model may get worse on.

    Attributes:
        examples: none of them of a patient that trains.
        groups_of_case: example's case id to what it is grouped by and its group: ``{"size": "6-8 mm"}``.
        truth_of_case: example's case id to a digest of what it is scored against; scores of another truth, or of none
            that is known, are not compared over time.
    """

    examples: tuple[E, ...]
    groups_of_case: Mapping[str, Mapping[str, str]]
    truth_of_case: Mapping[str, str] = field(default_factory=dict)


class OldExampleSource(Protocol[E]):
    """Keeps a family's old examples for a study."""

    def __call__(
        self, study: LabelledStudy, held_back: Sequence[E], *, should_stop: Callable[[], bool]
    ) -> OldExamples[E]:
        """The old examples; the first call chooses them, and they stay. ``held_back``: those that judge today."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson(Generic[E]):
    """What a challenger learns from, old skills included.

    Attributes:
        examples: the study's own, weighted.
        train: the family's trainer with everything else that it is shown.
    """

    examples: tuple[E, ...]
    train: ChallengerTrainer[E]


class AnnotationLookup(Protocol):
    """Tells how a study's label came about; the annotation log is one."""

    def __call__(self, case_id: str) -> Annotation | None:
        """The current accepted annotation of a case; None where nothing is known of it."""
        ...


class LessonPlan(Protocol[E]):
    """Decides what a training mixes with the new labels."""

    def __call__(
        self,
        examples: LabelledExamples[E],
        *,
        study: LabelledStudy,
        trained_before: frozenset[str],
        annotation_of: AnnotationLookup | None,
        should_stop: Callable[[], bool],
    ) -> Lesson[E]:
        """Plan one training.

        Args:
            examples: the study's labels.
            study: where they come from.
            trained_before: the study's cases that the champion has learned from.
            annotation_of: how each label came about; None where no history is kept.
            should_stop: asked now and then.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(Generic[E]):
    """One sort of model.

    Attributes:
        task: its name in the registry.
        measure: what its score is, in the words of a verdict: "Dice".
        collect: reads the labels.
        train: trains.
        score: judges.
        rules: the gate's thresholds for this score.
        old_examples: keeps the fixed set of old examples; None: the family has none and is judged on the study alone.
        plan: mixes in what must not be forgotten; None: the family learns from the study's labels alone.
    """

    task: str
    measure: str
    collect: Collector[E]
    train: ChallengerTrainer[E]
    score: ExampleScorer[E]
    rules: PromotionRules = field(default_factory=PromotionRules)
    old_examples: OldExampleSource[E] | None = None
    plan: LessonPlan[E] | None = None


def _click() -> Family[Any]:
    from medai.workflows.click_challenger import CLICK_FAMILY

    return CLICK_FAMILY


def _detection() -> Family[Any]:
    from medai.workflows.detection_family import DETECTION_FAMILY

    return DETECTION_FAMILY


def _classification() -> Family[Any]:
    from medai.workflows.classification_challenger import CLASSIFICATION_FAMILY

    return CLASSIFICATION_FAMILY


FAMILIES: dict[str, Callable[[], Family[Any]]] = {
    CLICK_TASK: _click,
    DETECTION_TASK: _detection,
    CLASSIFICATION_TASK: _classification,
}
"""Task to the function that imports its family."""


def task_name(name: str) -> str:
    """The task that a name means: its own, or one of ``ALIASES``.

    Raises:
        NotFoundError: no task's name; the message lists them.
    """
    task = ALIASES.get(name, name)
    if task not in TASKS:
        raise NotFoundError(f"There is no task '{name}'. There are: {', '.join(TASKS)}.")
    return task


def family_of(name: str) -> Family[Any]:
    """The family of a task, by its name or an alias of it."""
    return FAMILIES[task_name(name)]()
