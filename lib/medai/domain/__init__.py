"""The things medai talks about: scans, nodules, label maps, predictions. Frozen dataclasses over numpy."""

from medai.domain.assessment import NoduleAssessment, RatedProbability
from medai.domain.label_map import LabelMap, Segment
from medai.domain.nodule import Candidate, Nodule, NoduleKind, OutlineDoubt
from medai.domain.prediction import Prediction
from medai.domain.volume import Volume

__all__ = [
    "Candidate",
    "LabelMap",
    "Nodule",
    "NoduleAssessment",
    "NoduleKind",
    "OutlineDoubt",
    "Prediction",
    "RatedProbability",
    "Segment",
    "Volume",
]
