"""How much a person could tell the model about a scan."""

from __future__ import annotations

from medai.domain import Prediction


def scan_uncertainty(prediction: Prediction) -> float:
    """The most doubtful finding of a scan, 0 (sure of all, or nothing found) to 1 (as likely a nodule as not)."""
    return max((1.0 - abs(2.0 * nodule.probability - 1.0) for nodule in prediction.nodules), default=0.0)
