"""What an evaluation of ratings found: an assessment a nodule, and the figures made of them.

Malignancy is judged on nodules that are called suspicious (4 or 5) or benign (1 or 2); 3 is undecided and counts for
neither. Intervals and paired tests draw whole patients, because nodules of one patient are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleAssessment, NoduleKind
from medai.domain.assessment import ATTRIBUTES, MALIGNANCY
from medai.errors import InputError
from medai.evaluation.calibration import ReliabilityBins
from medai.evaluation.roc import Auc, auc_by_patient, auc_gain, brier, quadratic_kappa
from medai.training.dataset import is_validation_patient
from medai.workflows.segmentation_report import SIZE_CLASSES_MM

SUSPICIOUS_FROM, BENIGN_TO = 4, 2
FEWEST_OF_A_GROUP = 5
"""A subgroup has an AUC where it has so many nodules of either sort."""
KINDS = (NoduleKind.NON_SOLID, NoduleKind.PART_SOLID, NoduleKind.SOLID)


class RatedOutline(StrEnum):
    """Which outline is rated: the folder's own, or ours from one simulated click."""

    REFERENCE = "reference"
    CLICK = "click"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationConfig:
    """Which nodules are rated and how.

    Attributes:
        outline: the headline figures are of these outlines; the others' AUC is given beside them.
        seed: places the clicks and draws the bootstrap.
        held_back_only: only patients whom the split by patient holds back from training.
        limit: at most so many nodules, the first of the folder; None for all.
    """

    outline: RatedOutline = RatedOutline.REFERENCE
    seed: int = 1
    held_back_only: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if (self.limit is not None and self.limit < 1) or self.seed < 0:
            raise InputError(f"At least one nodule and a seed from 0 on are needed, not {self.limit} and {self.seed}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedScore:
    """One nodule's assessment and what it was rated by readers.

    Attributes:
        case_id: its name.
        patient_id: whose it is; not for logs.
        diameter_mm: from the table, else measured of the mask.
        voted: attribute to the table's rating, 1–5 (calcification 1 or 5); those the table has.
        kind: what the texture rating says, None where there is none.
        reference: with the folder's outline.
        own: with ours; None where none was asked for.
    """

    case_id: str
    patient_id: str
    diameter_mm: float
    voted: Mapping[str, float]
    kind: NoduleKind | None
    reference: NoduleAssessment
    own: NoduleAssessment | None

    def assessment(self, outline: RatedOutline) -> NoduleAssessment:
        """With one of the outlines; the folder's where there is no other."""
        return self.own if outline is RatedOutline.CLICK and self.own is not None else self.reference

    @property
    def malignant(self) -> bool | None:
        """True for 4 and 5, False for 1 and 2, None for 3 or no rating."""
        rating = self.voted.get(MALIGNANCY)
        if rating is None or BENIGN_TO < rating < SUSPICIOUS_FROM:
            return None
        return rating >= SUSPICIOUS_FROM

    @property
    def size_class(self) -> str:
        """The name of its class of size."""
        low, high = next(limits for limits in SIZE_CLASSES_MM if self.diameter_mm < limits[1])
        if math.isinf(high):
            return f">={low:g} mm"
        return f"{low:g}-{high:g} mm" if low else f"<{high:g} mm"

    def error(self, outline: RatedOutline = RatedOutline.REFERENCE) -> float:
        """How wrong the probability is, 0–1; of an undecided nodule how far it is from one half, halved."""
        value = self.assessment(outline).malignancy.value
        return abs(value - 0.5) / 2 if self.malignant is None else abs(value - float(self.malignant))

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        shown: dict[str, Any] = {
            "case_id": self.case_id,
            "diameter_mm": round(self.diameter_mm, 2),
            "size": self.size_class,
            "malignancy_rated": self.voted.get(MALIGNANCY),
            "malignant": self.malignant,
            "texture": None if self.kind is None else str(self.kind),
            "held_back": is_validation_patient(self.patient_id),
            **_assessment_json(self.reference),
        }
        if self.own is not None:
            shown["own_outline"] = _assessment_json(self.own)
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationReport:
    """What an evaluation found.

    Attributes:
        scores: one a nodule, in the order of the folder.
        config: which and how.
        model: which model answered, JSON-ready.
        skipped: case id to the reason why it is not in the figures.
        warnings: what a reader of the figures should know.
        seconds: wall time of all.
    """

    scores: tuple[RatedScore, ...]
    config: ClassificationConfig
    model: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def decided(self) -> tuple[RatedScore, ...]:
        """The nodules that malignancy is judged on."""
        return tuple(score for score in self.scores if score.malignant is not None)

    def worst_cases(self, count: int = 10) -> tuple[RatedScore, ...]:
        """The decided nodules whose probability is most wrong, worst first."""
        outline = self.config.outline
        return tuple(sorted(self.decided, key=lambda score: (-score.error(outline), score.case_id))[:count])

    def to_json(self) -> dict[str, Any]:
        """For ``--json``: ``n``, ``auc``, ``auc_ci95``, ``size_only_auc``, ``auc_gain_p`` and more."""
        outline = self.config.outline
        figures = malignancy_figures(self.decided, outline, self.config.seed)
        held_back = [score for score in self.decided if is_validation_patient(score.patient_id)]
        return {
            **figures,
            "outline": str(outline),
            "n_nodules": len(self.scores),
            "n_undecided": sum(score.malignant is None for score in self.scores),
            "n_patients": len({score.patient_id for score in self.scores}),
            **self._by_outline(),
            "by_size": _groups(self.decided, lambda score: score.size_class, outline, self.config.seed),
            "by_texture": _groups(
                self.decided, lambda score: str(score.kind or "not rated"), outline, self.config.seed
            ),
            "texture": texture_figures(self.scores, outline),
            "attributes": attribute_figures(self.scores, outline),
            "held_back": malignancy_figures(held_back, outline, self.config.seed),
            "model": dict(self.model),
            "config": {"seed": self.config.seed, "held_back_only": self.config.held_back_only},
            "skipped": dict(self.skipped),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 1),
            "per_case": [score.to_json() for score in self.scores],
        }

    def _by_outline(self) -> dict[str, Any]:
        """AUC with each outline."""
        with_own = [score for score in self.decided if score.own is not None]
        reference = malignancy_figures(self.decided, RatedOutline.REFERENCE, self.config.seed)
        own = malignancy_figures(with_own, RatedOutline.CLICK, self.config.seed)
        return {
            "auc_reference_outline": reference["auc"],
            "auc_reference_outline_ci95": reference["auc_ci95"],
            "auc_own_outline": own["auc"],
            "auc_own_outline_ci95": own["auc_ci95"],
            "n_own_outline": own["n"],
            "auc_gain_p_own_outline": own["auc_gain_p"],
        }


