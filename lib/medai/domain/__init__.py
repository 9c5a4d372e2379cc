"""The things medai talks about: scans, nodules, label maps, predictions. Frozen dataclasses over numpy."""

from medai.domain.assessment import NoduleAssessment, RatedProbability
from medai.domain.label_map import LabelMap, Segment
from medai.domain.nodule import Candidate, Nodule, NoduleKind
from medai.domain.prediction import Prediction
from medai.domain.volume import Volume

__all__ = [
    "Candidate",
    "LabelMap",
    "Nodule",
    "NoduleAssessment",
    "NoduleKind",
    "Prediction",
    "RatedProbability",
    "Segment",
    "Volume",
]
