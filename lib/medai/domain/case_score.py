"""What the models make of a case that nobody has labelled yet: the numbers by which the next case is chosen.

Everything is about candidate nodules, nothing about the volume: a scan of noisy air without a candidate scores nothing.
Only what the models give is here; what one of them cannot tell is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """One place of a scan that may be a nodule, and how sure the models are of it.

    Attributes:
        centre_ras_mm: of its outline, of the candidate where none was outlined; RAS millimetres.
        diameter_mm: mean axial diameter.
        volume_ml: of its outline; estimated from the diameter where none was drawn.
        probability: 0–1, that it is a nodule.
        predicted_class: what the models take it for ("solid, suspicious"); stratified strategies go by it.
        malignancy: 0–1, that readers call it suspicious; None where it was not rated.
        entropy: of the answer nodule or not, bits, 0 (sure) to 1.
        mutual_information: of the answer and which member of an ensemble gives it, bits (BALD): how much the members
            differ beyond what each is unsure of by itself. The larger one where outline and rating have an ensemble
            each; None without any.
        test_time_variation: how much the outlines of mirrored views differ: one less their mean Dice with what they
            agree on, 0–1. None where one view alone was looked at.
        outline_doubt: one less the Dice that may be expected of the outline, 0–1; None without an outline.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float
    probability: float
    predicted_class: str = ""
    malignancy: float | None = None
    entropy: float
    mutual_information: float | None = None
    test_time_variation: float | None = None
    outline_doubt: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise InputError(f"A candidate's probability is {self.probability}; it must lie between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseScore:
    """One case as the models see it.

    Attributes:
        case_id: the case.
        model_versions: task name to the version that looked.
        scored_at_s: when, seconds since 1970.
        candidates: most probable first; empty where the models found nothing at all.
        embedding: float32, shape (d,): where the case lies among all others, so that alike cases are near each other
            and one unit is a plain difference. None without a candidate: there is nothing to compare.
        expected_minutes: what its annotation is expected to take.
        disagreement: how much two models (the present champion and the one before) differ about its nodules, 0–1;
            None where one alone has looked.
    """

    case_id: str
    model_versions: Mapping[str, str]
    scored_at_s: float
    candidates: tuple[CandidateScore, ...] = ()
    embedding: NDArray[np.float32] | None = None
    expected_minutes: float
    disagreement: float | None = field(default=None)

    def __post_init__(self) -> None:
        if not self.expected_minutes > 0 or not np.isfinite(self.expected_minutes):
            raise InputError(
                f"Case '{self.case_id}' is expected to take {self.expected_minutes} minutes; it must be more than 0."
            )
        if self.embedding is not None and (self.embedding.ndim != 1 or not np.isfinite(self.embedding).all()):
            raise InputError(
                f"The embedding of case '{self.case_id}' has shape {self.embedding.shape}; it must be one row of "
                "finite numbers."
            )

    @property
    def version_key(self) -> str:
        """The models as one word; equal exactly where all versions are."""
        return version_key(self.model_versions)

    @property
    def expected_nodules(self) -> float:
        """How many of the candidates are nodules, on average."""
        return sum(candidate.probability for candidate in self.candidates)

    @property
    def expected_volume_ml(self) -> float:
        """How much there is to outline, on average."""
        return sum(candidate.probability * candidate.volume_ml for candidate in self.candidates)


def version_key(model_versions: Mapping[str, str]) -> str:
    """``nodule_click=v2 nodule_detection=starter``, in the order of the tasks' names."""
    return " ".join(f"{task}={version}" for task, version in sorted(model_versions.items()))
