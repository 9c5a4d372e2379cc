"""The click network in the retraining loop: how a challenger is trained and how any version is scored."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError
from medai.inference.evaluate_click import evaluate_click_model
from medai.networks.checkpoint import read_config
from medai.networks.engine import load_engine
from medai.training.click_trainer import (
    FINE_TUNING_RATE,
    ClickTrainingConfig,
    EpochReport,
    TrainingResult,
    train_click_network,
)
from medai.training.dataset import ClickDataset
from medai.training.several_processes import train_in_processes
from medai.workflows.click_keepers import Keeper, keep_old_skills, keeper_nodules
from medai.workflows.click_regression import old_nodules
from medai.workflows.click_replay import balanced_replay, plan_click_lesson, replay_share
from medai.workflows.families import CLICK_TASK, EpochFigures, Family, RetrainConfig
from medai.workflows.labelled_nodules import collect_labelled_nodules

JUDGE_SEED = 20240229
"""Places the judge's clicks. The same in every run, so that rounds compare."""

JUDGE_CLICKS = 1
"""The first click is what an annotator judges a model by; later ones can repair any."""

FEW_PATIENTS = 5
"""From this many training patients on, one in five is set aside to choose the best epoch by."""

CHOOSERS = 20
"""From this many such patients on they do choose; with fewer the last epoch is taken, whose steps are small and whose
weights are averaged. The best of twenty epochs on three nodules is luck, and the champion has had that luck already:
the same patients chose it, so that three trainings in four ended where they began."""

LIGHT = 0.5
"""Nodules of so little weight do not choose: their annotator is doubted, or the outline is hardly where a nodule was
proposed."""

LEAST_ITERATIONS = 3
"""Batches an epoch has at least: a validation after every single batch would take as long as the training."""

WARMUP_SHARE = 8
"""The learning rate rises over an eighth of the batches at most."""


def train_click_challenger(
    examples: Sequence[ClickCase],
    *,
    start_from: Path,
    output_folder: Path,
    config: RetrainConfig,
    on_epoch: Callable[[EpochFigures], None],
    should_stop: Callable[[], bool],
    replayed: frozenset[str] = frozenset(),
    recipe: Sequence[ClickCase] = (),
    keepers: Callable[[], Sequence[Keeper]] = tuple,
) -> Path:
    """Fine-tune the champion's click network on submitted nodules, with a replay of what it knows.

    Of the training as much is kept as leaves old skills whole (``workflows.click_keepers``).

    Args:
        examples: nodules of training patients only.
        start_from: the champion's weights.
        output_folder: takes the challenger; a state of the same training in it is gone on from.
        config: epochs, device, seed.
        on_epoch: told after each epoch.
        should_stop: asked after each batch.
        replayed: ids of the ``examples`` that the champion has learned from already.
        recipe: the starter's own kind of data.
        keepers: gives the old nodules that say how much of the training to keep; none: all of it.

    Returns:
        The weights of the last epoch, or of the best one where enough patients can choose it, blended with the
        champion's where old skills ask for it.
    """

    def tell(report: EpochReport) -> None:
        loss = report.train_loss if math.isfinite(report.train_loss) else None
        on_epoch(
            EpochFigures(
                epoch=report.epoch, total_epochs=report.total_epochs, loss=loss, validation=report.validation_dice
            )
        )

    chosen = choosing_dataset(examples)
    dataset, share = with_replay(chosen, replayed, recipe)
    trainer: Callable[..., TrainingResult] = train_click_network
    if config.processes > 1:
        trainer = partial(train_in_processes, processes=config.processes)
    result = trainer(
        dataset,
        # The epoch's length goes by the study's own nodules: a replay takes its share of them, not more time.
        replace(
            training_config(len(chosen.training), config, read_config(start_from)),
            replay_fraction=share,
            keep=kept_epoch(chosen),
        ),
        start_from=start_from,
        output_folder=output_folder,
        on_epoch=tell,
        should_stop=should_stop,
        resume=True,
    )
    if result.stopped:
        raise CancelledByUserError("The training was stopped (train); the model in use stays.")
    old = keepers()
    if not old:
        return result.checkpoint_path
    return keep_old_skills(
        start_from,
        result.checkpoint_path,
        old,
        partial(score_click_network, device=config.device),
        should_stop=should_stop,
    )


