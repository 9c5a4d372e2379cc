"""Fits the last stage of the classification on answers the network gave for nodules it had not seen.

Each member of the network leaves out a share of the patients; its answers for them, beside the measurements, are what
the last stage learns from. The probability is calibrated on ratings that were left out once more, patient by patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind
from medai.domain.assessment import ATTRIBUTES, MALIGNANCY
from medai.errors import InputError, ModelError
from medai.postprocessing.ratings import TEXTURE, RatingStage, likeness, ratings_of_logits
from medai.training.classification_samples import RatedSample
from medai.training.classification_trainer import fold_of_patient

SUSPICIOUS_FROM, BENIGN_TO = 4, 2
"""Votes that count as malignant and as benign; 3 is undecided and judged by neither."""
FEWEST_TO_CALIBRATE = 25
"""A model that is corrected by a study keeps its curves until the study has so many nodules of either sort."""
_KNOTS = tuple(float(n) for n in np.arange(1.0, 5.01, 0.5))
_KNOT_WIDTH = 0.6
_LEAST_SPREAD = 0.15
_LEAST_SCALE = 0.01
"""A column that hardly differs between nodules must not be blown up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """How the last stage is fitted.

    Attributes:
        feature_penalty: ridge penalty on the weights of the measurements.
        network_penalty: on those of the network's ratings.
        centres: nodules, drawn at random, that others are likened to.
        width: of the kernels around them, in standard deviations over all measurements.
        likeness_penalty: penalty of that part, as of kernel ridge regression.
        folds: of the calibration.
        seed: draws the centres.
    """

    feature_penalty: float = 2000.0
    network_penalty: float = 100.0
    centres: int = 200
    width: float = 20.0
    likeness_penalty: float = 0.1
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeftOutRatings:
    """Ratings of training nodules by stages that had not seen their patient.

    Attributes:
        case_ids: the nodules.
        reference: shape (n, attributes), with the reference outline.
        own: with our own outline, where there is one.
    """

    case_ids: tuple[str, ...]
    reference: NDArray[np.float64]
    own: NDArray[np.float64]


Answers = Mapping[str, NDArray[np.float64]]
"""Case id to the network's logits for every outline, shape (variants, attributes, steps)."""


def fit_stage(
    samples: Sequence[RatedSample],
    answers: Answers,
    config: StageConfig,
    *,
    start_from: RatingStage | None = None,
) -> tuple[RatingStage, LeftOutRatings]:
    """Fit the last stage.

    Args:
        samples: training nodules.
        answers: by members that did not see the nodule's patient.
        config: how.
        start_from: a stage that is corrected only as far as these nodules ask for it, whose curves stay where they are
            few, and whose cuts between the attenuation types stay; None fits a new one.

    Returns:
        The stage fitted on all samples, and the left-out ratings its calibration was fitted on.

    Raises:
        ModelError: ``start_from`` takes other measurements.
        InputError: a nodule has no answers, or no nodule is called malignant or none benign.
    """
    if start_from is not None and start_from.features != samples[0].feature_names:
        raise ModelError(
            "The weights to go on from take other measurements: start from those of this version of medai."
        )
    missing = [sample.case_id for sample in samples if sample.case_id not in answers]
    if missing:
        raise InputError(f"{len(missing)} nodules have no answers of the network, {missing[0]} the first.")
    fold = np.array([fold_of_patient(sample.patient_id, config.folds) for sample in samples])
    left_out = np.zeros((len(samples), len(ATTRIBUTES)))
    left_out_own = np.zeros_like(left_out)
    for number in np.unique(fold):
        others = [sample for sample, n in zip(samples, fold, strict=True) if n != number]
        if not others and start_from is None:
            raise InputError("All rated nodules are of one patient: rate nodules of two patients at least.")
        stage = start_from if not others and start_from else _linear(others, answers, config, start_from)
        for index in np.flatnonzero(fold == number):
            sample = samples[index]
            rated = stage.ratings(sample.features, ratings_of_logits(answers[sample.case_id]))
            left_out[index] = rated[sample.variant("reference")]
            left_out_own[index] = rated[sample.variant("own")]
    stage = _linear(samples, answers, config, start_from)
    if _may_calibrate(samples, start_from):
        stage = _calibrated(stage, samples, left_out)
    if start_from is None:
        stage = _with_kinds(stage, samples, left_out)
    return stage, LeftOutRatings(
        case_ids=tuple(sample.case_id for sample in samples), reference=left_out, own=left_out_own
    )


