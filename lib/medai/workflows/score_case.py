"""A scan to the numbers by which the next case is chosen: what the present models find in it and how sure they are.

The whole-scan pipeline looks at it as for an annotator, but shows less likely candidates too: the uncertain ones are
what a label would settle. Scores are of candidate nodules; a scan of noisy air has none.

Where each number comes from:

- probability and entropy: the detector's calibrated judgement.
- outline doubt: the Dice that the click network's calibrated probabilities let expect.
- test-time variation: the mirrored views that every outline is made from anyway.
- mutual information: the members of the classification's ensemble (malignancy), and those of the click network where
  that is an ensemble too. No dropout is left on at inference in any of the networks: there is no MC dropout.
- embedding: ``preprocessing.nodule_embedding``, the mean over the candidates, each by its probability.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medai.active_learning.cost import AnnotationCost
from medai.domain import Nodule, Prediction, Volume
from medai.domain.case_score import CandidateScore, CaseScore
from medai.errors import ModelError
from medai.evaluation.information import entropy_bits
from medai.preprocessing.nodule_embedding import nodule_embedding
from medai.workflows.infer_case import CLASSIFICATION_TASK, CLICK_TASK, DETECTION_TASK

if TYPE_CHECKING:
    from medai.inference.scan import Classifier, Detector, Outliner, ScanPipeline
    from medai.workflows.infer_case import Registry

LEAST_PROBABILITY = 0.1
"""Less likely candidates are not scored: with a calibrated detector nine of ten of them are vessels, and each costs an
outline. The annotator is shown candidates from about 0.75 on."""

SUSPICIOUS_FROM = 0.5
"""Of the malignancy probability; parts the predicted classes."""


class Proposer(Protocol):
    """Finds and outlines nodules: ``medai.inference.scan.ScanPipeline``."""

    def predict(self, volume: Volume) -> Prediction:
        """The nodules of a scan."""
        ...


def score_case(
    volume: Volume,
    pipeline: Proposer,
    *,
    previous: CaseScore | None = None,
    cost: AnnotationCost | None = None,
    now: Callable[[], float] = time.time,
) -> CaseScore:
    """Score one case.

    Args:
        volume: the scan, with its ``case_id``.
        pipeline: of the present models, from ``load_scoring_pipeline`` or ``scoring_pipeline``.
        previous: the case's score by other models, for how much the two differ.
        cost: what a label costs.
        now: the clock, seconds since 1970.
    """
    return score_prediction(pipeline.predict(volume), volume, previous=previous, cost=cost, now=now)


def score_prediction(
    prediction: Prediction,
    volume: Volume,
    *,
    previous: CaseScore | None = None,
    cost: AnnotationCost | None = None,
    now: Callable[[], float] = time.time,
) -> CaseScore:
    """The score that a prediction gives; arguments as for ``score_case``."""
    candidates = tuple(_candidate(nodule) for nodule in prediction.nodules)
    nodules = sum(candidate.probability for candidate in candidates)
    volume_ml = sum(candidate.probability * candidate.volume_ml for candidate in candidates)
    other = previous if previous and dict(previous.model_versions) != dict(prediction.model_versions) else None
    kept = previous.disagreement if previous and other is None else None
    return CaseScore(
        case_id=volume.case_id,
        model_versions=dict(prediction.model_versions),
        scored_at_s=now(),
        candidates=candidates,
        embedding=_embedding(volume, prediction.nodules),
        expected_minutes=(cost or AnnotationCost()).minutes(nodules=nodules, volume_ml=volume_ml),
        disagreement=model_disagreement(candidates, other.candidates) if other else kept,
    )


def model_disagreement(first: Sequence[CandidateScore], second: Sequence[CandidateScore]) -> float:
    """How much two models differ about one scan, 0 (same candidates, same probabilities and sizes) to 1.

    Candidates are paired where they lie within the larger one's radius, the nearest first. A pair differs by its
    probabilities, or by its sizes as far as both take it for a nodule; one that only one model has differs by its
    probability. The most different one counts: a label settles it.
    """
    far = [
        (float(np.linalg.norm(np.subtract(a.centre_ras_mm, b.centre_ras_mm))), i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]
    left_first, left_second = set(range(len(first))), set(range(len(second)))
    differences = [0.0]
    for distance_mm, i, j in sorted(far):
        a, b = first[i], second[j]
        if i in left_first and j in left_second and distance_mm <= max(a.diameter_mm, b.diameter_mm) / 2:
            left_first.remove(i)
            left_second.remove(j)
            smaller, larger = sorted((a.volume_ml, b.volume_ml))
            size = 1.0 - smaller / larger if larger > 0 else 0.0
            differences.append(max(abs(a.probability - b.probability), size * min(a.probability, b.probability)))
    differences += [first[i].probability for i in left_first] + [second[j].probability for j in left_second]
    return min(1.0, max(differences))


def load_scoring_pipeline(
    registry: Registry, *, device: str = "auto", cache_folder: Path | None = None
) -> ScanPipeline:
    """Load the present champions for scoring.

    Args:
        registry: says which weights answer.
        device: see ``medai.networks.engine.load_engine``.
        cache_folder: where converted networks are kept; None converts at every load.

    Raises:
        ModelError: weights are missing or cannot be used; without those that rate, nodules are scored unrated.
    """
    from medai.inference.scan import ScanConfig
    from medai.workflows.infer_case import load_pipeline

    config = ScanConfig(least_probability=LEAST_PROBABILITY)
    return load_pipeline(registry, device=device, cache_folder=cache_folder, config=config, from_all_sides=True)


def scoring_pipeline(
    detector: Detector, outliner: Outliner, classifier: Classifier | None, model_versions: dict[str, str]
) -> ScanPipeline:
    """The whole-scan pipeline as scoring wants it, of models that are loaded already."""
    from medai.inference.scan import ScanConfig, ScanPipeline

    config = ScanConfig(least_probability=LEAST_PROBABILITY)
    return ScanPipeline(detector, outliner, config, model_versions, classifier=classifier)


def scored_versions(registry: Registry) -> dict[str, str]:
    """The versions that a score made now would name, by task: what ``ScoreStore.outdated`` compares.

    Raises:
        ModelError: there are no weights that find or outline.
    """
    versions = {task: registry.champion(task).version_id for task in (DETECTION_TASK, CLICK_TASK)}
    try:
        versions[CLASSIFICATION_TASK] = registry.champion(CLASSIFICATION_TASK).version_id
    except ModelError:
        return versions
    return versions


def _candidate(nodule: Nodule) -> CandidateScore:
    rated, doubt = nodule.assessment, nodule.doubt
    information = [
        value
        for value in (rated.member_information if rated else None, doubt.member_information if doubt else None)
        if value is not None
    ]
    kind = rated.kind if rated else nodule.kind
    suspicion = "" if rated is None else ", suspicious" if rated.malignancy.value >= SUSPICIOUS_FROM else ", benign"
    return CandidateScore(
        centre_ras_mm=nodule.centre_ras_mm,
        diameter_mm=nodule.diameter_mm,
        volume_ml=nodule.volume_mm3 / 1000.0,
        probability=nodule.probability,
        predicted_class=f"{kind}{suspicion}",
        malignancy=rated.malignancy.value if rated else None,
        entropy=float(entropy_bits(nodule.probability)),
        mutual_information=max(information, default=None),
        test_time_variation=doubt.view_variation if doubt else None,
        outline_doubt=doubt.expected_error if doubt else None,
    )


def _embedding(volume: Volume, nodules: Sequence[Nodule]) -> NDArray[np.float32] | None:
    """The mean of the nodules' embeddings, each by its probability."""
    if not nodules:
        return None
    weights = np.array([max(nodule.probability, 1e-6) for nodule in nodules], dtype=np.float32)
    each = np.stack([nodule_embedding(volume, nodule) for nodule in nodules])
    return np.asarray(weights @ each / weights.sum(), dtype=np.float32)
