"""The second trip: labels come back and train a challenger; where it beats the champion, it is published.

1. Collect the submitted nodules; patients are held back by ``FrozenSplit``, so the same ones judge every round.
2. Judge the champion on the held-back patients.
3. Train a challenger from the champion's weights on the other patients.
4. Judge the challenger on the same nodules with the same simulated clicks.
5. Decide (``evaluation.promotion``), and publish only a better one.

Without a labelled patient on both sides nothing is trained: a model that cannot be judged could not be published, and
minutes of an annotator's time would be for nothing. ``FrozenSplit`` sees to it that two patients are enough.

The champion stays whatever happens: refused, stopped, killed, disk full.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medai import __version__
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError
from medai.evaluation.promotion import PromotionRules, Verdict, judge
from medai.registry.model_registry import ModelRegistry
from medai.registry.version_files import ModelVersion
from medai.workflows.labelled_nodules import LabelledNodules, LabelledStudy, collect_labelled_nodules
from medai.workflows.training_runs import RetrainProgress, Stage, TrainingRun, training_run

__all__ = ["RetrainConfig", "RetrainProgress", "RetrainReport", "retrain"]

logger = logging.getLogger(__name__)

CLICK_TASK = "nodule_click"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """What a training run is asked for.

    Attributes:
        epochs: passes over the labelled nodules.
        device: "auto", "cpu" or "cuda".
        seed: the same seed and labels train the same model on one machine.
        rules: the gate's thresholds.
    """

    epochs: int = 20
    device: str = "auto"
    seed: int = 1
    rules: PromotionRules = field(default_factory=PromotionRules)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"A training of {self.epochs} epochs learns nothing: ask for 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """One epoch of a training: its number from 1, how many there are, and the mean loss."""

    epoch: int
    total_epochs: int
    loss: float | None


class ChallengerTrainer(Protocol):
    """Trains a challenger and says where its weights lie."""

    def __call__(
        self,
        nodules: Sequence[ClickCase],
        *,
        start_from: Path,
        output_folder: Path,
        config: RetrainConfig,
        on_epoch: Callable[[EpochFigures], None],
        should_stop: Callable[[], bool],
    ) -> Path:
        """Train on ``nodules`` from the weights ``start_from``; write only below ``output_folder``."""
        ...


class NoduleScorer(Protocol):
    """Scores a model's outlines."""

    def __call__(self, weights_path: Path, nodules: Sequence[ClickCase], *, device: str) -> Mapping[str, float]:
        """Dice (0–1) by nodule; the same clicks for every model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainReport:
    """What came of a run.

    Attributes:
        run_id: its folder's name below ``<study>/.medai/training``.
        published: True where the challenger is the champion now.
        reason: one sentence with the numbers.
        champion_dice: mean Dice of the former champion on the held-back patients.
        challenger_dice: mean Dice of the challenger there.
        former_version: the champion it was judged against.
        version: the champion after the run.
        train_nodules: nodules trained on.
        held_back_nodules: nodules judged on.
        epochs: epochs trained.
        seconds: wall time of the whole run.
        started_at_s: when it began, seconds since 1970.
        skipped: study case to the reason why its label was not used.
        verdict: the decision with all its figures.
    """

    run_id: str
    published: bool
    reason: str
    champion_dice: float
    challenger_dice: float
    former_version: str
    version: str
    train_nodules: int
    held_back_nodules: int
    epochs: int
    seconds: float
    started_at_s: float
    skipped: Mapping[str, str]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``report.json`` and the server."""
        own = {name: getattr(self, name) for name in self.__slots__ if name not in ("verdict", "skipped")}
        return {**own, "skipped": dict(self.skipped), "verdict": self.verdict.to_json()}