def _may_calibrate(samples: Sequence[RatedSample], start_from: RatingStage | None) -> bool:
    """False where there is a calibrated stage already and these nodules are too few to judge it by."""
    voted = np.array([sample.voted[ATTRIBUTES.index(MALIGNANCY)] for sample in samples])
    fewest = min(np.count_nonzero(voted >= SUSPICIOUS_FROM), np.count_nonzero(voted <= BENIGN_TO))
    return start_from is None or fewest >= FEWEST_TO_CALIBRATE


def _linear(
    samples: Sequence[RatedSample],
    answers: Answers,
    config: StageConfig,
    start_from: RatingStage | None,
) -> RatingStage:
    """Ridge regression of the readers' mean on every outline's columns; the outlines of a nodule share its weight.

    Going on from a stage, it is the difference to that stage which is fitted, and kept small.
    """
    features = np.concatenate([sample.features for sample in samples])
    network = np.concatenate([ratings_of_logits(answers[sample.case_id]) for sample in samples])
    weight = np.concatenate([np.full(len(sample.features), 1 / len(sample.features)) for sample in samples])
    target = np.concatenate([np.tile(sample.ratings, (len(sample.features), 1)) for sample in samples])
    base = start_from or _blank(samples, features, network, config)
    columns = base.standard(features, network)
    before = base.ratings(features, network)
    penalty = np.repeat([config.feature_penalty, config.network_penalty], [features.shape[1], network.shape[1]])
    centres, whitened = np.asarray(base.centres), np.zeros((0, 0))
    if start_from is None and len(centres):
        # In these coordinates kernel ridge regression is plain ridge regression.
        among = likeness(centres, centres, base.width) + 1e-4 * np.eye(len(centres))
        whitened = np.linalg.inv(np.linalg.cholesky(among)).T
        alike = likeness(columns[:, : features.shape[1]], centres, base.width)
        columns = np.concatenate([columns, alike @ whitened], axis=1)
        penalty = np.concatenate([penalty, np.full(len(centres), config.likeness_penalty)])
    linear, likenesses, bias = [], [], []
    count = features.shape[1] + network.shape[1]
    for index in range(len(ATTRIBUTES)):
        rated = np.isfinite(target[:, index])
        wanted = target[rated, index] - before[rated, index]
        row, level = _ridge(columns[rated], wanted, weight[rated], penalty)
        linear.append(_rounded(row[:count] + base.weights[index]))
        of_centres = whitened @ row[count:] if len(whitened) else np.zeros(len(centres))
        likenesses.append(_rounded(of_centres + base.likeness_weights[index]))
        bias.append(level + base.bias[index])
    return replace(base, weights=tuple(linear), likeness_weights=tuple(likenesses), bias=_rounded(bias))


def _blank(
    samples: Sequence[RatedSample],
    features: NDArray[np.float64],
    network: NDArray[np.float64],
    config: StageConfig,
) -> RatingStage:
    """A stage that rates everything in the middle of the scale, scaled to these columns."""
    columns = np.concatenate([features, network], axis=1)
    low, high = np.percentile(columns, [0.5, 99.5], axis=0)
    columns = np.clip(columns, low, high)
    mean, scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), _LEAST_SCALE)
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(len(columns), min(config.centres, len(columns)), replace=False)
    centres = np.round((columns[chosen] - mean) / scale, 2)[:, : features.shape[1]]
    return RatingStage(
        attributes=ATTRIBUTES,
        features=samples[0].feature_names,
        low=_rounded(low),
        high=_rounded(high),
        mean=_rounded(mean),
        scale=_rounded(scale),
        weights=((0.0,) * columns.shape[1],) * len(ATTRIBUTES),
        bias=(3.0,) * len(ATTRIBUTES),
        centres=tuple(tuple(float(n) for n in row) for row in centres),
        width=config.width,
        likeness_weights=((0.0,) * len(centres),) * len(ATTRIBUTES),
        malignancy_slope=2.0,
        malignancy_middle=3.0,
        spread_at=_KNOTS,
        spread=(0.5,) * len(_KNOTS),
        texture_slope=3.0,
        non_solid_below=2.5,
        solid_from=3.5,
    )


def _rounded(numbers: NDArray[np.float64] | Sequence[float]) -> tuple[float, ...]:
    """Nine significant digits: short enough to travel as text, and the same numbers to what they rate."""
    return tuple(float(f"{number:.9g}") for number in numbers)


