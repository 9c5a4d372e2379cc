"""The whole loop without a person: next case, propose, correct, submit, retrain, and the better model answers next.

``medai demo`` plays it on phantoms, whose truth is known. It uses what the server uses (study, strategies, pipeline,
registry, retraining) without HTTP between. Each round is one case; what it gained is in its report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medai.active_learning.strategies import STRATEGIES, Pool, Strategy
from medai.domain import Prediction, Volume
from medai.domain.case_score import CaseScore
from medai.domain.score_table import ScoreTable
from medai.errors import InputError, NotFoundError
from medai.phantom.study import TRUTH_FOLDER
from medai.registry.model_registry import ModelRegistry
from medai.store.study import FINAL, StudyStore
from medai.volume_io.plausibility import read_chest_ct
from medai.volume_io.readers import read_label_map
from medai.workflows.models import open_registry
from medai.workflows.retrain import CLICK_TASK, RetrainConfig, RetrainReport, retrain
from medai.workflows.score_case import score_prediction
from medai.workflows.simulated_annotator import AnnotatedCase, Outliner, annotate_case


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How the loop is played.

    Attributes:
        strategy: picks the next case: a name of ``active_learning.strategies.STRATEGIES``.
        epochs: passes over the labels in each training.
        seed: the same seed plays the same loop on one machine.
        retrain_every: cases submitted between two trainings; the last case is always followed by one.
        max_clicks: most clicks the annotator gives one nodule.
        device: "auto", "cpu" or "cuda".
    """

    strategy: str = "uncertainty"
    epochs: int = 8
    seed: int = 1
    retrain_every: int = 2
    max_clicks: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"There is no strategy '{self.strategy}': choose one of {', '.join(STRATEGIES)}.")
        if self.retrain_every < 1 or self.max_clicks < 1:
            raise InputError(
                f"retrain_every is {self.retrain_every} and max_clicks {self.max_clicks}; each must be 1 or more."
            )


class Proposer(Protocol):
    """Finds and outlines nodules; ``medai.inference.scan.ScanPipeline`` is one."""

    def predict(self, volume: Volume) -> Prediction:
        """The nodules of a scan."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopModels:
    """The champions, loaded.

    Attributes:
        proposer: whole scans.
        outliner: clicks.
    """

    proposer: Proposer
    outliner: Outliner


class Retrainer(Protocol):
    """Trains on what was submitted; ``workflows.retrain.retrain`` is one."""

    def __call__(
        self,
        study: StudyStore,
        registry: ModelRegistry,
        config: RetrainConfig,
        *,
        on_progress: Callable[[Any], None],
        should_stop: Callable[[], bool],
    ) -> RetrainReport:
        """Train, judge, publish a better model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """One case of the loop, and what it gained.

    Attributes:
        number: from 1.
        case_id: the case.
        annotated: what the annotator had to do.
        answered_by: version of the click model that proposed and answered.
        training: what came of the training after this case; None where there was none.
        no_training: why there was none where one was due, else "".
        seconds: wall time of the round.
    """

    number: int
    case_id: str
    annotated: AnnotatedCase
    answered_by: str
    training: RetrainReport | None
    no_training: str
    seconds: float

    @property
    def found(self) -> int:
        """True nodules that a proposal pointed at."""
        return sum(nodule.found for nodule in self.annotated.nodules)

    @property
    def clicks(self) -> int:
        """Clicks in the whole case."""
        return sum(nodule.clicks for nodule in self.annotated.nodules)

    @property
    def proposal_dice(self) -> float | None:
        """Mean Dice of the proposals that pointed at a nodule; None where none did."""
        return _mean([nodule.proposal_dice for nodule in self.annotated.nodules if nodule.found])

    @property
    def first_click_dice(self) -> float | None:
        """Mean Dice after the first click, over the nodules that needed one."""
        return _mean([n.first_click_dice for n in self.annotated.nodules if n.first_click_dice is not None])

    @property
    def final_dice(self) -> float | None:
        """Mean Dice when the annotator stopped clicking."""
        return _mean([nodule.final_dice for nodule in self.annotated.nodules])

    def describe(self) -> str:
        """A few lines for a person."""
        total = len(self.annotated.nodules)
        proposed = f"{self.found} of {total} nodules proposed"
        if self.proposal_dice is not None:
            proposed += f" (Dice {self.proposal_dice:.2f})"
        if self.annotated.false_proposals:
            proposed += f", {self.annotated.false_proposals} false"
        clicked = f"{self.clicks} clicks" if self.clicks != 1 else "1 click"
        if self.first_click_dice is not None:
            clicked += f", first click Dice {self.first_click_dice:.2f}"
        lines = [f"Round {self.number}: {self.case_id} - {proposed}; {clicked}; submitted."]
        if self.training is not None:
            lines.append(f"  Retrained in {self.training.seconds:.0f} s. {self.training.reason}")
        elif self.no_training:
            lines.append(f"  Not retrained: {self.no_training}")
        return "\n".join(lines)

    def table_row(self) -> tuple[str, ...]:
        """Round, case, nodules found, false ones, Dice of proposals, clicks, held-back Dice, the model's fate."""
        training = self.training
        held_back = f"{training.champion_score:.3f} → {training.challenger_score:.3f}" if training else "–"
        outcome = ("published" if training.published else "refused") if training else "–"
        return (
            str(self.number),
            self.case_id,
            f"{self.found} of {len(self.annotated.nodules)}",
            str(self.annotated.false_proposals),
            _shown(self.proposal_dice),
            str(self.clicks),
            held_back,
            outcome,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "round": self.number,
            "case": self.case_id,
            "nodules": len(self.annotated.nodules),
            "found": self.found,
            "missed": len(self.annotated.nodules) - self.found,
            "false_proposals": self.annotated.false_proposals,
            "clicks": self.clicks,
            "proposal_dice": self.proposal_dice,
            "first_click_dice": self.first_click_dice,
            "final_dice": self.final_dice,
            "answered_by": self.answered_by,
            "each_nodule": [asdict(nodule) for nodule in self.annotated.nodules],
            "training": self.training.to_json() if self.training else None,
            "no_training": self.no_training,
            "seconds": self.seconds,
        }