def retrain(
    study: LabelledStudy,
    registry: ModelRegistry,
    config: RetrainConfig,
    *,
    on_progress: Callable[[RetrainProgress], None],
    should_stop: Callable[[], bool],
    trainer: ChallengerTrainer | None = None,
    scorer: NoduleScorer | None = None,
) -> RetrainReport:
    """Train a challenger on a study's submitted labels and publish it if it is better.

    Args:
        study: the study with its labels.
        registry: where the champion comes from and a better one goes to.
        config: epochs, device, seed, thresholds.
        on_progress: told of every stage and epoch; also on disk (``workflows.training_runs``).
        should_stop: asked between cases, epochs and stages.
        trainer: trains; None: the click network's own.
        scorer: judges; None: simulated clicks.

    Returns:
        The report, also in the run's ``report.json``.

    Raises:
        InputError: too few labels.
        ConflictError: a training of this study runs already, or another model was published meanwhile.
        CancelledByUserError: ``should_stop`` said so; the champion stays.
        ModelError: there is no champion to start from, or the training diverged.
    """
    if trainer is None or scorer is None:
        from medai.workflows.click_challenger import score_click_network, train_click_challenger

        trainer, scorer = trainer or train_click_challenger, scorer or score_click_network
    with training_run(study.folder) as run:
        steps = _Steps(run=run, total_epochs=config.epochs, on_progress=on_progress, should_stop=should_stop)
        steps.enter("collect")
        champion = registry.champion(CLICK_TASK)
        nodules = collect_labelled_nodules(study, should_stop=should_stop)

        steps.enter("judge champion")
        champion_dice = scorer(champion.weights_path, nodules.held_back, device=config.device)
        steps.dice = float(np.mean(list(champion_dice.values())))

        steps.enter("train")
        challenger_path = trainer(
            nodules.train,
            start_from=champion.weights_path,
            output_folder=run.work_folder,
            config=config,
            on_epoch=steps.epoch_done,
            should_stop=should_stop,
        )

        steps.enter("judge challenger")
        challenger_dice = scorer(challenger_path, nodules.held_back, device=config.device)
        verdict = judge(
            champion_dice,
            challenger_dice,
            patient_of_case={nodule.case_id: nodule.patient_id for nodule in nodules.held_back},
            rules=config.rules,
            rng=np.random.default_rng(config.seed),
        )
        serving = champion
        if verdict.publish:
            steps.enter("publish")
            card = _card(champion, nodules, config)
            serving = registry.publish(CLICK_TASK, challenger_path, card, verdict, judged_against=champion.version_id)

        report = _report(run, champion, serving, verdict, nodules, epochs=steps.epochs_done)
        run.write_report(report.to_json())
        steps.dice = report.challenger_dice if report.published else report.champion_dice
        steps.enter("done")
    logger.info("Training run %s: %s", report.run_id, report.reason)
    return report


def _card(champion: ModelVersion, nodules: LabelledNodules, config: RetrainConfig) -> dict[str, Any]:
    """What the published model is: where it comes from and what it has seen."""
    return {
        "trained_from": champion.version_id,
        "trained_on": sorted({nodule.volume.case_id for nodule in nodules.train}),
        "judged_on": sorted({nodule.volume.case_id for nodule in nodules.held_back}),
        "epochs": config.epochs,
        "seed": config.seed,
        "medai_version": __version__,
    }


def _report(
    run: TrainingRun,
    champion: ModelVersion,
    serving: ModelVersion,
    verdict: Verdict,
    nodules: LabelledNodules,
    *,
    epochs: int,
) -> RetrainReport:
    return RetrainReport(
        run_id=run.run_id,
        published=verdict.publish,
        reason=verdict.reason,
        champion_dice=verdict.figures.champion_mean,
        challenger_dice=verdict.figures.challenger_mean,
        former_version=champion.version_id,
        version=serving.version_id,
        train_nodules=len(nodules.train),
        held_back_nodules=len(nodules.held_back),
        epochs=epochs,
        seconds=time.time() - run.started_s,
        started_at_s=run.started_s,
        skipped=nodules.skipped,
        verdict=verdict,
    )


class _Steps:
    """Tells of each stage and epoch, and stops where asked."""

    def __init__(
        self,
        *,
        run: TrainingRun,
        total_epochs: int,
        on_progress: Callable[[RetrainProgress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.dice: float | None = None
        self.epochs_done = 0
        self._run = run
        self._total_epochs = total_epochs
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._train_started_s = 0.0

    def enter(self, stage: Stage) -> None:
        """Begin a stage.

        Raises:
            CancelledByUserError: the run was asked to stop.
        """
        if stage != "done" and self._should_stop():
            raise CancelledByUserError(f"The training was stopped ({stage}); the model in use stays.")
        if stage == "train":
            self._train_started_s = time.monotonic()
        self._tell(
            RetrainProgress(stage=stage, epoch=self.epochs_done, total_epochs=self._total_epochs, dice=self.dice)
        )

    def epoch_done(self, figures: EpochFigures) -> None:
        """Tell of an epoch, with the time the others will take."""
        self.epochs_done = figures.epoch
        self._total_epochs = figures.total_epochs
        seconds_each = (time.monotonic() - self._train_started_s) / max(1, figures.epoch)
        self._tell(
            RetrainProgress(
                stage="train",
                epoch=figures.epoch,
                total_epochs=figures.total_epochs,
                loss=figures.loss,
                dice=self.dice,
                eta_s=seconds_each * (figures.total_epochs - figures.epoch),
            )
        )

    def _tell(self, progress: RetrainProgress) -> None:
        self._run.write_stats(progress)
        self._on_progress(progress)
