"""Examples for the judge: views of nodules and of what was taken for one.

What is no nodule comes from the places that the finder marks in scans whose nodules are all known: the judge learns
from the mistakes it will meet. Nodules are drawn equally often as they, and real scans equally often as phantoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import Candidate, Volume
from medai.domain.detection_case import TrueNodule
from medai.preprocessing.candidate_patches import PATCH_SHAPE, candidate_views

IGNORE_RIM_MM = 4.0
"""A place this near a nodule is neither a nodule nor a fair negative."""
LEAST_REACH_MM = 1.5
"""A place this near a nodule's centre is in it, however small it is."""

Views = NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CandidateSamples:
    """Views with the answer.

    Attributes:
        views: float16 [N, 2, 24, 24, 24], as ``candidate_views`` gives them.
        labels: bool [N], True for a nodule.
        families: [N], what is sampled evenly: "real" or "phantom".
    """

    views: Views
    labels: NDArray[np.bool_]
    families: NDArray[np.str_]

    @classmethod
    def of(cls, views: Sequence[NDArray[np.float32]], *, label: bool, family: str) -> CandidateSamples:
        """Samples that share label and family."""
        stacked = np.stack(views) if views else np.empty((0, 2, *PATCH_SHAPE))
        return cls(
            views=stacked.astype(np.float16),
            labels=np.full(len(views), label),
            families=np.full(len(views), family),
        )

    @classmethod
    def join(cls, parts: Sequence[CandidateSamples]) -> CandidateSamples:
        """All samples in one."""
        return cls(
            views=np.concatenate([part.views for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            families=np.concatenate([part.families for part in parts]),
        )


def samples_of_scan(
    scan: Volume,
    places: Sequence[Candidate],
    nodules: Sequence[TrueNodule],
    rng: np.random.Generator,
    *,
    irrelevant: Sequence[TrueNodule] = (),
    family: str,
    variants: int,
    most_negatives: int | None = None,
) -> CandidateSamples:
    """Places of a scan whose nodules are known, as samples.

    Args:
        scan: at the spacing at which the judge sees scans.
        places: marked in it, most probable first.
        nodules: all that it holds; what a place is follows from its distance to them.
        rng: shifts and choices.
        irrelevant: findings that are neither; places in and around them are not used.
        family: see ``CandidateSamples``.
        variants: shifted copies of each nodule.
        most_negatives: the most probable half of so many, and a random choice of the others; None for all.
    """
    positives = [jittered_views(scan, nodule, rng) for nodule in nodules for _ in range(variants)]
    wrong: list[Candidate] = []
    for place in places:
        relation = relation_to(place, nodules)
        if relation == "nodule":
            positives.append(candidate_views(scan, place.centre_ras_mm, place.diameter_mm))
        elif relation == "other" and relation_to(place, irrelevant) == "other":
            wrong.append(place)
    if most_negatives is not None and len(wrong) > most_negatives:
        sure = most_negatives // 2
        rest = rng.choice(np.arange(sure, len(wrong)), most_negatives - sure, replace=False)
        wrong = wrong[:sure] + [wrong[int(n)] for n in rest]
    negatives = [candidate_views(scan, place.centre_ras_mm, place.diameter_mm) for place in wrong]
    return CandidateSamples.join(
        [
            CandidateSamples.of(positives, label=True, family=family),
            CandidateSamples.of(negatives, label=False, family=family),
        ]
    )


def relation_to(place: Candidate, nodules: Sequence[TrueNodule]) -> str:
    """What a place is: "nodule" inside one (LUNA16's rule for a hit), "near" at its rim, else "other"."""
    nearest = "other"
    for nodule in nodules:
        distance_mm = float(np.linalg.norm(np.subtract(place.centre_ras_mm, nodule.centre_ras_mm)))
        if distance_mm <= max(nodule.diameter_mm / 2, LEAST_REACH_MM):
            return "nodule"
        if distance_mm <= nodule.diameter_mm / 2 + IGNORE_RIM_MM:
            nearest = "near"
    return nearest


def jittered_views(scan: Volume, nodule: TrueNodule, rng: np.random.Generator) -> NDArray[np.float32]:
    """Views of a nodule as a finder might have centred and sized it."""
    shift_mm = np.clip(rng.normal(0, 0.12, 3), -0.3, 0.3) * nodule.diameter_mm
    size_mm = nodule.diameter_mm * float(np.exp(rng.normal(0.0, 0.2)))
    centre = np.asarray(nodule.centre_ras_mm) + shift_mm
    return candidate_views(scan, [float(c) for c in centre], size_mm)
