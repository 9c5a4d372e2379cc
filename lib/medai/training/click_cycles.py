"""Train a click network in cycles of the learning rate: a first descent, then further ones, each from the last's end.

Descents of one stage differ by their seed alone and their weights are averaged (a "model soup", Wortsman et al., ICML
2022): much of what an ensemble gains, for the price of one network wherever it is asked. They can be trained side by
side, each in a process of its own. A descent that has finished is not trained again when the training goes on after an
interruption.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from medai.training.click_trainer import (
    BEST_NAME,
    ClickTrainingConfig,
    EpochReport,
    TrainingResult,
    has_cuda,
    patch_dice,
    settle_batch_norms,
    train_click_network,
)
from medai.training.dataset import ClickDataset
from medai.training.several_processes import train_in_processes

FIRST_FOLDER, FURTHER_FOLDER, MEAN_NAME = "cycle_1", "cycle_{stage}_{number}", "cycle_{stage}.safetensors"


def train_click_cycles(
    dataset: ClickDataset,
    config: ClickTrainingConfig,
    *,
    start_from: Path | None,
    output_folder: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_iteration: Callable[[float], None] = lambda fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    processes: int = 1,
) -> TrainingResult:
    """``train_click_network``, and the descents of ``config.further`` from its end.

    Arguments and errors are those of ``train_click_network``. The patches' Dice of the result is that of the averaged
    network.

    Args:
        dataset: training, validation and replay cases.
        config: how.
        start_from: weights to fine-tune; None starts from random ones.
        output_folder: takes ``best.safetensors`` and a folder for each descent.
        on_epoch: called after each validation; epochs are counted through all descents.
        on_iteration: called with the fraction that is done, 0–1.
        should_stop: asked a few times a second.
        resume: go on from the states in ``output_folder``.
        processes: that train together: GPUs share the first descent's batches, and each takes a further one. On a CPU
            one process makes the first descent with all cores: two that share its batches took 105 s an epoch where
            one with two threads took 84 s.
    """
    together = partial(train_in_processes, processes=processes) if processes > 1 else train_click_network
    if not config.further:
        return together(
            dataset,
            config,
            start_from=start_from,
            output_folder=output_folder,
            on_epoch=on_epoch,
            on_iteration=on_iteration,
            should_stop=should_stop,
            resume=resume,
        )
    stages = _stages(config)
    told = _Told(stages, on_epoch, on_iteration)
    path, reached = output_folder / BEST_NAME, start_from
    for stage, parts in enumerate(stages, start=1):
        if stage > 1:
            trainer = _alone(processes, len(parts))
        else:
            trainer = together if has_cuda(config.device) else train_click_network
        trainer = partial(trainer, dataset, start_from=reached, resume=resume)
        results = _side_by_side(trainer, stage, parts, output_folder, told, should_stop, processes)
        stopped = any(result.stopped for result in results)
        is_last = stopped or stage == len(stages)
        reached = path if is_last else output_folder / MEAN_NAME.format(stage=stage)
        as_used = replace(config, sampling=parts[0].sampling)
        average_weights([result.checkpoint_path for result in results], reached, dataset, as_used)
        if is_last:
            break
    return replace(
        results[-1],
        checkpoint_path=path,
        best_dice=patch_dice(path, dataset, as_used),
        best_epoch=sum(each[0].epochs for each in stages),
        epochs=told.reports,
        stopped=stopped,
        seconds=told.seconds,
    )


def _side_by_side(
    trainer: Callable[..., TrainingResult],
    stage: int,
    parts: Sequence[ClickTrainingConfig],
    output_folder: Path,
    told: _Told,
    should_stop: Callable[[], bool],
    processes: int,
) -> list[TrainingResult]:
    """The descents of one stage; one that fails ends the others."""
    failed = threading.Event()

    def descend(number: int) -> TrainingResult:
        try:
            result = trainer(
                config=parts[number],
                output_folder=output_folder / descent_folder(stage, number + 1),
                on_epoch=partial(told.epoch, stage, number),
                on_iteration=partial(told.fraction, stage, number),
                should_stop=lambda: failed.is_set() or should_stop(),
            )
        except BaseException:
            failed.set()
            raise
        told.ended(stage, number, result)
        return result

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(descend, range(len(parts))))


def descent_folder(stage: int, number: int) -> str:
    """Where a descent keeps its state; both count from 1, and the first stage has one descent."""
    return FIRST_FOLDER if stage == 1 else FURTHER_FOLDER.format(stage=stage, number=number)


def average_weights(
    paths: Sequence[Path], averaged_path: Path, dataset: ClickDataset, config: ClickTrainingConfig
) -> None:
    """Write the network whose weights are the mean of several; its batch norms are measured anew.

    Args:
        paths: checkpoints of one start.
        averaged_path: the checkpoint that is written.
        dataset: its training patches settle the batch norms.
        config: how they are drawn.

    Raises:
        ModelError: they are not of one kind.
    """
    from medai.networks.checkpoint import load_checkpoint, save_checkpoint
    from medai.networks.factory import network_tensors, restore_network
    from medai.networks.mean_weights import mean_weights

    mean = mean_weights([load_checkpoint(path) for path in paths])
    network = restore_network(mean)
    if len(paths) > 1:
        settle_batch_norms(network, dataset, config)
    save_checkpoint(averaged_path, network_tensors(network), mean.config)


def _stages(config: ClickTrainingConfig) -> list[list[ClickTrainingConfig]]:
    """The first descent and the further ones, as trainings of their own; those of a list are averaged."""
    before = replace(config, further=())
    stages, seed = [[before]], config.seed
    for descents in config.further:
        before = replace(
            before,
            epochs=descents.epochs,
            learning_rate=config.learning_rate * descents.rate,
            correction_shares=descents.correction_shares or before.correction_shares,
            sampling=descents.sampling or before.sampling,
        )
        stages.append([replace(before, seed=seed + n) for n in range(1, descents.count + 1)])
        seed += descents.count
    return stages


def _alone(processes: int, descents: int) -> Callable[..., TrainingResult]:
    """What trains one further descent: this process where it is alone, else a process beside the others'."""
    if processes == 1 or descents == 1:
        return train_click_network
    threads = max(1, len(os.sched_getaffinity(0)) // min(processes, descents))
    return partial(train_in_processes, processes=1, threads=threads)


class _Told:
    """What the descents tell, as one training tells it. Stages count from 1, the descents of a stage from 0."""

    def __init__(
        self,
        stages: Sequence[Sequence[ClickTrainingConfig]],
        on_epoch: Callable[[EpochReport], None],
        on_iteration: Callable[[float], None],
    ) -> None:
        self._places = [(stage, number) for stage, parts in enumerate(stages, start=1) for number in range(len(parts))]
        self._epochs = [part.total_epochs for parts in stages for part in parts]
        self._on_epoch, self._on_iteration = on_epoch, on_iteration
        self._reports: list[list[EpochReport]] = [[] for _ in self._places]
        self._done = [0 for _ in self._places]
        self._fractions = [0.0 for _ in self._places]
        self._best = -1.0
        self._lock = threading.Lock()

    @property
    def reports(self) -> tuple[EpochReport, ...]:
        """Of all epochs, descent by descent."""
        return tuple(report for reports in self._reports for report in reports)

    @property
    def seconds(self) -> float:
        """Wall time: of each stage the longest of the descents that were trained side by side."""
        longest: dict[int, float] = {}
        for (stage, _), reports in zip(self._places, self._reports, strict=True):
            seconds = max((report.seconds for report in reports), default=0.0)
            longest[stage] = max(longest.get(stage, 0.0), seconds)
        return sum(longest.values())

    def epoch(self, stage: int, number: int, report: EpochReport) -> None:
        """A descent has finished an epoch; the validation of what a further one starts from is the last one's last."""
        if stage > 1 and report.epoch == 0:
            return
        with self._lock:
            self._best = max(self._best, report.validation_dice)
            self._done[self._places.index((stage, number))] = report.epoch
            told = replace(report, epoch=sum(self._done), total_epochs=sum(self._epochs), best_dice=self._best)
            self._on_epoch(told)

    def ended(self, stage: int, number: int, result: TrainingResult) -> None:
        """A descent is over; what it had done in an earlier run was not told."""
        with self._lock:
            place = self._places.index((stage, number))
            before = sum(self._epochs[:place])
            self._reports[place] = [
                replace(report, epoch=before + report.epoch, total_epochs=sum(self._epochs))
                for report in result.epochs
                if report.epoch > 0
            ]
            self._done[place] = max([0, *(report.epoch for report in result.epochs)])

    def fraction(self, stage: int, number: int, fraction: float) -> None:
        """A descent is so far."""
        with self._lock:
            self._fractions[self._places.index((stage, number))] = fraction
            done = sum(epochs * part for epochs, part in zip(self._epochs, self._fractions, strict=True))
            self._on_iteration(done / sum(self._epochs))
