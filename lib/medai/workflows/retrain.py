"""The second trip: labels come back and train a challenger; where it beats the champion, it is published.

1. Collect what was submitted; patients are held back by ``FrozenSplit``, so the same ones judge every round.
2. Judge the champion on the held-back patients.
3. Train a challenger from the champion's weights on the other patients, with what must not be forgotten mixed in. A
   training that was interrupted, not stopped, goes on from its last epoch where it would be the same training.
4. Judge the challenger on the same nodules (scans, for detection), asked the same questions; and both on the family's
   fixed old examples, which no challenger may get worse on: than the champion, and than the best of those before it
   (``workflows.former_champions``), so that small losses do not add up.
5. Decide (``evaluation.promotion``), and publish only a better one. The verdict is in the registry's history either
   way. Test patients, where the study has enough for them, are scored after the decision, for the report alone.

Without a labelled patient on both sides nothing is trained: a model that cannot be judged could not be published, and
minutes of an annotator's time would be for nothing. ``FrozenSplit`` sees to it that two patients are enough.

What differs between models is said by ``workflows.families``: what is learned from, how, and by what score.

The champion stays whatever happens: refused, stopped, killed, disk full. MLflow and TensorBoard are told on the way
(``workflows.run_tracking``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medai import __version__
from medai.errors import CancelledByUserError, InputError, MedaiError, StorageError
from medai.evaluation.drift import FormerScores
from medai.evaluation.promotion import OldCases, Verdict, judge
from medai.networks.mean_weights import KEPT_SHARE, kept_share
from medai.registry.model_registry import ModelRegistry
from medai.registry.version_files import ModelVersion
from medai.workflows.families import (
    CLICK_TASK,
    AnnotationLookup,
    EpochFigures,
    Family,
    Lesson,
    OldExamples,
    RetrainConfig,
    family_of,
)
from medai.workflows.former_champions import former_champions
from medai.workflows.labelled_examples import Example, LabelledExamples, LabelledStudy
from medai.workflows.models import convert_ahead
from medai.workflows.run_tracking import NoTracker, RunTracker, TrackedRun, finite, tracked
from medai.workflows.trained_labels import label_digests
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
    tracker: RunTracker | None = None,
    annotation_of: AnnotationLookup | None = None,
    is_interrupted: Callable[[], bool] = lambda: False,
    wait_s: float = 0.0,
    gate: Callable[[Verdict], Verdict] = lambda verdict: verdict,
) -> RetrainReport:
    """Train a challenger on a study's submitted labels and publish it if it is better.

    Args:
        study: the study with its labels.
        registry: where the champion comes from and a better one goes to.
        config: epochs, device, seed, thresholds.
        on_progress: told of every stage and epoch; also on disk (``workflows.training_runs``).
        should_stop: asked between cases, epochs and stages.
        family: what is trained; None: the click network.
        tracker: told of parameters, curves and the verdict (``run_tracking.trackers_for``); None: nobody.
        annotation_of: how the labels came about, which decides how much each counts; None: all count the same.
        is_interrupted: asked when the training was stopped: True keeps what it has reached for the next one.
        wait_s: how long another training of the study may take to end.
        gate: has the last word on a verdict. Anything but the verdict itself is for simulations of what a study is
            without the gate: no setting, ``--conf`` key or option leads here.

    Returns:
        The report, also in the run's ``report.json``.

    Raises:
        InputError: too few labels.
        ConflictError: a training of this study runs already, or another model was published meanwhile.
        CancelledByUserError: ``should_stop`` said so; the champion stays.
        ModelError: there is no champion to start from, or the training diverged.
    """
    family = family or family_of(CLICK_TASK)
    if config.processes > 1 and family.task != CLICK_TASK:
        raise InputError(f"{family.task} trains in one process; only {CLICK_TASK} can train in {config.processes}.")
    tracker = tracker or NoTracker()
    with training_run(study.folder, wait_s=wait_s) as run:
        steps = _Steps(
            run=run,
            family=family,
            total_epochs=config.epochs,
            on_progress=on_progress,
            should_stop=should_stop,
            tracker=tracker,
        )
        try:
            report = _run(study, registry, config, run, steps, family, annotation_of, gate)
        except CancelledByUserError:
            run.keeps_work = is_interrupted()
            raise
        except (StorageError, KeyboardInterrupt):
            # A full disk, or Ctrl+C on the command line: the same training goes on from its last epoch.
            run.keeps_work = True
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
    gate: Callable[[Verdict], Verdict],
) -> RetrainReport:
    """The trip itself."""
    steps.enter("collect")
    champion = registry.champion(family.task)
    examples = family.collect(study, should_stop=steps.should_stop)
    labels = label_digests(study, examples)
    lesson = _lesson(family, study, examples, champion, annotation_of, steps)
    resumed = run.claim_work(_job(champion, lesson, config))
    with tracked(steps.tracker, _tracked_run(run, family, config, examples)):
        steps.enter("judge champion")
        old = _old_examples(family, study, examples, steps.should_stop)
        champion_score = _scores(family, champion.weights_path, examples.held_back, old.examples, config.device)
        steps.score = float(np.mean([champion_score[example.case_id] for example in examples.held_back]))

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
        challenger_score = _scores(family, challenger_path, examples.held_back, old.examples, config.device)
        former = former_champions(
            registry.history(family.task),
            champion.version_id,
            champion_score=champion_score,
            truth_of_case=old.truth_of_case,
        )
        verdict = gate(_judge(family, config, examples, old, champion_score, challenger_score, former))
        # After the decision, so that no test patient can have a part in it.
        on_test = [_mean_on_test(family, path, examples, config) for path in (champion.weights_path, challenger_path)]
        _tell_verdict(steps.tracker, verdict, champion)
        serving = champion
        if verdict.publish:
            steps.enter("publish")
            convert_ahead(challenger_path, device=config.device)
            card = _card(champion, examples, config, challenger_path) | labels
            serving = registry.publish(
                family.task, challenger_path, card, verdict, judged_against=champion.version_id, run_id=run.run_id
            )
        else:
            _keep_refusal(registry, family, verdict, champion, run)

        report = replace(
            _report(run, champion, serving, verdict, examples, epochs=steps.epochs_done),
            champion_test_score=on_test[0],
            challenger_test_score=on_test[1],
            resumed=resumed,
        )
        steps.keep(lambda: run.write_report(report.to_json()))
        steps.score = report.challenger_score if report.published else report.champion_score
        steps.enter("done")
    return report


def _lesson(
    family: Family[Any],
    study: LabelledStudy,
    examples: LabelledExamples[Any],
    champion: ModelVersion,
    annotation_of: AnnotationLookup | None,
    steps: _Steps,
) -> Lesson[Any]:
    """What the challenger learns from: the study's labels, and what the family mixes in."""
    if family.plan is None:
        return Lesson(examples=examples.train, train=family.train)
    return family.plan(
        examples,
        study=study,
        trained_before=_trained_before(champion),
        annotation_of=annotation_of,
        should_stop=steps.should_stop,
    )