def malignancy_figures(scores: Sequence[RatedScore], outline: RatedOutline, seed: int) -> dict[str, Any]:
    """AUC, gain over size alone, and calibration of decided nodules; None where they cannot be told."""
    figures: dict[str, Any] = {"n": len(scores)}
    malignant = np.array([bool(score.malignant) for score in scores], dtype=bool)
    figures |= {"n_malignant": int(malignant.sum()), "n_benign": int((~malignant).sum())}
    if min(figures["n_malignant"], figures["n_benign"]) < 2:
        nothing = ("auc", "auc_ci95", "size_only_auc", "size_only_auc_ci95", "auc_gain", "auc_gain_ci95", "auc_gain_p")
        return figures | dict.fromkeys((*nothing, "auc_gain_p_delong", "brier", "ece"))
    ratings = np.array([score.assessment(outline).malignancy_rating for score in scores])
    probability = np.array([score.assessment(outline).malignancy.value for score in scores])
    size = np.array([score.diameter_mm for score in scores])
    patients = [score.patient_id for score in scores]
    auc = auc_by_patient(probability, malignant, patients, np.random.default_rng(seed))
    size_only = auc_by_patient(size, malignant, patients, np.random.default_rng(seed))
    gain = auc_gain(probability, size, malignant, patients, np.random.default_rng(seed))
    bins = ReliabilityBins.of(probability, malignant)
    return figures | {
        "auc": round(auc.value, 4),
        "auc_ci95": _interval(auc),
        "size_only_auc": round(size_only.value, 4),
        "size_only_auc_ci95": _interval(size_only),
        "auc_gain": round(gain.value, 4),
        "auc_gain_ci95": [_rounded(gain.low), _rounded(gain.high)],
        "auc_gain_p": _rounded(gain.p_bootstrap),
        "auc_gain_p_delong": _rounded(gain.p_delong),
        "brier": round(brier(probability, malignant), 4),
        "ece": round(bins.expected_calibration_error, 4),
        "reliability": bins.rows(),
        "mean_rating": {
            "malignant": round(float(ratings[malignant].mean()), 3),
            "benign": round(float(ratings[~malignant].mean()), 3),
        },
    }


