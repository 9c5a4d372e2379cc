"""What a nodule is rated as: how suspicious it looks and what it looks like, in the terms of LIDC-IDRI's readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medai.domain.nodule_kind import NoduleKind
from medai.errors import InputError

MALIGNANCY = "malignancy"
ATTRIBUTES = (
    MALIGNANCY,
    "subtlety",
    "texture",
    "margin",
    "lobulation",
    "spiculation",
    "sphericity",
    "calcification",
)
"""What is rated, from 1 to 5: malignancy (unlikely to highly suspicious), subtlety (hardly seen to obvious), texture
(non-solid to solid), margin (poorly defined to sharp), lobulation and spiculation (none to marked), sphericity (linear
to round), calcification (none to certain; LIDC's own scale names its pattern, and 6 is none)."""
LOWEST_RATING, HIGHEST_RATING = 1, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedProbability:
    """A probability and how sure it is.

    Attributes:
        value: 0–1.
        low: lower end of its 90 % interval, 0–1.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high <= 1:
            raise InputError(
                f"A probability of {self.value} with the interval {self.low} to {self.high} is none: they must rise "
                "from 0 to 1."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoduleAssessment:
    """How a nodule is rated.

    Attributes:
        malignancy: that readers call it suspicious (4 or 5) rather than benign (1 or 2). Not that it is cancer.
        malignancy_rating: expected mean of the readers' ratings, 1–5.
        ratings: the same of every attribute of ``ATTRIBUTES`` the model rates.
        kind: the likeliest attenuation type.
        kind_probabilities: of each type; they sum to 1.
        member_information: how much the members of the ensemble that rated it differ about its malignancy: mutual
            information, bits; None where one network rated it.
    """

    malignancy: RatedProbability
    malignancy_rating: float
    ratings: Mapping[str, float] = field(default_factory=dict)
    kind: NoduleKind
    kind_probabilities: Mapping[NoduleKind, float] = field(default_factory=dict)
    member_information: float | None = None
