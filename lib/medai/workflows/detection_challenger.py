"""The detector in the retraining loop: fine-tuned on a study's scans, and scored scan by scan.

The finder and the judge both learn from the study; normalisation and calibration stay those of the champion: a handful
of scans says too little of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medai.domain.detection_case import DetectionCase
from medai.errors import InputError, ModelError
from medai.evaluation.froc import Mark, ScanTruth, match_scan
from medai.inference.detect import FINDER_PART, JUDGE_PART, DetectorConfig, load_detector
from medai.networks.checkpoint import Checkpoint, load_checkpoint, read_config, save_parts
from medai.preprocessing.lung_mask import segment_lungs
from medai.training.candidate_samples import CandidateSamples
from medai.training.candidate_trainer import CandidateTrainingConfig, judge_checkpoint, train_candidate_network
from medai.training.detection_scans import PreparedScan
from medai.training.detection_trainer import DetectionTrainingConfig, config_of_finder, train_detection_network
from medai.workflows.starter_detection import finder_alone, prepared, samples_of

CHALLENGER_FILE = "detector.safetensors"
SHOWN_FROM = 0.02
"""Less probable marks are no part of a scan's score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningConfig:
    """How a detector goes on learning.

    Attributes:
        epochs: passes over the scans.
        patches_a_scan: that the finder sees of each scan in a pass.
        finder_rate: highest learning rate of the finder, a tenth of that of a fresh one.
        judge_rate: of the judge.
        judge_steps: updates of the judge in a pass.
        variants: shifted copies of each nodule that the judge sees.
        most_negatives: places of a scan that the judge sees, at most.
        seed: of everything random.
    """

    epochs: int = 20
    patches_a_scan: int = 6
    finder_rate: float = 2e-4
    judge_rate: float = 3e-4
    judge_steps: int = 4
    variants: int = 8
    most_negatives: int = 80
    seed: int = 0


def fine_tune_detection(
    cases: Iterable[DetectionCase],
    *,
    start_from: Path,
    output_folder: Path,
    config: FineTuningConfig | None = None,
    device: str = "auto",
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Fine-tune a detector on scans whose nodules are all known.

    Args:
        cases: scans with their truth; looked at one at a time, so that they may be read as they are wanted.
        start_from: the champion's weights.
        output_folder: takes the challenger and what is needed on the way.
        config: how.
        device: "auto", "cpu" or "cuda".
        on_step: told the finder's step, the number of its steps and its loss.
        should_stop: asked now and then.

    Returns:
        The challenger's weights.

    Raises:
        InputError: no scan holds a nodule.
        ModelError: the weights hold no finder.
        CancelledByUserError: ``should_stop`` said so.
    """
    config = config or FineTuningConfig()
    whole = read_config(start_from)
    if FINDER_PART not in whole.get("parts", {}):
        raise ModelError(f"{start_from} holds no finder that could go on learning: start from the packaged detector.")
    start = load_checkpoint(start_from, part=FINDER_PART)
    training = config_of_finder(start.config)
    scans = prepared(cases, output_folder / "scans", training.spacing_ras_mm)
    if not any(len(scan.nodules) for scan in scans):
        raise InputError(f"None of the {len(scans)} labelled scans holds a nodule: a detector cannot learn from them.")
    cuda = device == "cuda" or (device == "auto" and _has_cuda())
    finder = _tuned_finder(
        scans, start, training, config, output_folder, "cuda" if cuda else "cpu", on_step, should_stop
    )
    parts = {FINDER_PART: finder}
    if JUDGE_PART in whole["parts"]:
        judge = load_checkpoint(start_from, part=JUDGE_PART)
        parts[JUDGE_PART] = _tuned_judge(scans, finder, judge, config, output_folder, should_stop)
    path = output_folder / CHALLENGER_FILE
    save_parts(path, parts, {key: value for key, value in whole.items() if key != "parts"})
    return path


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _tuned_finder(
    scans: Sequence[PreparedScan],
    start: Checkpoint,
    training: DetectionTrainingConfig,
    config: FineTuningConfig,
    folder: Path,
    device: str,
    on_step: Callable[[int, int, float], None],
    should_stop: Callable[[], bool],
) -> Checkpoint:
    """The finder after some passes over the scans."""
    steps = max(10, -(-config.epochs * config.patches_a_scan * len(scans) // training.batch_size))
    tuning = replace(
        training,
        steps=steps,
        learning_rate=config.finder_rate,
        # A mean over more steps than there are would be the champion again.
        mean_decay=min(training.mean_decay, 1 - 5 / steps),
        freeze_statistics=True,
        bfloat16=device == "cuda" or training.bfloat16,
        seed=config.seed,
    )
    return train_detection_network(
        scans,
        tuning,
        output_folder=folder,
        start_from=start,
        device=device,
        on_step=lambda step, class_loss, box_loss: on_step(step, steps, class_loss + box_loss),
        should_stop=should_stop,
    )


def _tuned_judge(
    scans: Sequence[PreparedScan],
    finder: Checkpoint,
    judge: Checkpoint,
    config: FineTuningConfig,
    folder: Path,
    should_stop: Callable[[], bool],
) -> Checkpoint:
    """The judge after learning from what the new finder marks; as it was where nothing wrong is marked."""
    detector = finder_alone(finder, folder / "finder.safetensors", "cpu")
    rng = np.random.default_rng((config.seed, 1))
    samples = CandidateSamples.join(
        [
            samples_of(scan, detector, rng, variants=config.variants, most_negatives=config.most_negatives)
            for scan in scans
        ]
    )
    if samples.labels.all():
        return judge
    tuning = CandidateTrainingConfig(
        steps=max(10, config.judge_steps * config.epochs),
        learning_rate=config.judge_rate,
        freeze_statistics=True,
        seed=config.seed,
    )
    network = train_candidate_network(samples, tuning, start_from=judge, should_stop=should_stop)
    return judge_checkpoint(network)


def score_detection(
    weights_path: Path, cases: Iterable[DetectionCase], *, device: str = "auto", cache_folder: Path | None = None
) -> dict[str, float]:
    """Score a detector scan by scan.

    A scan with nodules scores the average precision of its marks: for each nodule, the share of right ones among the
    marks at least as probable as its own, 0 where it is missed. A scan without any scores how sure the detector is of
    that: 1 minus the probability of its most probable mark.

    Args:
        weights_path: the detector.
        cases: scans with their truth; looked at one at a time.
        device: "auto", "cpu" or "cuda".
        cache_folder: where converted networks are kept.

    Returns:
        Case id to score, 0–1, higher is better.
    """
    config = DetectorConfig(least_probability=SHOWN_FROM)
    detector = load_detector(weights_path, config=config, device=device, cache_folder=cache_folder)
    scores: dict[str, float] = {}
    for case in cases:
        found = detector.detect(case.volume, segment_lungs(case.volume))
        marks = [Mark(centre_ras_mm=c.centre_ras_mm, probability=c.probability) for c in found]
        scores[case.case_id] = scan_score(marks, ScanTruth(nodules=case.nodules, irrelevant=case.irrelevant))
    return scores


def scan_score(marks: Sequence[Mark], truth: ScanTruth) -> float:
    """The score of one scan, see ``score_detection``."""
    match = match_scan(marks, truth)
    wrong = match.false_positive_probability
    if not truth.nodules:
        return float(1 - np.max(wrong, initial=0.0))
    hits = match.nodule_probability
    precision = [
        float(np.sum(hits >= hit) / (np.sum(hits >= hit) + np.sum(wrong >= hit))) if np.isfinite(hit) else 0.0
        for hit in hits
    ]
    return float(np.mean(precision))