def _old_examples(
    family: Family[Any], study: LabelledStudy, examples: LabelledExamples[Any], should_stop: Callable[[], bool]
) -> OldExamples[Any]:
    """The family's regression set; empty for a family without one."""
    if family.old_examples is None:
        return OldExamples(examples=(), groups_of_case={})
    return family.old_examples(study, examples.held_back, should_stop=should_stop)


def _scores(
    family: Family[Any], weights_path: Path, held_back: Sequence[Example], old: Sequence[Example], device: str
) -> Mapping[str, float]:
    """One model on the held-back examples and on the old ones that are not among them."""
    judged = {example.case_id for example in held_back}
    return family.score(weights_path, [*held_back, *(e for e in old if e.case_id not in judged)], device=device)


def _judge(
    family: Family[Any],
    config: RetrainConfig,
    examples: LabelledExamples[Any],
    old: OldExamples[Any],
    champion_score: Mapping[str, float],
    challenger_score: Mapping[str, float],
    former: tuple[FormerScores, ...],
) -> Verdict:
    held_back = {example.case_id: example.patient_id for example in examples.held_back}
    known = {example.case_id: example.patient_id for example in old.examples}
    old_cases = OldCases(
        champion_score={case_id: champion_score[case_id] for case_id in known},
        challenger_score={case_id: challenger_score[case_id] for case_id in known},
        groups_of_case=old.groups_of_case,
        patient_of_case=known,
        former=former,
        truth_of_case=old.truth_of_case,
    )
    return judge(
        {case_id: champion_score[case_id] for case_id in held_back},
        {case_id: challenger_score[case_id] for case_id in held_back},
        patient_of_case=held_back,
        rules=config.rules or family.rules,
        measure=family.measure,
        old_cases=old_cases if known else None,
        rng=np.random.default_rng(config.seed),
    )