def play_annotation_loop(
    studies: Path,
    config: LoopConfig,
    *,
    on_step: Callable[[str], None],
    load_models: Callable[[ModelRegistry, str], LoopModels] | None = None,
    retrainer: Retrainer = retrain,
    registry: ModelRegistry | None = None,
) -> Iterator[RoundReport]:
    """Annotate every case of a demo study that has none yet, retraining on the way.

    Args:
        studies: a study made by ``phantom.study.make_demo_study``.
        config: strategy, epochs, seed.
        on_step: told in words what happens now.
        load_models: loads the champions; None: this package's own.
        retrainer: trains.
        registry: where models come from; None: the study's own.

    Yields:
        One report a case, as soon as it is done.

    Raises:
        NotFoundError: no case of the study has a known truth.
        ModelError: there are no weights to start with.
    """
    loop = _Loop(studies, config, on_step, load_models or load_champions, retrainer, registry)
    number = 0
    while loop.pool():
        number += 1
        yield loop.play_round(number)
    if number == 0:
        raise NotFoundError(f"No case of {studies} is left to annotate whose truth is known: make a demo study first.")


class _Loop:
    """The study, the champions of the moment, and what they said of each case."""

    def __init__(
        self,
        studies: Path,
        config: LoopConfig,
        on_step: Callable[[str], None],
        load_models: Callable[[ModelRegistry, str], LoopModels],
        retrainer: Retrainer,
        registry: ModelRegistry | None,
    ) -> None:
        self._study = StudyStore(studies)
        self._registry = registry or open_registry(studies)
        self._config = config
        self._on_step = on_step
        self._load_models = load_models
        self._retrainer = retrainer
        self._strategy: Strategy = STRATEGIES[config.strategy]
        self._rng = np.random.default_rng(config.seed)
        self._models: LoopModels | None = None
        self._version_id = ""
        self._predictions: dict[str, Prediction] = {}
        self._scores: dict[str, CaseScore] = {}

    def pool(self) -> list[str]:
        """Cases without a submitted label whose truth is known."""
        return [case_id for case_id in self._study.unlabeled(FINAL) if self._truth_path(case_id).is_file()]

    def play_round(self, number: int) -> RoundReport:
        """Next case, propose, correct, submit and, when it is time, retrain."""
        started_s = time.monotonic()
        models = self._champions()
        case_id = self._next_case(models)
        proposals = self._predict(models, case_id).nodules

        self._on_step(f"Round {number}: annotating {case_id}")
        truth = read_label_map(self._truth_path(case_id))
        annotated = annotate_case(
            self._scan(case_id),
            truth,
            proposals,
            models.outliner,
            max_clicks=self._config.max_clicks,
            rng=self._rng,
        )
        names = [{"name": f"Nodule {segment.value}", "idx": segment.value} for segment in truth.segments]
        info = {"label_info": names, "client_id": "simulated annotator"}
        self._study.save_label(case_id, self._truth_path(case_id), FINAL, info)

        training, no_training = None, ""
        if number % self._config.retrain_every == 0 or not self.pool():
            try:
                training = self._retrain(number)
            except InputError as error:
                no_training = str(error)
        return RoundReport(
            number=number,
            case_id=case_id,
            annotated=annotated,
            answered_by=self._version_id,
            training=training,
            no_training=no_training,
            seconds=time.monotonic() - started_s,
        )

    def _champions(self) -> LoopModels:
        """The models that answer now; a newly published one forgets what the former said."""
        version_id = self._registry.champion(CLICK_TASK).version_id
        if self._models is None or version_id != self._version_id:
            self._on_step(f"Loading model {version_id}")
            self._models = self._load_models(self._registry, self._config.device)
            self._version_id = version_id
            self._predictions.clear()
        return self._models

    def _next_case(self, models: LoopModels) -> str:
        """The strategy's choice; most have the model look at every case first."""
        open_cases, labelled = self.pool(), self._study.labeled(FINAL)
        scores = ScoreTable()
        if self._strategy.needs_scores:
            for case_id in open_cases:
                self._predict(models, case_id)
            # Labelled cases keep what was said when they were open.
            scores = ScoreTable.of(self._scores.values())
        pool = Pool(case_ids=tuple(open_cases), scores=scores, labelled=tuple(labelled))
        chosen = self._strategy.select(pool, self._rng)
        return chosen if chosen is not None else open_cases[0]

    def _predict(self, models: LoopModels, case_id: str) -> Prediction:
        if case_id not in self._predictions:
            self._on_step(f"Looking at {case_id}")
            scan = self._scan(case_id)
            self._predictions[case_id] = models.proposer.predict(scan)
            self._scores[case_id] = score_prediction(self._predictions[case_id], scan)
        return self._predictions[case_id]

    def _retrain(self, number: int) -> RetrainReport:
        return self._retrainer(
            self._study,
            self._registry,
            RetrainConfig(epochs=self._config.epochs, device=self._config.device, seed=self._config.seed),
            on_progress=lambda progress: self._on_step(f"Round {number}: {progress.describe()}"),
            should_stop=lambda: False,
        )

    def _scan(self, case_id: str) -> Volume:
        scan = read_chest_ct(self._study.image_path(case_id))
        return Volume(geometry=scan.geometry, image_hu=scan.image_hu, case_id=case_id, header=scan.header)

    def _truth_path(self, case_id: str) -> Path:
        return self._study.folder / TRUTH_FOLDER / f"{case_id}.nii.gz"


def load_champions(registry: ModelRegistry, device: str) -> LoopModels:
    """Load the click and the detection champion of a registry."""
    from medai.inference.click import ClickSegmenter
    from medai.inference.detect import load_detector
    from medai.inference.scan import ScanPipeline
    from medai.networks.engine import load_engine

    clicks = ClickSegmenter(load_engine(registry.champion(CLICK_TASK).weights_path, device=device))
    detector = load_detector(registry.champion("nodule_detection").weights_path, device=device)
    return LoopModels(proposer=ScanPipeline(detector, clicks), outliner=clicks)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _shown(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else "–"
