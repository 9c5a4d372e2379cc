"""Train a click network in cycles of the learning rate: one first descent, then several second ones from its end.

The second descents differ by their seed alone and their weights are averaged (a "model soup", Wortsman et al., ICML
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
    SecondDescents,
    TrainingResult,
    has_cuda,
    patch_dice,
    settle_batch_norms,
    train_click_network,
)
from medai.training.dataset import ClickDataset
from medai.training.several_processes import train_in_processes

FIRST_FOLDER, SECOND_FOLDER = "first_cycle", "second_cycle_{number}"


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
    """``train_click_network``, and ``config.second`` descents from its end.

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
        processes: that train together: GPUs share the first descent's batches, and each takes a second descent. On a
            CPU one process makes the first descent with all cores: two that share its batches took 105 s an epoch where
            one with two threads took 84 s.
    """
    together = partial(train_in_processes, processes=processes) if processes > 1 else train_click_network
    if config.second is None:
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
    parts = _parts(config, config.second)
    alone = _alone(processes, config.second.count)
    told = _Told(parts, on_epoch, on_iteration)
    first = (together if has_cuda(config.device) else train_click_network)(
        dataset,
        parts[0],
        start_from=start_from,
        output_folder=output_folder / FIRST_FOLDER,
        on_epoch=partial(told.epoch, 0),
        on_iteration=partial(told.fraction, 0),
        should_stop=should_stop,
        resume=resume,
    )
    told.ended(0, first)
    results = [first]
    if not first.stopped:
        failed = threading.Event()

        def descend(number: int) -> TrainingResult:
            try:
                result = alone(
                    dataset,
                    parts[number],
                    start_from=first.checkpoint_path,
                    output_folder=output_folder / SECOND_FOLDER.format(number=number),
                    on_epoch=partial(told.epoch, number),
                    on_iteration=partial(told.fraction, number),
                    should_stop=lambda: failed.is_set() or should_stop(),
                    resume=resume,
                )
            except BaseException:
                failed.set()
                raise
            told.ended(number, result)
            return result

        with ThreadPoolExecutor(processes) as pool:
            results += pool.map(descend, range(1, len(parts)))
    path = output_folder / BEST_NAME
    # A training that was stopped in the first descent has that one's patches.
    as_used = replace(config, sampling=parts[len(results) - 1].sampling)
    average_weights([result.checkpoint_path for result in results[1:] or results], path, dataset, as_used)
    return replace(
        results[-1],
        checkpoint_path=path,
        best_dice=patch_dice(path, dataset, as_used),
        best_epoch=config.epochs + config.second.epochs,
        epochs=told.reports,
        stopped=any(result.stopped for result in results),
        seconds=told.seconds,
    )


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


def _parts(config: ClickTrainingConfig, descents: SecondDescents) -> list[ClickTrainingConfig]:
    """The first descent and the second ones, as trainings of their own."""
    first = replace(config, second=None)
    second = replace(
        first,
        epochs=descents.epochs,
        learning_rate=config.learning_rate * descents.rate,
        correction_shares=descents.correction_shares or config.correction_shares,
        sampling=descents.sampling or config.sampling,
    )
    return [first, *(replace(second, seed=config.seed + n + 1) for n in range(descents.count))]


def _alone(processes: int, descents: int) -> Callable[..., TrainingResult]:
    """What trains one second descent: this process where it is alone, else a process beside the others'."""
    if processes == 1 or descents == 1:
        return train_click_network
    threads = max(1, len(os.sched_getaffinity(0)) // min(processes, descents))
    return partial(train_in_processes, processes=1, threads=threads)


class _Told:
    """What the descents tell, as one training tells it."""

    def __init__(
        self,
        parts: Sequence[ClickTrainingConfig],
        on_epoch: Callable[[EpochReport], None],
        on_iteration: Callable[[float], None],
    ) -> None:
        self._epochs = [part.total_epochs for part in parts]
        self._on_epoch, self._on_iteration = on_epoch, on_iteration
        self._reports: list[list[EpochReport]] = [[] for _ in parts]
        self._done = [0 for _ in parts]
        self._fractions = [0.0 for _ in parts]
        self._best = -1.0
        self._lock = threading.Lock()

    @property
    def reports(self) -> tuple[EpochReport, ...]:
        """Of all epochs, descent by descent."""
        return tuple(report for reports in self._reports for report in reports)

    @property
    def seconds(self) -> float:
        """Wall time: the first descent's and the longest of those side by side."""
        lengths = [max((report.seconds for report in reports), default=0.0) for reports in self._reports]
        return lengths[0] + max(lengths[1:])

    def epoch(self, number: int, report: EpochReport) -> None:
        """A descent has finished an epoch; the validation of what a second one starts from is the first one's last."""
        if number > 0 and report.epoch == 0:
            return
        with self._lock:
            self._best = max(self._best, report.validation_dice)
            self._done[number] = report.epoch
            told = replace(report, epoch=sum(self._done), total_epochs=sum(self._epochs), best_dice=self._best)
            self._on_epoch(told)

    def ended(self, number: int, result: TrainingResult) -> None:
        """A descent is over; what it had done in an earlier run was not told."""
        with self._lock:
            before = sum(self._epochs[:number])
            self._reports[number] = [
                replace(report, epoch=before + report.epoch, total_epochs=sum(self._epochs))
                for report in result.epochs
                if report.epoch > 0
            ]
            self._done[number] = max([0, *(report.epoch for report in result.epochs)])

    def fraction(self, number: int, fraction: float) -> None:
        """A descent is so far."""
        with self._lock:
            self._fractions[number] = fraction
            done = sum(epochs * part for epochs, part in zip(self._epochs, self._fractions, strict=True))
            self._on_iteration(done / sum(self._epochs))
