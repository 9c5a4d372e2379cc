"""What is said of nodules beside the file: a row each, their centres, and the time it took, in MONAI Label's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medai.domain import Nodule, NoduleAssessment, Prediction
from medai.postprocessing.nodules import segment_name
from medai.server.click_params import IndexFrame
from medai.server.infer_request import InferRequest


def prediction_params(prediction: Prediction, versions: Mapping[str, str], request: InferRequest) -> dict[str, Any]:
    """What a whole scan's answer says beside its file: versions, a row and a centre a nodule, the seconds by stage."""
    frame = IndexFrame.of_request(prediction.geometry, request.params, is_case=bool(request.case_id))
    numbered = list(enumerate(prediction.nodules, start=1))
    return {
        "model_version": dict(versions),
        "nodules": [nodule_row(nodule, value) for value, nodule in numbered],
        "centroids": {str(value): centre_ijk(nodule, frame) for value, nodule in numbered},
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in prediction.stage_seconds.items()},
    }


def nodule_row(nodule: Nodule, value: int) -> dict[str, Any]:
    """A line of the nodule table."""
    row = {
        "value": value,
        "name": segment_name(nodule, value),
        "diameter_mm": round(nodule.diameter_mm, 2),
        "volume_mm3": round(nodule.volume_mm3, 1),
        "kind": str(nodule.kind),
        "side": nodule.side,
        "probability": round(nodule.probability, 4),
        "centre_ras_mm": [round(c, 3) for c in nodule.centre_ras_mm],
    }
    return row if nodule.assessment is None else {**row, "assessment": assessment_row(nodule.assessment)}


def assessment_row(assessment: NoduleAssessment) -> dict[str, Any]:
    """How a nodule is rated; probabilities 0–1, ratings 1–5."""
    malignancy = assessment.malignancy
    return {
        "malignancy": {
            "probability": round(malignancy.value, 4),
            "low": round(malignancy.low, 4),
            "high": round(malignancy.high, 4),
        },
        "malignancy_rating": round(assessment.malignancy_rating, 3),
        "ratings": {name: round(value, 3) for name, value in assessment.ratings.items()},
        "kind": str(assessment.kind),
        "kind_probabilities": {str(kind): round(value, 4) for kind, value in assessment.kind_probabilities.items()},
    }


def centre_ijk(nodule: Nodule, frame: IndexFrame) -> list[int]:
    """The voxel at a nodule's centre, on the grid that the client counts on."""
    i, j, k = (int(c) for c in np.rint(frame.geometry.ras_to_ijk(nodule.centre_ras_mm)))
    return list(frame.index((i, j, k)))


def latencies(*, pre: float, infer: float, post: float) -> dict[str, float]:
    """MONAI Label's names: loading and parameters, network and what belongs to it, encoding; seconds."""
    return {
        "pre": round(pre, 4),
        "infer": round(infer, 4),
        "post": round(post, 4),
        "total": round(pre + infer + post, 4),
    }
