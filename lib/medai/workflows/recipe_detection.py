"""How the starter of ``nodule_detection`` is made: real nodules in phantom and real lungs, and phantom nodules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medai.errors import InputError
from medai.inference.detect import load_detector
from medai.networks.checkpoint import weights_digest
from medai.workflows.detection_cases import prepare_detection_cases
from medai.workflows.families import DETECTION_TASK
from medai.workflows.make_starter import (
    LIDC_ATTRIBUTION,
    LIDC_LICENCE,
    SPLIT_WORDS,
    WORK_FOLDER,
    StarterFacts,
    StarterOptions,
    StarterStep,
    Stop,
    Tell,
    TrainedStarter,
)
from medai.workflows.measure_detection import measure_detection
from medai.workflows.measured_model import Measured
from medai.workflows.starter_detection import StarterDetectionConfig, train_starter_detection

STEPS_AN_EPOCH = 100
"""The detector counts steps; ``--epochs`` counts hundreds of them."""
HELD_BACK_SCANS = 36
"""Scans the card's figures are of."""


class DetectionRecipe:
    """Trains by ``workflows.starter_detection`` and measures as ``medai evaluate detection`` does."""

    @property
    def facts(self) -> StarterFacts:
        """What the card says in words."""
        return StarterFacts(
            name="Lung nodules in a whole scan",
            data={
                "name": "LIDC-IDRI nodules (crops and cubes) put into phantom and real lungs; phantom nodules; hard "
                "negatives from vessels, fissures, bronchi and ribs",
                "licence": LIDC_LICENCE,
                "attribution": LIDC_ATTRIBUTION,
                "truth": "every nodule is known, because it was put there; those of real hosts by their readers",
                "split": SPLIT_WORDS,
            },
            limits=(
                "Trained and measured on scans made by putting nodules into lungs: no whole real scan with all its "
                "nodules known was at hand.",
                "A scan cut at its nodules, or thicker than 5 mm, is outside what was seen.",
                "For annotation, with a person judging every finding; not for diagnosis.",
            ),
        )

    def train(
        self, data: Path, folder: Path, options: StarterOptions, *, on_step: Tell, should_stop: Stop
    ) -> TrainedStarter:
        """Train by ``StarterDetectionConfig``."""
        config = detection_config(options)
        weights_path = train_starter_detection(
            data,
            folder,
            config,
            device=_device(options.device),
            resume=options.resume,
            on_message=lambda words: on_step(StarterStep(words=words)),
            should_stop=should_stop,
        )
        return TrainedStarter(
            weights_path=weights_path,
            config=config.to_json(),
            how=(
                f"{config.cases - config.calibration_cases} scans; a finder of {config.finder.steps} steps and a judge "
                f"of {config.judge.steps}; calibrated on {config.calibration_cases} scans neither has seen."
            ),
        )

    def measure(
        self, data: Path, weights_path: Path, card_folder: Path, *, device: str, on_step: Tell, should_stop: Stop
    ) -> Measured:
        """FROC on held-back scans, which are made where they are not there yet."""
        cases = card_folder / WORK_FOLDER / "held_back"
        digest = weights_digest(weights_path)
        prepare_detection_cases(
            cases,
            count=HELD_BACK_SCANS,
            real_data=data,
            held_back=True,
            on_progress=lambda done, total: on_step(
                StarterStep(words="Making held-back scans", done=done, total=total)
            ),
            should_stop=should_stop,
        )
        return measure_detection(
            cases,
            lambda: load_detector(weights_path, device=device),
            card_folder,
            model={"task": DETECTION_TASK, "weights_sha256": digest},
            marks_file=card_folder / WORK_FOLDER / f"marks-{digest[:12]}.csv",
            tell=lambda words, done=None, total=None: on_step(StarterStep(words=words, done=done, total=total)),
            should_stop=should_stop,
        )


def detection_config(options: StarterOptions) -> StarterDetectionConfig:
    """The recorded configuration with what was asked to differ.

    Raises:
        InputError: other starting weights or an ensemble are asked for, which this recipe has not.
    """
    if options.start_from is not None:
        raise InputError("--from: a detector is trained from scratch; a study's scans fine-tune it.")
    if options.members is not None:
        raise InputError("--members: a detector is one finder and one judge, not an ensemble.")
    config = StarterDetectionConfig()
    if options.epochs is not None:
        config = replace(config, finder=replace(config.finder, steps=options.epochs * STEPS_AN_EPOCH))
    if options.seed is not None:
        config = replace(config, seed=options.seed, finder=replace(config.finder, seed=options.seed))
    return config


def _device(device: str) -> str:
    """What "auto" means here: "cuda" where there is one, else "cpu"."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