def _ridge(
    columns: NDArray[np.float64], target: NDArray[np.float64], weight: NDArray[np.float64], penalty: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Weights and level of a weighted ridge regression; zero where there is nothing to learn from."""
    if not len(target):
        return np.zeros(columns.shape[1]), 0.0
    centre = np.average(columns, axis=0, weights=weight)
    level = float(np.average(target, weights=weight))
    moved = columns - centre
    gram = (moved * weight[:, None]).T @ moved + np.diag(penalty)
    row = np.linalg.solve(gram, (moved * weight[:, None]).T @ (target - level))
    return row, level - float(row @ centre)


def _calibrated(stage: RatingStage, samples: Sequence[RatedSample], left_out: NDArray[np.float64]) -> RatingStage:
    """Fit the curves from ratings to probabilities on left-out ratings."""
    column = ATTRIBUTES.index(MALIGNANCY)
    rating = left_out[:, column]
    voted = np.array([sample.voted[column] for sample in samples])
    decided = (voted >= SUSPICIOUS_FROM) | (voted <= BENIGN_TO)
    malignant = voted[decided] >= SUSPICIOUS_FROM
    if malignant.all() or not malignant.any():
        raise InputError(
            f"Of {int(decided.sum())} decided nodules {int(malignant.sum())} are called malignant: a probability needs "
            f"nodules rated {SUSPICIOUS_FROM} or 5 and nodules rated 1 or {BENIGN_TO}."
        )
    slope, shift = _logistic(rating[decided], malignant)
    readers = np.array([sample.ratings[column] for sample in samples])
    known = np.isfinite(readers)
    spread = _local_spread(rating[known], readers[known] - rating[known])
    return replace(stage, malignancy_slope=slope, malignancy_middle=-shift / slope, spread=spread)


def _with_kinds(stage: RatingStage, samples: Sequence[RatedSample], left_out: NDArray[np.float64]) -> RatingStage:
    """Fit the cuts between the attenuation types on left-out ratings."""
    column = ATTRIBUTES.index(TEXTURE)
    slope, low, high = _cuts(left_out[:, column], [kind_of_texture(sample.voted[column]) for sample in samples])
    return replace(stage, texture_slope=slope, non_solid_below=low, solid_from=high)


def kind_of_texture(rating: float) -> NoduleKind | None:
    """LIDC's texture rating as an attenuation type: up to 2 non-solid, 3 part-solid, from 4 solid; None without one."""
    if not np.isfinite(rating):
        return None
    if rating < 2.5:
        return NoduleKind.NON_SOLID
    return NoduleKind.PART_SOLID if rating < 3.5 else NoduleKind.SOLID


def _logistic(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope (positive) and shift of Platt's curve, with his softened targets."""
    from scipy.optimize import minimize

    ups, downs = positive.sum(), (~positive).sum()
    target = np.where(positive, (ups + 1) / (ups + 2), 1 / (downs + 2))

    def loss(parameters: NDArray[np.float64]) -> float:
        z = np.exp(parameters[0]) * (values - 3.0) + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - target * z))

    best = minimize(loss, np.array([0.5, 0.0]), method="Nelder-Mead").x
    slope = float(np.exp(best[0]))
    return slope, float(best[1]) - 3.0 * slope


def _local_spread(rating: NDArray[np.float64], residual: NDArray[np.float64]) -> tuple[float, ...]:
    """Root mean square of residuals near each knot; far from all ratings that of all."""
    overall = float(np.mean(residual**2))
    spread = []
    for knot in _KNOTS:
        near = np.exp(-0.5 * ((rating - knot) / _KNOT_WIDTH) ** 2)
        # A few nodules' weight of the overall value keeps the empty ends of the scale steady.
        square = (float(near @ residual**2) + 5 * overall) / (float(near.sum()) + 5)
        spread.append(max(_LEAST_SPREAD, float(np.sqrt(square))))
    return tuple(spread)


def _cuts(texture: NDArray[np.float64], kinds: Sequence[NoduleKind | None]) -> tuple[float, float, float]:
    """Slope and both cuts of an ordered logistic model of the attenuation type."""
    from scipy.optimize import minimize

    known = np.array([kind is not None for kind in kinds])
    solid = np.array([kind is NoduleKind.SOLID for kind in kinds])[known]
    non_solid = np.array([kind is NoduleKind.NON_SOLID for kind in kinds])[known]
    values = texture[known]
    if not len(values):
        return 3.0, 2.5, 3.5

    def loss(parameters: NDArray[np.float64]) -> float:
        slope, low = np.exp(parameters[0]), parameters[1]
        high = low + np.exp(parameters[2])
        above = 1 / (1 + np.exp(-np.clip(slope * (values - low), -60, 60)))
        top = 1 / (1 + np.exp(-np.clip(slope * (values - high), -60, 60)))
        chance = np.where(solid, top, np.where(non_solid, 1 - above, above - top))
        return float(-np.mean(np.log(np.clip(chance, 1e-9, 1)))) + 1e-3 * float((parameters[0] - 1) ** 2)

    best = minimize(loss, np.array([1.0, 2.5, 0.0]), method="Nelder-Mead", options={"maxiter": 4000}).x
    return float(np.exp(best[0])), float(best[1]), float(best[1] + np.exp(best[2]))
