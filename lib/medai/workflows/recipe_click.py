"""How the starter of ``nodule_click`` is made: real nodules, and phantoms for the rare kinds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medai.inference.click import ClickSegmenter
from medai.networks.engine import load_engine
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, EpochReport, FurtherDescents
from medai.workflows.make_starter import (
    LIDC_ATTRIBUTION,
    LIDC_LICENCE,
    NODULES,
    SPLIT_WORDS,
    StarterFacts,
    StarterOptions,
    StarterStep,
    Stop,
    Tell,
    TrainedStarter,
)
from medai.workflows.measure_segmentation import measure_segmentation
from medai.workflows.measured_model import Measured
from medai.workflows.starter_click import STARTER_TRAINING, train_starter_click


class ClickRecipe:
    """Trains by ``workflows.starter_click`` and measures as ``medai evaluate segmentation`` does."""

    @property
    def facts(self) -> StarterFacts:
        """What the card says in words."""
        return StarterFacts(
            name="Point-guided outline of a lung nodule",
            data={
                "name": "LIDC-IDRI: 763 nodule crops of 418 patients and 75 cubes; phantoms for rare kinds",
                "licence": LIDC_LICENCE,
                "attribution": LIDC_ATTRIBUTION,
                "truth": "the voxels that any of three to four readers marks; training also learns the share of "
                "readers who do",
                "split": SPLIT_WORDS,
            },
            limits=(
                "The crops end at the nodule's first and last slice, which makes them easier than a whole scan.",
                "Nodules of 3–30 mm. Masses were not in the data: nodules shown larger than they are stand for them. "
                "Consolidations and other lesions were not seen at all.",
                "For annotation, with a person checking every outline; not for diagnosis.",
            ),
        )

    def train(
        self, data: Path, folder: Path, options: StarterOptions, *, on_step: Tell, should_stop: Stop
    ) -> TrainedStarter:
        """Train by ``STARTER_TRAINING``."""
        config = click_config(options)
        on_step(StarterStep(words="Reading the nodules", total=config.total_epochs))

        def told(report: EpochReport) -> None:
            words = f"Epoch {report.epoch} of {report.total_epochs}, loss {report.train_loss:.3f}, "
            words += f"Dice {report.validation_dice:.3f} on patches"
            on_step(StarterStep(words=words, done=report.epoch, total=report.total_epochs))

        result = train_starter_click(
            data,
            folder,
            config,
            start_from=options.start_from,
            on_epoch=told,
            resume=options.resume,
            processes=options.processes,
        )
        start = "other weights" if options.start_from else "scratch"
        return TrainedStarter(
            weights_path=result.checkpoint_path,
            config=json.loads(json.dumps(asdict(config))),
            how=(
                f"{config.members} network(s), each {config.epochs} epochs of {config.iterations_per_epoch} batches of "
                f"{config.batch_size} {_patch_words(config.sampling)} from {start}{_further_words(config.further)}."
            ),
        )

    def measure(
        self, data: Path, weights_path: Path, card_folder: Path, *, device: str, on_step: Tell, should_stop: Stop
    ) -> Measured:
        """Simulated clicks on the held-back patients."""
        segmenter = ClickSegmenter(load_engine(weights_path, device=device))
        return measure_segmentation(
            data / NODULES,
            segmenter,
            card_folder,
            tell=lambda words, done=None, total=None: on_step(StarterStep(words=words, done=done, total=total)),
            should_stop=should_stop,
        )


def click_config(options: StarterOptions) -> ClickTrainingConfig:
    """The recorded configuration with what was asked to differ."""
    asked: dict[str, Any] = {"epochs": options.epochs, "seed": options.seed, "members": options.members}
    changes = {name: value for name, value in asked.items() if value is not None}
    return replace(STARTER_TRAINING, device=options.device, **changes)


def _further_words(further: Sequence[FurtherDescents]) -> str:
    """What followed the first descent of the learning rate."""
    words = ""
    for descents in further:
        them = "another descent" if descents.count == 1 else f"the mean of {descents.count} descents"
        words += f", then {them} of {descents.epochs} epochs from its end"
        words += "" if descents.sampling is None else f" on {_patch_words(descents.sampling)}"
    return words


def _patch_words(sampling: SamplingConfig) -> str:
    """How large the patches are."""
    return f"patches of {' × '.join(map(str, sampling.patch_shape))} voxels"
