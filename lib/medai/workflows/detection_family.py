"""The detector as a family of the retraining loop: labelled scans in, epochs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from medai.evaluation.promotion import PromotionRules
from medai.store.layout import engines_folder
from medai.workflows.detection_challenger import FineTuningConfig, fine_tune_detection, score_detection
from medai.workflows.families import DETECTION_TASK, EpochFigures, Family, RetrainConfig
from medai.workflows.labelled_scans import LabelledScan, collect_labelled_scans


def train_detection_challenger(
    examples: Sequence[LabelledScan],
    *,
    start_from: Path,
    output_folder: Path,
    config: RetrainConfig,
    on_epoch: Callable[[EpochFigures], None],
    should_stop: Callable[[], bool],
) -> Path:
    """Go on from the champion with a study's labelled scans, read one after the other.

    Args:
        examples: of training patients only.
        start_from: the champion's weights.
        output_folder: takes the challenger.
        config: epochs, device, seed.
        on_epoch: told after each epoch of the finder, which takes most of the time.
        should_stop: asked now and then.
    """
    told = 0

    def tell(step: int, steps: int, loss: float) -> None:
        nonlocal told
        epoch = math.floor(config.epochs * step / max(1, steps))
        if epoch > told:
            told = epoch
            figure = loss if math.isfinite(loss) else None
            on_epoch(EpochFigures(epoch=epoch, total_epochs=config.epochs, loss=figure))

    return fine_tune_detection(
        (example.load() for example in examples),
        start_from=start_from,
        output_folder=output_folder,
        config=FineTuningConfig(epochs=config.epochs, seed=config.seed),
        device=config.device,
        on_step=tell,
        should_stop=should_stop,
    )


def score_detector(weights_path: Path, examples: Sequence[LabelledScan], *, device: str) -> dict[str, float]:
    """Average precision of a detector's marks in each scan; see ``score_detection``."""
    return score_detection(
        weights_path, (example.load() for example in examples), device=device, cache_folder=engines_folder()
    )


DETECTION_FAMILY: Family[LabelledScan] = Family(
    task=DETECTION_TASK,
    measure="average precision",
    collect=collect_labelled_scans,
    train=train_detection_challenger,
    score=score_detector,
    # A scan has few nodules, so that its score moves in steps: one mark more or less is a tenth or more.
    rules=PromotionRules(margin=0.01, few_patient_loss=0.1),
)
