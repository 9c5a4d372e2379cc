"""Examples for the candidate network: views of nodules and of what only looks like one.

Real nodules with their surroundings are rare (``lidc_cubes``); most come as crops that end at the nodule's first and
last slice (``lidc_nodules``). So that a cut-off patch is no hint, negatives of real scans are cut off in the same way
(``cut_like_crop``), and nodules and negatives are drawn equally often from each source family (real, phantom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.geometry import IndexBox
from medai.preprocessing.blobs import Blob
from medai.preprocessing.candidate_patches import PATCH_SHAPE, candidate_views

IGNORE_RIM_MM = 4.0
"""A blob this near a nodule is neither a nodule nor a fair negative."""
CROP_HALF_MM = 20.0
"""In-plane half width of the crops in ``lidc_nodules``."""

Views = NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNodule:
    """Where a nodule is known to be: RAS millimetres and diameter."""

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float


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
    volume: Volume,
    blobs: Sequence[Blob],
    nodules: Sequence[KnownNodule],
    rng: np.random.Generator,
    *,
    family: str,
    variants: int,
    most_negatives: int | None = None,
    crop_share: float = 0.0,
) -> CandidateSamples:
    """Blobs of a scan whose nodules are known, as samples.

    Args:
        volume: the scan.
        blobs: found in it.
        nodules: all that it holds; what a blob is follows from its distance to them.
        rng: shifts and choices.
        family: see ``CandidateSamples``.
        variants: shifted copies of each nodule.
        most_negatives: a random choice of so many; None for all.
        crop_share: share of negatives that are cut off like a crop as well, as further samples.
    """
    positives = [jittered_views(volume, nodule, rng) for nodule in nodules for _ in range(variants)]
    negatives: list[NDArray[np.float32]] = []
    misses: list[Blob] = []
    for blob in blobs:
        relation = relation_to(blob, nodules)
        if relation == "nodule":
            positives.append(candidate_views(volume, blob.centre_ras_mm, blob.diameter_mm))
        elif relation == "other":
            misses.append(blob)
    if most_negatives is not None and len(misses) > most_negatives:
        misses = [misses[int(n)] for n in rng.choice(len(misses), most_negatives, replace=False)]
    for blob in misses:
        negatives.append(candidate_views(volume, blob.centre_ras_mm, blob.diameter_mm))
        if rng.random() < crop_share:
            cut = cut_like_crop(volume, blob, rng)
            negatives.append(candidate_views(cut, blob.centre_ras_mm, blob.diameter_mm))
    return CandidateSamples.join(
        [
            CandidateSamples.of(positives, label=True, family=family),
            CandidateSamples.of(negatives, label=False, family=family),
        ]
    )


def relation_to(blob: Blob, nodules: Sequence[KnownNodule]) -> str:
    """What a blob is: "nodule" inside one (LUNA16's rule for a hit), "near" at its rim, else "other"."""
    nearest = "other"
    for nodule in nodules:
        distance_mm = float(np.linalg.norm(np.subtract(blob.centre_ras_mm, nodule.centre_ras_mm)))
        if distance_mm <= max(nodule.diameter_mm / 2, 1.5):
            return "nodule"
        if distance_mm <= nodule.diameter_mm / 2 + IGNORE_RIM_MM:
            nearest = "near"
    return nearest


def jittered_views(volume: Volume, nodule: KnownNodule, rng: np.random.Generator) -> NDArray[np.float32]:
    """Views of a nodule as a blob finder might have centred and sized it."""
    shift_mm = np.clip(rng.normal(0, 0.12, 3), -0.3, 0.3) * nodule.diameter_mm
    size_mm = nodule.diameter_mm * float(np.exp(rng.normal(-0.05, 0.25)))
    centre = np.asarray(nodule.centre_ras_mm) + shift_mm
    return candidate_views(volume, [float(c) for c in centre], size_mm)


def cut_like_crop(volume: Volume, blob: Blob, rng: np.random.Generator) -> Volume:
    """Cut a place out as the crops of ``lidc_nodules`` are: 20 mm to each side, only its own slices along z."""
    axis = int(np.argmax(np.abs(volume.geometry.directions_ras[2])))
    half_mm = np.full(3, CROP_HALF_MM)
    half_mm[axis] = blob.diameter_mm * float(rng.uniform(0.4, 0.9))
    centre = np.rint(volume.geometry.ras_to_ijk(blob.centre_ras_mm)).astype(int)
    half = np.maximum(1, np.rint(half_mm / np.asarray(volume.geometry.spacing_mm)).astype(int))
    start, stop = centre - half, centre + half + 1
    box = IndexBox(
        start_ijk=(int(start[0]), int(start[1]), int(start[2])), stop_ijk=(int(stop[0]), int(stop[1]), int(stop[2]))
    )
    return volume.crop(box.clip(volume.geometry.shape_ijk))
