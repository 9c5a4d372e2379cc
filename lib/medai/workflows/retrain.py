"""The second trip: labels come back and train a challenger; where it beats the champion, it is published.

1. Collect what was submitted; patients are held back by ``FrozenSplit``, so the same ones judge every round.
2. Judge the champion on the held-back patients.
3. Train a challenger from the champion's weights on the other patients, with what must not be forgotten mixed in. A
   training that was interrupted, not stopped, goes on from its last epoch where it would be the same training.
4. Judge the challenger on the same nodules (scans, for detection), asked the same questions.
5. Decide (``evaluation.promotion``), and publish only a better one. Test patients, where the study has enough for them,
   are scored after the decision, for the report alone.

Without a labelled patient on both sides nothing is trained: a model that cannot be judged could not be published, and
minutes of an annotator's time would be for nothing. ``FrozenSplit`` sees to it that two patients are enough.

What differs between models is said by ``workflows.families``: what is learned from, how, and by what score.

The champion stays whatever happens: refused, stopped, killed, disk full.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medai import __version__
from medai.errors import CancelledByUserError
from medai.evaluation.promotion import Verdict, judge
from medai.registry.model_registry import ModelRegistry
from medai.registry.version_files import ModelVersion
from medai.workflows.families import (
    CLICK_TASK,
    AnnotationLookup,
    EpochFigures,
    Family,
    Lesson,
    RetrainConfig,
    family_of,
)
from medai.workflows.labelled_examples import LabelledExamples, LabelledStudy
from medai.workflows.models import convert_ahead
from medai.workflows.training_runs import RetrainProgress, Stage, TrainingRun, training_run

__all__ = ["CLICK_TASK", "EpochFigures", "RetrainConfig", "RetrainProgress", "RetrainReport", "retrain"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainReport:
    """What came of a run.

    Attributes:
        run_id: its folder's name below ``<study>/.medai/training``.
        published: True where the challenger is the champion now.
        reason: one sentence with the numbers.
        task: the model family.
        measure: what the scores are, such as "Dice".
        champion_score: mean score of the former champion on the held-back patients.
        challenger_score: mean score of the challenger there.
        former_version: the champion it was judged against.
        version: the champion after the run.
        train_examples: nodules (scans, for detection) trained on.
        held_back_examples: those judged on.
        epochs: epochs trained.
        seconds: wall time of the whole run.
        started_at_s: when it began, seconds since 1970.
        skipped: study case to the reason why its label was not used.
        verdict: the decision with all its figures.
        test_examples: those of the patients kept for figures alone; 0 in small studies.
        champion_test_score: the former champion's mean score there; None where there are none.
        challenger_test_score: the challenger's.
        resumed: True where it went on from an interrupted run.
    """

    run_id: str
    published: bool
    reason: str
    task: str
    measure: str
    champion_score: float
    challenger_score: float
    former_version: str
    version: str
    train_examples: int
    held_back_examples: int
    epochs: int
    seconds: float
    started_at_s: float
    skipped: Mapping[str, str]
    verdict: Verdict
    test_examples: int = 0
    champion_test_score: float | None = None
    challenger_test_score: float | None = None
    resumed: bool = False

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
    family: Family[Any] | None = None,
    annotation_of: AnnotationLookup | None = None,
    is_interrupted: Callable[[], bool] = lambda: False,
    wait_s: float = 0.0,
) -> RetrainReport:
    """Train a challenger on a study's submitted labels and publish it if it is better.

    Args:
        study: the study with its labels.
        registry: where the champion comes from and a better one goes to.
        config: epochs, device, seed, thresholds.
        on_progress: told of every stage and epoch; also on disk (``workflows.training_runs``).
        should_stop: asked between cases, epochs and stages.
        family: what is trained; None: the click network.
        annotation_of: how the labels came about, which decides how much each counts; None: all count the same.
        is_interrupted: asked when the training was stopped: True keeps what it has reached for the next one.
        wait_s: how long another training of the study may take to end.

    Returns:
        The report, also in the run's ``report.json``.

    Raises:
        InputError: too few labels.
        ConflictError: a training of this study runs already, or another model was published meanwhile.
        CancelledByUserError: ``should_stop`` said so; the champion stays.
        ModelError: there is no champion to start from, or the training diverged.
    """
    family = family or family_of(CLICK_TASK)
    with training_run(study.folder, wait_s=wait_s) as run:
        steps = _Steps(
            run=run, family=family, total_epochs=config.epochs, on_progress=on_progress, should_stop=should_stop
        )
        try:
            report = _run(study, registry, config, run, steps, family, annotation_of)
        except CancelledByUserError:
            run.keeps_work = is_interrupted()
            raise
    logger.info("Training run %s of %s: %s", report.run_id, report.task, report.reason)
    return report


def _run(
    study: LabelledStudy,
    registry: ModelRegistry,
    config: RetrainConfig,
    run: TrainingRun,
    steps: _Steps,
    family: Family[Any],
    annotation_of: AnnotationLookup | None,
) -> RetrainReport:
    """The trip itself."""
    steps.enter("collect")
    champion = registry.champion(family.task)
    examples = family.collect(study, should_stop=steps.should_stop)
    lesson = Lesson(examples=examples.train, train=family.train)
    if family.plan is not None:
        lesson = family.plan(
            examples,
            study=study,
            trained_before=_trained_before(champion),
            annotation_of=annotation_of,
            should_stop=steps.should_stop,
        )
    resumed = run.claim_work(_job(champion, lesson, config))

    steps.enter("judge champion")
    champion_score = family.score(champion.weights_path, examples.held_back, device=config.device)
    steps.score = float(np.mean(list(champion_score.values())))

    steps.enter("train")
    challenger_path = lesson.train(
        lesson.examples,
        start_from=champion.weights_path,
        output_folder=run.work_folder,
        config=config,
        on_epoch=steps.epoch_done,
        should_stop=steps.should_stop,
    )

    steps.enter("judge challenger")
    challenger_score = family.score(challenger_path, examples.held_back, device=config.device)
    verdict = judge(
        champion_score,
        challenger_score,
        patient_of_case={example.case_id: example.patient_id for example in examples.held_back},
        rules=config.rules or family.rules,
        measure=family.measure,
        rng=np.random.default_rng(config.seed),
    )
    # After the decision, so that no test patient can have a part in it.
    on_test = [_mean_on_test(family, path, examples, config) for path in (champion.weights_path, challenger_path)]
    serving = champion
    if verdict.publish:
        steps.enter("publish")
        convert_ahead(challenger_path, device=config.device)
        card = _card(champion, examples, config)
        serving = registry.publish(family.task, challenger_path, card, verdict, judged_against=champion.version_id)

    report = replace(
        _report(run, champion, serving, verdict, examples, epochs=steps.epochs_done),
        champion_test_score=on_test[0],
        challenger_test_score=on_test[1],
        resumed=resumed,
    )
    run.write_report(report.to_json())
    steps.score = report.challenger_score if report.published else report.champion_score
    steps.enter("done")
    return report


def _mean_on_test(
    family: Family[Any], weights_path: Path, examples: LabelledExamples[Any], config: RetrainConfig
) -> float | None:
    """Mean score on the test patients; None where the study has none."""
    if not examples.test:
        return None
    return float(np.mean(list(family.score(weights_path, examples.test, device=config.device).values())))


def _trained_before(champion: ModelVersion) -> frozenset[str]:
    """The study's cases that a champion has learned from, itself or before; a starter's card names none."""
    listed = champion.card.get("trained_on")
    return frozenset(str(case_id) for case_id in listed) if isinstance(listed, list | tuple) else frozenset()


def _job(champion: ModelVersion, lesson: Lesson[Any], config: RetrainConfig) -> dict[str, Any]:
    """What makes two trainings the same one: where it starts, how it trains, and on what."""
    return {
        "task": champion.task,
        "trained_from": champion.version_id,
        "epochs": config.epochs,
        "seed": config.seed,
        "examples": sorted([example.case_id, getattr(example, "weight", 1.0)] for example in lesson.examples),
    }


def _card(champion: ModelVersion, examples: LabelledExamples[Any], config: RetrainConfig) -> dict[str, Any]:
    """What the published model is: where it comes from and what it has seen."""
    return {
        "trained_from": champion.version_id,
        "trained_on": list(examples.trained_on),
        "judged_on": list(examples.judged_on),
        "epochs": config.epochs,
        "seed": config.seed,
        "medai_version": __version__,
    }


def _report(
    run: TrainingRun,
    champion: ModelVersion,
    serving: ModelVersion,
    verdict: Verdict,
    examples: LabelledExamples[Any],
    *,
    epochs: int,
) -> RetrainReport:
    return RetrainReport(
        run_id=run.run_id,
        published=verdict.publish,
        reason=verdict.reason,
        task=champion.task,
        measure=verdict.measure,
        champion_score=verdict.figures.champion_mean,
        challenger_score=verdict.figures.challenger_mean,
        former_version=champion.version_id,
        version=serving.version_id,
        train_examples=len(examples.train),
        held_back_examples=len(examples.held_back),
        epochs=epochs,
        seconds=time.time() - run.started_s,
        started_at_s=run.started_s,
        skipped=examples.skipped,
        verdict=verdict,
        test_examples=len(examples.test),
    )


class _Steps:
    """Tells of each stage and epoch, and stops where asked."""

    def __init__(
        self,
        *,
        run: TrainingRun,
        family: Family[Any],
        total_epochs: int,
        on_progress: Callable[[RetrainProgress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.score: float | None = None
        self.epochs_done = 0
        self._run = run
        self._family = family
        self._total_epochs = total_epochs
        self._on_progress = on_progress
        self.should_stop = should_stop
        self._train_started_s = 0.0

    def enter(self, stage: Stage) -> None:
        """Begin a stage.

        Raises:
            CancelledByUserError: the run was asked to stop.
        """
        if stage != "done" and self.should_stop():
            raise CancelledByUserError(f"The training was stopped ({stage}); the model in use stays.")
        if stage == "train":
            self._train_started_s = time.monotonic()
        self._tell(stage)

    def epoch_done(self, figures: EpochFigures) -> None:
        """Tell of an epoch, with the time the others will take."""
        self.epochs_done = figures.epoch
        self._total_epochs = figures.total_epochs
        seconds_each = (time.monotonic() - self._train_started_s) / max(1, figures.epoch)
        self._tell("train", loss=figures.loss, eta_s=seconds_each * (figures.total_epochs - figures.epoch))

    def _tell(self, stage: Stage, *, loss: float | None = None, eta_s: float | None = None) -> None:
        progress = RetrainProgress(
            stage=stage,
            epoch=self.epochs_done,
            total_epochs=self._total_epochs,
            loss=loss,
            score=self.score,
            eta_s=eta_s,
            measure=self._family.measure,
            task=self._family.task,
        )
        self._run.write_stats(progress)
        self._on_progress(progress)
