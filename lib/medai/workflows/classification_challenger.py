"""The classifier in the retraining loop: how a challenger is trained and how any version is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medai.domain.assessment import HIGHEST_RATING, LOWEST_RATING, MALIGNANCY
from medai.evaluation.promotion import PromotionRules
from medai.geometry import IndexBox
from medai.inference.classify import NoduleClassifier
from medai.networks.engine import load_engine
from medai.training.classification_samples import NoduleWithReaders
from medai.workflows.families import CLASSIFICATION_TASK, EpochFigures, Family, RetrainConfig
from medai.workflows.rated_nodules import RatedNodule, collect_rated_nodules
from medai.workflows.starter_classification import (
    STARTER_CLASSIFICATION,
    ClassificationProgress,
    StarterClassificationConfig,
    fine_tune_classification,
)

LEARNING_RATE = 3e-4
"""A tenth of the starter's: a study's few nodules adjust the readers' scale, they do not replace it."""
SMALLEST_BATCH = 2


def train_classification_challenger(
    examples: Sequence[RatedNodule],
    *,
    start_from: Path,
    output_folder: Path,
    config: RetrainConfig,
    on_epoch: Callable[[EpochFigures], None],
    should_stop: Callable[[], bool],
) -> Path:
    """Go on from the champion with a study's rated nodules.

    Args:
        examples: of training patients only.
        start_from: the champion's weights.
        output_folder: takes the challenger.
        config: epochs, device, seed.
        on_epoch: told after each epoch; the network's members are trained one after the other.
        should_stop: asked before each nodule and batch.
    """

    def tell(progress: ClassificationProgress) -> None:
        if progress.stage == "members":
            on_epoch(EpochFigures(epoch=progress.done, total_epochs=progress.total, loss=progress.loss))

    trained = fine_tune_classification(
        [
            NoduleWithReaders.of_one(example.case, {n: float(r) for n, r in example.ratings.items()})
            for example in examples
        ],
        start_from=start_from,
        output_folder=output_folder,
        config=fine_tuning_config(len(examples), config),
        on_progress=tell,
        should_stop=should_stop,
    )
    return trained.weights_path


def fine_tuning_config(nodule_count: int, config: RetrainConfig) -> StarterClassificationConfig:
    """The starter's configuration at a low rate, in batches that a small study fills."""
    recorded = STARTER_CLASSIFICATION.training
    return replace(
        STARTER_CLASSIFICATION,
        training=replace(
            recorded,
            epochs=config.epochs,
            batch_size=max(SMALLEST_BATCH, min(recorded.batch_size, nodule_count // 2)),
            learning_rate=LEARNING_RATE,
            device=config.device,
            seed=config.seed,
        ),
    )


def score_classifier(weights_path: Path, examples: Sequence[RatedNodule], *, device: str) -> dict[str, float]:
    """How near a classifier's malignancy comes to the annotator's, with the annotator's own outline.

    Returns:
        Nodule's case id to agreement: 1 for the same rating, 0 for the other end of the scale.
    """
    classifier = NoduleClassifier.of_checkpoint(load_engine(weights_path, device=device))
    return {example.case_id: _agreement(classifier, example) for example in examples}


def _agreement(classifier: NoduleClassifier, example: RatedNodule) -> float:
    mask = example.case.mask
    box = IndexBox.of_mask(mask) or IndexBox.of_shape(mask.shape)
    said = classifier.assess(example.case.volume, box, mask[box.slices]).malignancy_rating
    return 1.0 - abs(said - example.ratings[MALIGNANCY]) / (HIGHEST_RATING - LOWEST_RATING)


CLASSIFICATION_FAMILY: Family[RatedNodule] = Family(
    task=CLASSIFICATION_TASK,
    measure="agreement on malignancy",
    collect=collect_rated_nodules,
    train=train_classification_challenger,
    score=score_classifier,
    # A twentieth of a step of the scale; a patient with one nodule that turns by a third of a step loses 0.08.
    rules=PromotionRules(margin=0.0125, few_patient_loss=0.08),
)
