"""Train several click networks that differ by their seed alone, and make one of them.

A member that has finished is not trained again when the training goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medai.errors import ModelError
from medai.training.click_trainer import (
    BEST_NAME,
    ClickTrainingConfig,
    EpochReport,
    TrainingResult,
    train_click_network,
)
from medai.training.dataset import ClickDataset


def train_click_ensemble(
    dataset: ClickDataset,
    config: ClickTrainingConfig,
    *,
    start_from: Path | None,
    output_folder: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_iteration: Callable[[float], None] = lambda fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    trainer: Callable[..., TrainingResult] = train_click_network,
) -> TrainingResult:
    """Train ``config.members`` networks and average their logits in one checkpoint.

    Arguments and errors are those of ``train_click_network``; epochs are counted through all members. With one member
    it is that function, or the ``trainer`` that does the same in several processes.

    Returns:
        The last member's figures, with the checkpoint of all and the epochs of all.
    """
    if config.members == 1:
        return trainer(
            dataset,
            config,
            start_from=start_from,
            output_folder=output_folder,
            on_epoch=on_epoch,
            on_iteration=on_iteration,
            should_stop=should_stop,
            resume=resume,
        )
    results: list[TrainingResult] = []
    for number in range(config.members):
        epochs_before = number * config.total_epochs

        def tell(report: EpochReport, before: int = epochs_before) -> None:
            on_epoch(replace(report, epoch=report.epoch + before, total_epochs=report.total_epochs * config.members))

        def done(fraction: float, before: int = number) -> None:
            on_iteration((before + fraction) / config.members)

        result = trainer(
            dataset,
            replace(config, members=1, seed=config.seed + number),
            start_from=start_from,
            output_folder=output_folder / f"member_{number + 1}",
            on_epoch=tell,
            on_iteration=done,
            should_stop=should_stop,
            resume=resume,
        )
        results.append(result)
        if result.stopped:
            break
    path = output_folder / BEST_NAME
    join_members([result.checkpoint_path for result in results], path)
    return replace(
        results[-1],
        checkpoint_path=path,
        epochs=tuple(report for result in results for report in result.epochs),
        seconds=sum(result.seconds for result in results),
    )


def join_members(paths: list[Path], joined_path: Path) -> None:
    """Write one checkpoint whose network averages those of several.

    Raises:
        ModelError: they are not of one kind.
    """
    from medai.networks.checkpoint import load_checkpoint, save_checkpoint

    members = [load_checkpoint(path) for path in paths]
    first = members[0].config
    if any(member.config != first for member in members):
        raise ModelError("The members of an ensemble must have one configuration: train them with the same settings.")
    tensors = {
        f"members.{n}.{name}": value for n, member in enumerate(members) for name, value in member.tensors.items()
    }
    options = {
        "member": {key: first[key] for key in ("network", "network_options")},
        "count": len(members),
        "channels_in": first["network_options"]["channels_in"],
    }
    save_checkpoint(joined_path, tensors, {**first, "network": "ensemble", "network_options": options})
