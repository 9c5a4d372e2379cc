"""Rates an outlined nodule: how suspicious it is and what it looks like.

Measurements of the outline and the network's look at both views meet in one small last stage. The network looks at a
view and at its mirror images; the mean of its members over all of them is what counts.

Threads: a classifier keeps no state between calls and may be used by any number of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleAssessment, Volume
from medai.domain.assessment import MALIGNANCY
from medai.errors import ModelError
from medai.evaluation.information import mutual_information_bits
from medai.geometry import IndexBox
from medai.networks.engine import Engine
from medai.postprocessing.ratings import RatingStage, ratings_of_logits
from medai.preprocessing.nodule_features import as_vector, nodule_features
from medai.preprocessing.nodule_views import nodule_views

TASK = "nodule_classification"
MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,))
"""Axes of a batch that are reversed, as in training."""


class NoduleClassifier:
    """Rates nodules.

    Args:
        engine: a loaded classification network.
        stage: what follows it.
    """

    def __init__(self, engine: Engine, stage: RatingStage) -> None:
        self._engine = engine
        self._stage = stage

    @classmethod
    def of_checkpoint(cls, engine: Engine) -> NoduleClassifier:
        """The classifier that a loaded checkpoint describes.

        Raises:
            ModelError: the weights are of another task, or incomplete.
        """
        config: Mapping[str, Any] = engine.config
        if config.get("task") != TASK:
            raise ModelError(f"These weights are for '{config.get('task')}', not for '{TASK}'.")
        return cls(engine, RatingStage.of_config(config))

    @property
    def stage(self) -> RatingStage:
        """What follows the network."""
        return self._stage

    def assess(self, volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> NoduleAssessment:
        """Rate one nodule.

        Args:
            volume: the scan, or a crop of it that reaches about 20 mm beyond the nodule within its slices.
            box: where the mask lies in the scan; inside the scan.
            mask: bool, shape ``box.shape_ijk``.

        Raises:
            InputError: the mask is empty.
        """
        features, network = self._looked_at(volume, box, mask)
        assessment = self._stage.assess(self._stage.ratings(features, network.mean(axis=0, keepdims=True))[0])
        if len(network) == 1:
            return assessment
        each = self._stage.ratings(np.repeat(features, len(network), axis=0), network)
        malignancy = each[:, self._stage.attributes.index(MALIGNANCY)]
        probabilities = np.array([self._stage.probability(float(rating)) for rating in malignancy])
        return replace(assessment, member_information=float(mutual_information_bits(probabilities)))

    def rate(self, volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Ratings of one nodule, float64, in the order of the stage's ``attributes``."""
        features, network = self._looked_at(volume, box, mask)
        return np.asarray(self._stage.ratings(features, network.mean(axis=0, keepdims=True))[0])

    def _looked_at(
        self, volume: Volume, box: IndexBox, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Measurements, shape (1, F), and the ratings of each of the network's members, shape (members, N)."""
        features = as_vector(nodule_features(volume, box, mask), self._stage.features)
        views = nodule_views(volume, box, mask)[None]
        batch = np.concatenate([np.flip(views, axes) for axes in MIRRORS])
        logits = self._engine.run(batch)
        steps = logits.reshape(len(MIRRORS), logits.shape[1], len(self._stage.attributes), -1)
        return features[None], ratings_of_logits(steps.mean(axis=0))
