"""From measurements and the network's answers to an assessment: the last stage of the classification.

A rating of each attribute from what was measured and what every attribute looks like to the network: a linear one, and
how alike the nodule is to some of those that were trained on (Gaussian kernels around them). Then a logistic curve from
the malignancy rating to a probability, and two cuts on the texture rating that part non-solid, part-solid and solid. It
is small enough to travel as numbers in the weights' header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind
from medai.domain.assessment import (
    HIGHEST_RATING,
    LOWEST_RATING,
    MALIGNANCY,
    NoduleAssessment,
    RatedProbability,
)
from medai.errors import ModelError

TEXTURE = "texture"
_NINETY_PERCENT = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingStage:
    """The numbers of the last stage; F measurements, A attributes, N attributes as the network rates them.

    Attributes:
        attributes: what is rated, A names.
        features: names of the measurements, F.
        low: each measurement and then each of the network's ratings is raised to this at least, F + N: beyond what was
            trained on a line leads anywhere.
        high: and lowered to this at most, F + N.
        mean: of each of these columns, F + N.
        scale: what they are divided by, F + N.
        weights: A rows of F + N.
        bias: A.
        centres: standardised measurements of K nodules that others are likened to, K rows of F; may be empty.
        width: of the kernels around them.
        likeness_weights: A rows of K.
        malignancy_slope: of the logistic curve over the malignancy rating.
        malignancy_middle: rating with a probability of one half.
        spread_at: malignancy ratings, rising …
        spread: … and how far the mean of a few readers lies from such a rating (standard deviation).
        texture_slope: of the curves over the texture rating.
        non_solid_below: texture rating at which non-solid is as likely as not.
        solid_from: texture rating at which solid is as likely as not.
    """

    attributes: tuple[str, ...]
    features: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    centres: tuple[tuple[float, ...], ...]
    width: float
    likeness_weights: tuple[tuple[float, ...], ...]
    malignancy_slope: float
    malignancy_middle: float
    spread_at: tuple[float, ...]
    spread: tuple[float, ...]
    texture_slope: float
    non_solid_below: float
    solid_from: float

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> RatingStage:
        """Read the stage from a checkpoint's config.

        Raises:
            ModelError: numbers are missing or do not fit each other.
        """
        try:
            stored = dict(config["rating_stage"])
            stage = cls(**{name: _frozen(value) for name, value in stored.items()})
        except (KeyError, TypeError) as error:
            raise ModelError(f"These weights hold no complete rating stage ({error}): train them again.") from error
        columns = len(stage.mean)
        if (
            len(stage.scale) != columns
            or len(stage.weights) != len(stage.attributes)
            or any(len(row) != columns for row in stage.weights)
            or any(len(row) != len(stage.features) for row in stage.centres)
            or len(stage.likeness_weights) != len(stage.attributes)
            or any(len(row) != len(stage.centres) for row in stage.likeness_weights)
            or not len(stage.features) <= len(stage.low) == len(stage.high) == columns
        ):
            raise ModelError("The numbers of these weights' rating stage do not fit each other: train them again.")
        return stage

    def to_config(self) -> dict[str, Any]:
        """What ``of_config`` reads back, JSON-ready."""
        return asdict(self)

    def ratings(self, features: NDArray[np.float64], network: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rate nodules.

        Args:
            features: shape (n, F), in the order of ``features``.
            network: the network's own ratings, shape (n, N).

        Returns:
            Shape (n, A); a little beyond the scale for nodules like none that was trained on.
        """
        columns = self.standard(features, network)
        rated = columns @ np.asarray(self.weights).T + self.bias
        if self.centres:
            alike = likeness(columns[:, : len(self.features)], np.asarray(self.centres), self.width)
            rated = rated + alike @ np.asarray(self.likeness_weights).T
        return np.asarray(rated)

    def standard(self, features: NDArray[np.float64], network: NDArray[np.float64]) -> NDArray[np.float64]:
        """The columns within their limits, centred and scaled, shape (n, F + N)."""
        columns = np.clip(np.concatenate([features, network], axis=1), self.low, self.high)
        return np.asarray((columns - self.mean) / self.scale)

    def malignancy(self, rating: float) -> RatedProbability:
        """The probability of a malignancy rating.

        Its interval is that of the ratings which the mean of another few readers would have nine times in ten.
        """
        off = _NINETY_PERCENT * float(np.interp(rating, self.spread_at, self.spread))
        low, value, high = (self.probability(rating + shift) for shift in (-off, 0.0, off))
        return RatedProbability(value=value, low=low, high=high)

    def probability(self, rating: float) -> float:
        """0–1, that readers call a nodule of this rating suspicious rather than benign."""
        return float(_sigmoid(self.malignancy_slope * (rating - self.malignancy_middle)))

    def kinds(self, texture: float) -> dict[NoduleKind, float]:
        """How likely each attenuation type is by the texture rating; they sum to 1."""
        above_non_solid = float(_sigmoid(self.texture_slope * (texture - self.non_solid_below)))
        solid = min(above_non_solid, float(_sigmoid(self.texture_slope * (texture - self.solid_from))))
        return {
            NoduleKind.SOLID: solid,
            NoduleKind.PART_SOLID: above_non_solid - solid,
            NoduleKind.NON_SOLID: 1 - above_non_solid,
        }

    def assess(self, ratings: NDArray[np.float64]) -> NoduleAssessment:
        """Say in an assessment what one nodule's ratings, shape (A,), mean."""
        within = np.clip(ratings, LOWEST_RATING, HIGHEST_RATING)
        by_name = {name: round(float(value), 2) for name, value in zip(self.attributes, within, strict=True)}
        kinds = self.kinds(float(ratings[self.attributes.index(TEXTURE)]))
        malignancy = float(ratings[self.attributes.index(MALIGNANCY)])
        return NoduleAssessment(
            malignancy=self.malignancy(malignancy),
            malignancy_rating=by_name[MALIGNANCY],
            ratings=by_name,
            kind=max(kinds, key=lambda kind: kinds[kind]),
            kind_probabilities=kinds,
        )


def likeness(measured: NDArray[np.float64], centres: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Gaussian kernels: 1 at a centre, falling with the distance; shape (n, K)."""
    squares = (measured**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * measured @ centres.T
    return np.asarray(np.exp(-np.maximum(squares, 0.0) / (2 * width**2)))


def ratings_of_logits(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Expected ratings from the logits of being above each step of the scale: shape (…, steps) to (…)."""
    return np.asarray(LOWEST_RATING + _sigmoid(np.asarray(logits, dtype=np.float64)).sum(axis=-1))


def _sigmoid(value: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(value, -60.0, 60.0))))


def _frozen(value: Any) -> Any:
    """Lists, as JSON has them, to tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