def _keep_refusal(
    registry: ModelRegistry, family: Family[Any], verdict: Verdict, champion: ModelVersion, run: TrainingRun
) -> None:
    """Keep the verdict on a refused challenger; where the disk refuses, the run's report still has it."""
    try:
        registry.record_refusal(family.task, verdict, judged_against=champion.version_id, run_id=run.run_id)
    except MedaiError as error:
        logger.warning("The refusal is in the report of run %s alone: %s", run.run_id, error)


def _tracked_run(
    run: TrainingRun, family: Family[Any], config: RetrainConfig, examples: LabelledExamples[Any]
) -> TrackedRun:
    rules = {f"rule_{name}": value for name, value in asdict(config.rules or family.rules).items()}
    return TrackedRun(
        run_id=run.run_id,
        task=family.task,
        folder=run.folder,
        parameters={
            "task": family.task,
            "measure": family.measure,
            "epochs": config.epochs,
            "device": config.device,
            "seed": config.seed,
            "train_examples": len(examples.train),
            "held_back_examples": len(examples.held_back),
            "medai_version": __version__,
            **rules,
        },
    )


def _tell_verdict(tracker: RunTracker, verdict: Verdict, champion: ModelVersion) -> None:
    figures = verdict.figures
    numbers = {
        "champion_score": figures.champion_mean,
        "challenger_score": figures.challenger_mean,
        "gain": figures.difference,
        "gain_low": figures.low,
        "gain_high": figures.high,
        "passed_the_gate": float(verdict.publish),
    }
    if verdict.subgroups:
        numbers["worst_subgroup_change"] = min(subgroup.figures.difference for subgroup in verdict.subgroups)
    drifts = [subgroup.drift.figures.difference for subgroup in verdict.subgroups if subgroup.drift is not None]
    if drifts:
        numbers["worst_subgroup_drift"] = min(drifts)
    tags = {"verdict": "promoted" if verdict.publish else "refused", "reason": verdict.reason}
    tracker.verdict(numbers, verdict.to_json(), tags | {"judged_against": champion.version_id})


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


def _card(
    champion: ModelVersion, examples: LabelledExamples[Any], config: RetrainConfig, challenger_path: Path
) -> dict[str, Any]:
    """What the published model is: where it comes from and what it has seen."""
    kept = kept_share(challenger_path)
    training_config = {"epochs": config.epochs, "device": config.device, "seed": config.seed}
    return {
        "trained_from": champion.version_id,
        "trained_on": list(examples.trained_on),
        "judged_on": list(examples.judged_on),
        "epochs": config.epochs,
        "seed": config.seed,
        "training_config": training_config if kept is None else {**training_config, KEPT_SHARE: kept},
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
        tracker: RunTracker,
    ) -> None:
        self.score: float | None = None
        self.epochs_done = 0
        self._run = run
        self._family = family
        self._total_epochs = total_epochs
        self._on_progress = on_progress
        self.should_stop = should_stop
        self.tracker = tracker
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
        curves = finite({"train_loss": figures.loss, "validation": figures.validation})
        self.tracker.curves(curves, epoch=figures.epoch)
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
        self.keep(lambda: self._run.write_stats(progress))
        self._on_progress(progress)

    @staticmethod
    def keep(write: Callable[[], None]) -> None:
        """Write what only tells of the run: a full disk must not end a training, nor hide that one was published."""
        try:
            write()
        except StorageError as error:
            logger.warning("The training goes on, but is not told of on disk: %s", error)
