"""Scores a test can work out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medai.domain.case_score import CandidateScore, CaseScore
from medai.evaluation.information import entropy_bits

VERSIONS = {"nodule_click": "v1", "nodule_detection": "v1"}


def candidate(
    probability: float = 0.5,
    *,
    diameter_mm: float = 6.0,
    predicted_class: str = "solid",
    information: float | None = None,
    variation: float | None = None,
    volume_ml: float = 0.1,
    centre_ras_mm: tuple[float, float, float] = (1.0, 2.0, 3.0),
) -> CandidateScore:
    return CandidateScore(
        centre_ras_mm=centre_ras_mm,
        diameter_mm=diameter_mm,
        volume_ml=volume_ml,
        probability=probability,
        predicted_class=predicted_class,
        entropy=float(entropy_bits(probability)),
        mutual_information=information,
        test_time_variation=variation,
    )


def case_score(
    case_id: str,
    *candidates: CandidateScore,
    at: Sequence[float] | None = None,
    minutes: float = 4.0,
    disagreement: float | None = None,
    versions: dict[str, str] = VERSIONS,
    scored_at_s: float = 1000.0,
) -> CaseScore:
    return CaseScore(
        case_id=case_id,
        model_versions=versions,
        scored_at_s=scored_at_s,
        candidates=candidates,
        embedding=None if at is None else np.asarray(at, dtype=np.float32),
        expected_minutes=minutes,
        disagreement=disagreement,
    )
