"""Finds candidates for nodules: blobs in the lungs, each judged by a small network.

Threads: a detector keeps no state between calls and may be used by any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medai.domain import Candidate, Volume
from medai.errors import CancelledByUserError, ModelError
from medai.networks.engine import Engine
from medai.preprocessing.blobs import Blob, BlobConfig, find_blobs
from medai.preprocessing.candidate_patches import candidate_views
from medai.preprocessing.lung_mask import LungMask

Progress = Callable[[float], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """How candidates are judged.

    Attributes:
        blobs: what is looked at.
        batch_size: places a run of the network; small enough for its activations to stay in a CPU's cache.
        least_probability: less probable candidates are not returned.
        same_within: two candidates are one where their centres are nearer than this share of the larger diameter.
    """

    blobs: BlobConfig = field(default_factory=BlobConfig)
    batch_size: int = 16
    least_probability: float = 0.02
    same_within: float = 0.6


class NoduleDetector:
    """Volume and lungs to candidates.

    Args:
        engine: a loaded candidate network; its checkpoint's config carries the calibration.
        config: how candidates are judged.

    Raises:
        ModelError: the weights are of another task.
    """

    def __init__(self, engine: Engine, config: DetectorConfig | None = None) -> None:
        if engine.config.get("task") != "nodule_detection":
            raise ModelError(f"These weights are for '{engine.config.get('task')}', not for 'nodule_detection'.")
        self._engine = engine
        self._config = config or DetectorConfig()
        self._scale = float(engine.config["logit_scale"])
        self._shift = float(engine.config["logit_shift"])

    def detect(
        self,
        volume: Volume,
        lungs: LungMask,
        *,
        on_progress: Progress = lambda fraction: None,
        should_stop: Stop = lambda: False,
    ) -> list[Candidate]:
        """Find candidates.

        Args:
            volume: the scan.
            lungs: on the scan's grid; candidates lie inside.
            on_progress: told the share of places judged so far, 0–1.
            should_stop: asked between batches.

        Returns:
            Candidates with calibrated probabilities, most probable first.

        Raises:
            CancelledByUserError: ``should_stop`` said so.
        """
        blobs = find_blobs(volume, lungs, self._config.blobs)
        probabilities = np.empty(len(blobs))
        for begin in range(0, len(blobs), self._config.batch_size):
            if should_stop():
                raise CancelledByUserError("Looking for nodules was stopped; nothing was kept.")
            batch = blobs[begin : begin + self._config.batch_size]
            probabilities[begin : begin + len(batch)] = self._probabilities(volume, batch)
            on_progress((begin + len(batch)) / len(blobs))
        likely = [
            Candidate(centre_ras_mm=blob.centre_ras_mm, diameter_mm=blob.diameter_mm, probability=float(probability))
            for blob, probability in zip(blobs, probabilities, strict=True)
            if probability >= self._config.least_probability
        ]
        return most_probable_apart(likely, self._config.same_within)

    def _probabilities(self, volume: Volume, blobs: list[Blob]) -> NDArray[np.float64]:
        """Calibrated probability of each place."""
        views = np.stack([candidate_views(volume, blob.centre_ras_mm, blob.diameter_mm) for blob in blobs])
        logits = self._engine.run(views).astype(np.float64).reshape(-1)
        return np.asarray(1 / (1 + np.exp(-(self._scale * logits + self._shift))))


def most_probable_apart(candidates: list[Candidate], same_within: float) -> list[Candidate]:
    """Keep the most probable of candidates that lie within each other.

    Args:
        candidates: any order.
        same_within: share of the larger diameter within which two centres are one place.

    Returns:
        The remaining ones, most probable first.
    """
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.probability, c.centre_ras_mm)):
        if all(
            np.linalg.norm(np.subtract(candidate.centre_ras_mm, other.centre_ras_mm))
            > same_within * max(candidate.diameter_mm, other.diameter_mm)
            for other in kept
        ):
            kept.append(candidate)
    return kept
