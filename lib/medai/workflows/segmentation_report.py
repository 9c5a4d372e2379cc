"""What an evaluation of outlines found: a score a nodule, and the figures made of them.

Figures are of nodules, never of pooled voxels; intervals draw whole patients, because nodules of one patient are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medai.domain import NoduleKind
from medai.errors import InputError
from medai.evaluation.calibration import RankAgreement, ReliabilityBins, rank_agreement
from medai.evaluation.dice import MeanInterval, mean_by_patient_bootstrap
from medai.evaluation.simulated_clicks import ClickPlace
from medai.training.dataset import is_validation_patient

SIZE_CLASSES_MM = ((0.0, 6.0), (6.0, 8.0), (8.0, 15.0), (15.0, 30.0), (30.0, math.inf))
"""The guidelines' limits: 6 and 8 mm of Fleischner 2017 and Lung-RADS v2022, 15 mm of Lung-RADS, 30 mm a mass."""
DOUBTFUL = (0.05, 0.95)
"""Probabilities between these are of voxels at the rim: elsewhere calibration is easy."""

_COUNT = "n"


def size_class_of(diameter_mm: float) -> str:
    """The name of the class of size that a nodule of this diameter belongs to, such as "6-8 mm"."""
    low, high = next(limits for limits in SIZE_CLASSES_MM if diameter_mm < limits[1])
    if math.isinf(high):
        return f">={low:g} mm"
    return f"{low:g}-{high:g} mm" if low else f"<{high:g} mm"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig:
    """How nodules are clicked on and which.

    Attributes:
        place: where the first click lies.
        clicks: how many a nodule; each further one is at the innermost voxel of the largest mistake.
        seed: places the clicks and draws the bootstrap.
        held_back_only: only patients whom the split by patient holds back from training.
        limit: at most so many nodules, the first of the folder; None for all.
    """

    place: ClickPlace = ClickPlace.CENTRE
    clicks: int = 1
    seed: int = 1
    held_back_only: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.clicks < 1 or (self.limit is not None and self.limit < 1) or self.seed < 0:
            raise InputError(
                f"An evaluation needs at least one click and one nodule and a seed from 0 on, not {self.clicks}, "
                f"{self.limit} and {self.seed}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoduleScore:
    """One nodule's outline against its mask.

    Attributes:
        case_id: its name.
        patient_id: whose it is; not for logs.
        diameter_mm: from the table, else measured of the mask.
        texture: what its texture rating says, None where it has none.
        dice: after the last click.
        dice_after: after each click.
        hausdorff95_mm: of the surfaces; NaN where the outline is empty.
        surface_mm: mean distance of the surfaces; NaN likewise.
        volume_mm3: of the mask.
        volume_error_percent: of the outline, above 0 where it is too large.
        uncertainty: what the model said of its own answer, 0 sure to 1 guessing.
        voxels: reliability of the voxels that were looked at.
        doubtful_voxels: the same of those whose probability is neither near 0 nor near 1.
        clicks: how many were made.
        first_click_ijk: where the first lay.
        seconds: wall time of the last answer.
    """

    case_id: str
    patient_id: str
    diameter_mm: float
    texture: NoduleKind | None
    dice: float
    dice_after: tuple[float, ...]
    hausdorff95_mm: float
    surface_mm: float
    volume_mm3: float
    volume_error_percent: float
    uncertainty: float
    voxels: ReliabilityBins
    doubtful_voxels: ReliabilityBins
    clicks: int
    first_click_ijk: tuple[int, int, int]
    seconds: float

    @property
    def size_class(self) -> str:
        """The name of its class of size."""
        return size_class_of(self.diameter_mm)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "case_id": self.case_id,
            "dice": round(self.dice, 4),
            "dice_after_click": [round(value, 4) for value in self.dice_after],
            "hd95_mm": _rounded(self.hausdorff95_mm),
            "surface_mm": _rounded(self.surface_mm),
            "volume_mm3": round(self.volume_mm3, 1),
            "volume_error_percent": round(self.volume_error_percent, 2),
            "diameter_mm": round(self.diameter_mm, 2),
            "size": self.size_class,
            "texture": None if self.texture is None else str(self.texture),
            "uncertainty": round(self.uncertainty, 4),
            "held_back": is_validation_patient(self.patient_id),
            "clicks": self.clicks,
            "first_click_ijk": list(self.first_click_ijk),
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationReport:
    """What an evaluation found.

    Attributes:
        scores: one a nodule, in the order of the folder.
        config: how they were clicked on.
        model: which model answered, JSON-ready.
        skipped: case id to the reason why it is not in the figures.
        warnings: what a reader of the figures should know.
        seconds: wall time of all.
    """

    scores: tuple[NoduleScore, ...]
    config: SegmentationConfig
    model: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    def interval(self, values: Sequence[float], scores: Sequence[NoduleScore] | None = None) -> MeanInterval:
        """Mean of one figure a nodule, with its interval: of patients, of nodules where all are of one patient."""
        scores = self.scores if scores is None else scores
        finite = [(value, score) for value, score in zip(values, scores, strict=True) if math.isfinite(value)]
        if not finite:
            return MeanInterval(mean=math.nan, low=math.nan, high=math.nan, cases=0, patients=0)
        groups = [score.patient_id for _, score in finite]
        if len(set(groups)) == 1:
            groups = [score.case_id for _, score in finite]
        found = mean_by_patient_bootstrap(
            [value for value, _ in finite], groups, np.random.default_rng(self.config.seed)
        )
        return MeanInterval(
            mean=found.mean,
            low=found.low,
            high=found.high,
            cases=found.cases,
            patients=len({score.patient_id for _, score in finite}),
        )

    @property
    def dice(self) -> MeanInterval:
        """Mean Dice with its interval."""
        return self.interval([score.dice for score in self.scores])

    @property
    def by_size(self) -> dict[str, list[NoduleScore]]:
        """Class of size to its nodules, small ones first."""
        return _grouped(sorted(self.scores, key=lambda score: score.diameter_mm), lambda score: score.size_class)

    @property
    def by_texture(self) -> dict[str, list[NoduleScore]]:
        """Texture to its nodules; "unrated" for those without a rating."""
        return _grouped(self.scores, lambda score: str(score.texture) if score.texture else "unrated")

    @property
    def voxels(self) -> ReliabilityBins:
        """Reliability of the probabilities of all voxels that were looked at; each nodule weighs the same."""
        return _mean_bins([score.voxels for score in self.scores])

    @property
    def doubtful_voxels(self) -> ReliabilityBins:
        """The same of voxels that are neither surely in nor surely out."""
        return _mean_bins([score.doubtful_voxels for score in self.scores])

    @property
    def uncertainty_agreement(self) -> RankAgreement:
        """Rank correlation of the model's uncertainty with Dice; −1 would be a perfect warning."""
        return rank_agreement(
            [score.uncertainty for score in self.scores],
            [score.dice for score in self.scores],
            [score.patient_id for score in self.scores],
            np.random.default_rng(self.config.seed),
        )

    def summary(self, scores: Sequence[NoduleScore]) -> dict[str, Any]:
        """Figures of some of the nodules, JSON-ready."""
        found = self.interval([score.dice for score in scores], scores)
        distances = [score.hausdorff95_mm for score in scores]
        return {
            _COUNT: len(scores),
            "n_patients": found.patients,
            "dice_mean": _rounded(found.mean),
            "dice_ci95": [_rounded(found.low), _rounded(found.high)],
            "dice_median": _rounded(_median([score.dice for score in scores])),
            "hd95_mm_mean": _rounded(self.interval(distances, scores).mean),
            "volume_error_percent_mean": _rounded(_mean([score.volume_error_percent for score in scores])),
        }

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        held_back = [score for score in self.scores if is_validation_patient(score.patient_id)]
        distance = self.interval([score.hausdorff95_mm for score in self.scores])
        return {
            **self.summary(self.scores),
            "dice_worst_tenth": _rounded(float(np.percentile([score.dice for score in self.scores], 10))),
            "hd95_mm_ci95": [_rounded(distance.low), _rounded(distance.high)],
            "hd95_mm_median": _rounded(_median([score.hausdorff95_mm for score in self.scores])),
            "surface_mm_mean": _rounded(_mean([score.surface_mm for score in self.scores])),
            "volume_error": self._volume_error(),
            "dice_by_click": self._dice_by_click(),
            "by_size": {name: self.summary(scores) for name, scores in self.by_size.items()},
            "by_texture": {name: self.summary(scores) for name, scores in self.by_texture.items()},
            "held_back": self.summary(held_back) if held_back else {_COUNT: 0},
            "calibration": self._calibration(),
            "seconds_per_click": {
                "mean": _rounded(_mean([score.seconds for score in self.scores])),
                "median": _rounded(_median([score.seconds for score in self.scores])),
            },
            "click": str(self.config.place),
            "clicks": self.config.clicks,
            "seed": self.config.seed,
            "held_back_only": self.config.held_back_only,
            "model": dict(self.model),
            "n_skipped": len(self.skipped),
            "skipped": dict(self.skipped),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 1),
            "per_case": [score.to_json() for score in self.scores],
        }

    def _volume_error(self) -> dict[str, Any]:
        errors = [score.volume_error_percent for score in self.scores]
        found = self.interval(errors)
        return {
            "mean_percent": _rounded(found.mean),
            "ci95_percent": [_rounded(found.low), _rounded(found.high)],
            "median_percent": _rounded(_median(errors)),
            "mean_absolute_percent": _rounded(_mean([abs(error) for error in errors])),
        }

    def _dice_by_click(self) -> list[dict[str, Any]]:
        """Mean Dice after each click; a nodule that needed no further one keeps its last Dice."""
        rows: list[dict[str, Any]] = []
        for number in range(self.config.clicks):
            found = self.interval(
                [score.dice_after[min(number, len(score.dice_after) - 1)] for score in self.scores], self.scores
            )
            rows.append(
                {
                    "clicks": number + 1,
                    "dice_mean": _rounded(found.mean),
                    "dice_ci95": [_rounded(found.low), _rounded(found.high)],
                }
            )
        return rows

    def _calibration(self) -> dict[str, Any]:
        agreement = self.uncertainty_agreement
        surest = sorted(self.scores, key=lambda score: score.uncertainty)
        half = (len(surest) + 1) // 2
        return {
            "what": (
                "Probability of a voxel against its mask, over the voxels the model looked at, each nodule weighing "
                f"the same; doubtful: those between {DOUBTFUL[0]} and {DOUBTFUL[1]}"
            ),
            "ece": _rounded(self.voxels.expected_calibration_error),
            "bins": _rounded_rows(self.voxels),
            "ece_doubtful": _rounded(self.doubtful_voxels.expected_calibration_error),
            "bins_doubtful": _rounded_rows(self.doubtful_voxels),
            "uncertainty": {
                "spearman_with_dice": _rounded(agreement.rho),
                "spearman_ci95": [_rounded(agreement.low), _rounded(agreement.high)],
                "spearman_p": agreement.p_value,
                "dice_mean_surest_half": _rounded(_mean([score.dice for score in surest[:half]])),
                "dice_mean_least_sure_half": _rounded(_mean([score.dice for score in surest[half:]])),
            },
        }


def _grouped(scores: Sequence[NoduleScore], name_of: Callable[[NoduleScore], str]) -> dict[str, list[NoduleScore]]:
    groups: dict[str, list[NoduleScore]] = {}
    for score in scores:
        groups.setdefault(name_of(score), []).append(score)
    return groups


def _mean_bins(parts: Sequence[ReliabilityBins]) -> ReliabilityBins:
    """Their mean; empty bins where no nodule has such a voxel."""
    if not any(part.weight.sum() > 0 for part in parts):
        return ReliabilityBins.of([], [])
    return ReliabilityBins.mean(parts)


def _rounded_rows(bins: ReliabilityBins) -> list[dict[str, float]]:
    return [{name: round(value, 5) for name, value in row.items()} for row in bins.rows()]


def _rounded(value: float) -> float:
    return round(value, 4) if math.isfinite(value) else math.nan


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan
