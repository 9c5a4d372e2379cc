"""What the classifier learns from: a nodule's views and measurements under several outlines, and how readers rated it.

In use the outline comes from a click and is never quite a reader's, so that each nodule is shown with the reference
outline, with our own from one click, and with one that is changed at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain.assessment import ATTRIBUTES, HIGHEST_RATING, LOWEST_RATING
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import IndexBox
from medai.preprocessing.nodule_features import nodule_features
from medai.preprocessing.nodule_views import VIEW_SIZE, nodule_views

STEPS = HIGHEST_RATING - LOWEST_RATING
"""Steps of a scale: how many answers "above this" an attribute has."""
STORED_SIZE = 40
"""Voxels along a stored view: ``VIEW_SIZE`` and something to turn and shift in."""
REFERENCE, OWN, CHANGED = "reference", "own", "changed"
NO_CALCIUM = 6
"""LIDC's calcification rating of a nodule without any; lower ones name a pattern."""
_LEAST_VOXELS = 4

Readers = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoduleWithReaders:
    """A nodule and how its readers rated it.

    Attributes:
        case: the scan around it and its reference outline.
        readers: the ratings of each reader, attribute to 1–5; an attribute may be missing.
        voted: the ratings it is judged by; those of the readers' vote.
    """

    case: ClickCase
    readers: tuple[Mapping[str, float], ...]
    voted: Mapping[str, float]

    @classmethod
    def of_one(cls, case: ClickCase, ratings: Mapping[str, float]) -> NoduleWithReaders:
        """A nodule that one annotator has rated."""
        return cls(case=case, readers=(ratings,), voted=ratings)

    @property
    def case_id(self) -> str:
        """Names the nodule."""
        return self.case.case_id

    @property
    def patient_id(self) -> str:
        """What is never split."""
        return self.case.patient_id


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatedSample:
    """One nodule as the classifier learns from it.

    Attributes:
        case_id: names the nodule.
        patient_id: what is never split.
        views: int8 (127 is 1.0), shape (variants, 6, S, S, S) with S above ``VIEW_SIZE``: one variant an outline.
        features: float64, shape (variants, features): the measurements of each outline.
        shares: float32, shape (attributes, steps): share of readers above each step; NaN where an attribute is not
            rated.
        ratings: float64, shape (attributes,): mean of the readers, 1–5; NaN where not rated.
        voted: float64, shape (attributes,): the rating the nodule is judged by; NaN where there is none.
        outlines: what the variants are: "reference", "own" or "changed"; the reference comes first.
        feature_names: of the measurements.
    """

    case_id: str
    patient_id: str
    views: NDArray[np.int8]
    features: NDArray[np.float64]
    shares: NDArray[np.float32]
    ratings: NDArray[np.float64]
    voted: NDArray[np.float64]
    outlines: tuple[str, ...]
    feature_names: tuple[str, ...]

    def variant(self, outline: str) -> int:
        """Index of an outline's variant; the reference where there is no such outline."""
        return self.outlines.index(outline) if outline in self.outlines else 0


def rated_sample(nodule: NoduleWithReaders, own: NDArray[np.bool_] | None, rng: np.random.Generator) -> RatedSample:
    """Look at a nodule under its outlines.

    Args:
        nodule: with at least one rating.
        own: our own outline of it, shape of the case; None or empty where there is none.
        rng: changes the reference outline.

    Raises:
        InputError: no attribute is rated.
    """
    shares, ratings = shares_and_means(nodule.readers)
    if not np.isfinite(ratings).any():
        raise InputError(f"Nodule {nodule.case_id} has no rating: there is nothing to learn from.")
    _, voted = shares_and_means([nodule.voted])
    outlines = {REFERENCE: nodule.case.mask}
    if own is not None and own.any():
        outlines[OWN] = own
    changed = changed_outline(nodule.case.mask, nodule.case.volume.geometry.spacing_mm, rng)
    if np.count_nonzero(changed) >= _LEAST_VOXELS:
        outlines[CHANGED] = changed
    views, features = [], []
    names: tuple[str, ...] = ()
    for mask in outlines.values():
        box = IndexBox.of_mask(mask) or IndexBox.of_shape(mask.shape)
        inside = mask[box.slices]
        views.append(np.round(nodule_views(nodule.case.volume, box, inside, size=STORED_SIZE) * 127).astype(np.int8))
        described = nodule_features(nodule.case.volume, box, inside)
        names = tuple(described)
        features.append(list(described.values()))
    return RatedSample(
        case_id=nodule.case_id,
        patient_id=nodule.patient_id,
        views=np.stack(views),
        features=np.array(features),
        shares=shares,
        ratings=ratings,
        voted=voted,
        outlines=tuple(outlines),
        feature_names=names,
    )


def shares_and_means(readers: Readers) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Share of readers above each step, shape (attributes, steps), and mean rating, (attributes,); NaN unrated."""
    shares = np.full((len(ATTRIBUTES), STEPS), np.nan, dtype=np.float32)
    means = np.full(len(ATTRIBUTES), np.nan)
    for index, name in enumerate(ATTRIBUTES):
        rated = [float(reader[name]) for reader in readers if name in reader]
        if rated:
            means[index] = float(np.mean(rated))
            shares[index] = [np.mean([rating > step for rating in rated]) for step in range(1, STEPS + 1)]
    return shares, means


def changed_outline(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """An outline that follows another less than 2 mm away, as another reader's would; may be empty."""
    from scipy import ndimage

    signed = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    signed -= ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    waves = ndimage.gaussian_filter(rng.normal(0, 1, mask.shape), [1.5 / s for s in spacing_mm]) * 2
    return np.asarray(signed + waves <= rng.uniform(-0.7, 0.9))


def central(views: NDArray[np.int8]) -> NDArray[np.float32]:
    """The middle of stored views, as they are seen in use: int8 (…, S, S, S) to float32 with ``VIEW_SIZE``."""
    start = (views.shape[-1] - VIEW_SIZE) // 2
    inner = slice(start, start + VIEW_SIZE)
    return views[..., inner, inner, inner].astype(np.float32) / 127


def of_lidc(ratings: Mapping[str, float]) -> dict[str, float]:
    """LIDC's ratings of the attributes that are rated here, 1–5; what is no rating is left out.

    Calcification, whose scale names patterns, becomes 1 without and 5 with calcium.
    """
    kept: dict[str, float] = {}
    for name in ATTRIBUTES:
        rating = float(ratings.get(name, math.nan))
        if name == "calcification" and LOWEST_RATING <= rating <= NO_CALCIUM:
            kept[name] = float(LOWEST_RATING if rating >= NO_CALCIUM else HIGHEST_RATING)
        elif LOWEST_RATING <= rating <= HIGHEST_RATING:
            kept[name] = rating
    return kept