def with_replay(
    dataset: ClickDataset, replayed: frozenset[str], recipe: Sequence[ClickCase]
) -> tuple[ClickDataset, float]:
    """Move old nodules from the training to the replay, and add the starter's data.

    Args:
        dataset: training and choosing nodules.
        replayed: ids of those that are not new.
        recipe: the starter's own kind of data.

    Returns:
        The data set, and the share of patches that the replay gets. Where no nodule is new, all train as new ones.
    """
    new = tuple(nodule for nodule in dataset.training if nodule.case_id not in replayed)
    old = tuple(nodule for nodule in dataset.training if nodule.case_id in replayed)
    if not new:
        new, old = old, ()
    chooses = {nodule.patient_id for nodule in dataset.validation}
    shown = [case for case in recipe if case.patient_id not in chooses]
    share = replay_share(sum(nodule.weight for nodule in new), sum(nodule.weight for nodule in old))
    return replace(dataset, training=new, replay=balanced_replay(old, shown)), share


def training_config(nodule_count: int, config: RetrainConfig, champion: Mapping[str, Any]) -> ClickTrainingConfig:
    """How a challenger is trained.

    An epoch is a pass over the training nodules, so that a small study trains in minutes and a large one longer. The
    patches are those that the champion was trained on and is asked with: shape, spacing, how large a nodule appears.

    Args:
        nodule_count: nodules that train.
        config: epochs, device, seed.
        champion: what the champion's file says of it; the packaged network and a study's own may differ.
    """
    defaults = ClickTrainingConfig()
    iterations = max(LEAST_ITERATIONS, math.ceil(nodule_count / defaults.batch_size))
    return replace(
        defaults,
        epochs=config.epochs,
        iterations_per_epoch=iterations,
        learning_rate=float(champion.get(FINE_TUNING_RATE, defaults.learning_rate)),
        warmup_iterations=max(1, min(defaults.warmup_iterations, config.epochs * iterations // WARMUP_SHARE)),
        device=config.device,
        seed=config.seed,
        sampling=defaults.sampling.as_described(champion),
    )


def kept_epoch(dataset: ClickDataset) -> Literal["best", "last"]:
    """Whether a data set has the patients to choose an epoch by."""
    return "best" if len({nodule.patient_id for nodule in dataset.validation}) >= CHOOSERS else "last"


def choosing_dataset(nodules: Sequence[ClickCase]) -> ClickDataset:
    """Set nodules apart to choose the best epoch by, without touching the patients that will judge.

    The judges must not choose: the best of twenty epochs on them would look better on them than it is. With fewer than
    ``FEW_PATIENTS`` training patients all of them train and the same nodules choose; that choice is no judgement.
    Nor does a patient with a nodule of little weight (``LIGHT``): doubtful labels had trainings end where they began,
    because every epoch looked worse on them.
    """
    patients = sorted({nodule.patient_id for nodule in nodules}, key=_hash)
    if len(patients) < FEW_PATIENTS:
        # The data set refuses a patient on both sides, because such a Dice means nothing. Nobody reads this one.
        chooses = tuple(replace(nodule, patient_id=f"{nodule.patient_id} choosing") for nodule in nodules)
        return ClickDataset(training=tuple(nodules), validation=chooses)
    doubtful = {nodule.patient_id for nodule in nodules if nodule.weight <= LIGHT}
    sure = [name for name in patients if name not in doubtful]
    apart = set((sure or patients)[: len(patients) // FEW_PATIENTS])
    return ClickDataset(
        training=tuple(nodule for nodule in nodules if nodule.patient_id not in apart),
        validation=tuple(nodule for nodule in nodules if nodule.patient_id in apart),
    )


def score_click_network(weights_path: Path, examples: Sequence[ClickCase], *, device: str) -> dict[str, float]:
    """Dice of a click network's first answer for each nodule, on the scan's own grid.

    Args:
        weights_path: the network.
        examples: nodules with their truth; the same order gives the same clicks.
        device: "auto", "cpu" or "cuda".

    Returns:
        Nodule's case id to Dice, 0–1.
    """
    engine = load_engine(weights_path, device=device)
    scores = evaluate_click_model(engine, examples, JUDGE_SEED, clicks=JUDGE_CLICKS)
    return {nodule.case_id: score for nodule, score in zip(examples, scores, strict=True)}


def _hash(patient_id: str) -> str:
    return hashlib.sha256(patient_id.encode()).hexdigest()


def click_family(*, keepers: Callable[[Path, Callable[[], bool]], list[Keeper]] = keeper_nodules) -> Family[ClickCase]:
    """The click network's family.

    Args:
        keepers: gives the old nodules that say how much of a training is kept; none: all of it.
    """
    return Family(
        task=CLICK_TASK,
        measure="Dice",
        collect=collect_labelled_nodules,
        train=train_click_challenger,
        score=score_click_network,
        old_examples=old_nodules,
        plan=partial(plan_click_lesson, trainer=train_click_challenger, keepers=keepers),
    )


CLICK_FAMILY = click_family()