def texture_figures(scores: Sequence[RatedScore], outline: RatedOutline) -> dict[str, Any]:
    """Solid, part-solid, non-solid: share right, mean share right over the three, quadratically weighted kappa."""
    known = [score for score in scores if score.kind is not None]
    if not known:
        return {"n": 0, "accuracy": None, "balanced_accuracy": None, "weighted_kappa": None, "confusion": {}}
    truth = np.array([KINDS.index(score.kind) for score in known if score.kind is not None])
    answer = np.array([KINDS.index(score.assessment(outline).kind) for score in known])
    confusion = {
        str(kind): {str(other): int(np.sum((truth == row) & (answer == column))) for column, other in enumerate(KINDS)}
        for row, kind in enumerate(KINDS)
    }
    return {
        "n": len(known),
        "accuracy": round(float(np.mean(truth == answer)), 4),
        "balanced_accuracy": round(float(np.mean([np.mean(answer[truth == n] == n) for n in np.unique(truth)])), 4),
        "weighted_kappa": _rounded(quadratic_kappa(truth, answer, lowest=0, highest=2)),
        "confusion": confusion,
    }


def attribute_figures(scores: Sequence[RatedScore], outline: RatedOutline) -> dict[str, Any]:
    """For each attribute: mean error, rank correlation, and weighted kappa of the rounded rating with the vote."""
    from scipy.stats import spearmanr

    figures: dict[str, Any] = {}
    for name in ATTRIBUTES:
        pairs = [
            (score.voted[name], score.assessment(outline).ratings[name])
            for score in scores
            if name in score.voted and name in score.assessment(outline).ratings
        ]
        if len(pairs) < 2:
            continue
        voted, rated = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
        figures[name] = {
            "n": len(pairs),
            "mean_absolute_error": round(float(np.mean(np.abs(voted - rated))), 3),
            "spearman": _rounded(_correlation(spearmanr, voted, rated)),
            "weighted_kappa": _rounded(quadratic_kappa(np.rint(voted), np.rint(rated))),
        }
    return figures


def _correlation(spearmanr: Any, one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """NaN, without a warning, where either is the same for all."""
    return math.nan if np.ptp(one) == 0 or np.ptp(other) == 0 else float(spearmanr(one, other).statistic)


def _groups(scores: Sequence[RatedScore], name_of: Any, outline: RatedOutline, seed: int) -> dict[str, Any]:
    """AUC and calibration of each subgroup; no AUC for one with few nodules of either sort."""
    groups: dict[str, list[RatedScore]] = {}
    for score in scores:
        groups.setdefault(name_of(score), []).append(score)
    shown: dict[str, Any] = {}
    for name, members in sorted(groups.items()):
        malignant = sum(bool(score.malignant) for score in members)
        row: dict[str, Any] = {"n": len(members), "n_malignant": malignant}
        if min(malignant, len(members) - malignant) >= FEWEST_OF_A_GROUP:
            figures = malignancy_figures(members, outline, seed)
            row |= {key: figures[key] for key in ("auc", "auc_ci95", "size_only_auc", "brier")}
        shown[name] = row
    return shown


def _assessment_json(assessment: NoduleAssessment) -> dict[str, Any]:
    """One assessment, JSON-ready."""
    malignancy = assessment.malignancy
    return {
        "malignancy": round(malignancy.value, 4),
        "malignancy_interval": [round(malignancy.low, 4), round(malignancy.high, 4)],
        "ratings": dict(assessment.ratings),
        "kind": str(assessment.kind),
    }


def _interval(auc: Auc) -> list[float | None]:
    return [_rounded(auc.low), _rounded(auc.high)]


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
