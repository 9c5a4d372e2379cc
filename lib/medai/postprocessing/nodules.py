"""From outlines to nodules, and from nodules to the segments an annotator reads in 3D Slicer.

Slicer's MONAI Label plugin shows names and nothing else, so size, kind and side travel in the segment's name. Names are
plain ASCII: pynrrd refuses to write any other character into a header.
"""

from __future__ import annotations

import colorsys
import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medai.clinical.measurements import attenuation_kind, axial_size, volume_mm3
from medai.domain import LabelMap, Nodule, NoduleAssessment, NoduleKind, Prediction, Segment, Volume
from medai.domain.assessment import ATTRIBUTES, HIGHEST_RATING, LOWEST_RATING, MALIGNANCY
from medai.errors import InputError
from medai.geometry import IndexBox

_HUES: dict[NoduleKind, float] = {NoduleKind.SOLID: 0.03, NoduleKind.PART_SOLID: 0.15, NoduleKind.NON_SOLID: 0.52}
"""Red, yellow and blue-green: apart for every common kind of colour blindness too."""

_RATING_IN_NAME = re.compile(r"(?P<attribute>[A-Za-z]+)\s*[:=]?\s*(?P<rating>[1-5])(?![\d.,]*\d)(?!\s*(%|mm))")
_SHORT_MALIGNANCY = re.compile(r"(?<![A-Za-z0-9])[Mm](?P<rating>[1-5])(?![A-Za-z0-9]|\s*(%|mm))")
_WORD_AND_NUMBER = re.compile(
    r"(?P<word>[A-Za-z]{4,})\s*[:=]?\s*(?P<number>-?\d+(?:[.,]\d+)?)(?!\s*(%|mm|cm|ml|HU))(?![\w.,]*\d)"
)
"""A word with a number that is no size, percentage or density."""
_SHORT_RATING = re.compile(r"(?<![A-Za-z0-9])[Mm](?P<number>0|[6-9]|\d{2,})(?![A-Za-z0-9.,]|\s*(%|mm|cm))")
_LEAST_LIKENESS = 0.8
"""Of a word to an attribute that was meant: 'malignency' has 0.9."""
_TNM = re.compile(r"\b[cp]?T(is|[0-4x])", re.IGNORECASE)
"""A tumour's stage: M1 means metastases there."""

FRAGMENT_MM = 8.0
"""Outlines from this size on that touch are parts of one mass; smaller ones may be neighbours."""


def nodule_from_mask(
    volume: Volume, box: IndexBox, mask: NDArray[np.bool_], *, probability: float, side: str = ""
) -> Nodule:
    """Measure an outline.

    Args:
        volume: the scan.
        box: where the mask lies in the scan; inside the scan.
        mask: bool, shape ``box.shape_ijk``, at least one voxel.
        probability: 0–1, that it is a nodule.
        side: "left", "right" or "".

    Returns:
        The nodule, its box shrunk to the mask.

    Raises:
        InputError: the mask is empty.
    """
    tight = IndexBox.of_mask(mask)
    if tight is None:
        raise InputError(
            f"The outline in the box {box.start_ijk} to {box.stop_ijk} is empty: there is nothing to measure."
        )
    inside = np.ascontiguousarray(mask[tight.slices])
    where = tight.shift(box.start_ijk)
    geometry = volume.geometry
    centre = geometry.ijk_to_ras(np.argwhere(inside).mean(axis=0) + where.start_ijk)
    return Nodule(
        box=where,
        mask=inside,
        centre_ras_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        diameter_mm=axial_size(inside, geometry).mean_diameter_mm,
        volume_mm3=volume_mm3(inside, geometry),
        kind=attenuation_kind(volume.image_hu[where.slices], inside, geometry),
        probability=probability,
        side=side,
    )


def segment_name(nodule: Nodule, index: int) -> str:
    """The name of a nodule's segment, such as ``Nodule 1 - 8.2 mm solid - malignancy 62 % - right``.

    Args:
        nodule: the nodule; what is not known of it is left out.
        index: its place in the prediction, from 1; makes the name unique.
    """
    parts = [f"Nodule {index}", f"{nodule.diameter_mm:.1f} mm {nodule.kind}"]
    if nodule.assessment is not None:
        parts.append(f"malignancy {_percent(nodule.assessment.malignancy.value)} %")
    if nodule.side:
        parts.append(nodule.side)
    return " - ".join(parts)


def ratings_in_name(name: str) -> dict[str, int]:
    """Ratings that an annotator has typed into a segment's name: ``malignancy 4``, ``M4``, ``spiculation: 2``.

    What ``segment_name`` writes is no rating: a proposal's percentage must not come back as if a reader had given it.

    Args:
        name: of a segment.

    Returns:
        Attribute (one of ``ATTRIBUTES``) to rating, 1–5; of several of one attribute the last counts.
    """
    found = {
        match["attribute"].lower(): int(match["rating"])
        for match in _RATING_IN_NAME.finditer(name)
        if match["attribute"].lower() in ATTRIBUTES
    }
    short = _SHORT_MALIGNANCY.search(name)
    if short and MALIGNANCY not in found and not _TNM.search(name):
        found[MALIGNANCY] = int(short["rating"])
    return found


def rating_problems(name: str) -> list[str]:
    """What in a segment's name looks like a rating and is taken for none, a sentence each with what to do.

    Args:
        name: of a segment.
    """
    scale = f"a rating is a whole number from {LOWEST_RATING} to {HIGHEST_RATING}"
    problems = []
    taken = ratings_in_name(name)
    for match in _WORD_AND_NUMBER.finditer(name):
        word, number = match["word"].lower(), match["number"]
        meant = (
            word
            if word in ATTRIBUTES
            else next(iter(difflib.get_close_matches(word, ATTRIBUTES, 1, _LEAST_LIKENESS)), "")
        )
        is_rating = number in {str(n) for n in range(LOWEST_RATING, HIGHEST_RATING + 1)}
        if not meant or (meant == word and is_rating) or meant in taken:
            continue
        example = f"{meant} {number if is_rating else HIGHEST_RATING - 1}"
        said = "is no attribute that is rated" if meant != word else f"{number} is none: {scale}"
        problems.append(
            f"segment '{name}': '{match['word']} {number}' is not taken as a rating, {said}. "
            f"Rename the segment, '{example}' say, and submit again."
        )
    short = _SHORT_RATING.search(name)
    if short and MALIGNANCY not in taken and not problems and not _TNM.search(name):
        problems.append(
            f"segment '{name}': 'M{short['number']}' is not taken as a rating of malignancy, {short['number']} is "
            f"none: {scale}. Rename the segment, 'M{HIGHEST_RATING - 1}' say, and submit again."
        )
    return problems


def assessed(nodule: Nodule, assessment: NoduleAssessment) -> Nodule:
    """The nodule with its assessment, and of the attenuation type that the assessment finds likeliest."""
    return replace(nodule, assessment=assessment, kind=assessment.kind)


def _percent(probability: float) -> int:
    """Whole percent, never 0 or 100: no model is that sure."""
    return min(99, max(1, round(100 * probability)))


def kind_colour(kind: NoduleKind, index: int) -> tuple[float, float, float]:
    """A colour whose hue is the nodule's kind and whose shade tells neighbours in the list apart."""
    shade = index % 4
    return colorsys.hsv_to_rgb(_HUES[kind], 0.85 - 0.15 * shade, 1.0 - 0.12 * shade)


def prediction_to_label_map(prediction: Prediction) -> LabelMap:
    """Make one segment a nodule, values 1, 2, 3 … in the prediction's order.

    Where outlines overlap the smaller nodule keeps the voxel, so that none is hidden inside another.

    Args:
        prediction: nodules with boxes inside the scan.

    Returns:
        uint8 labels (uint16 beyond 255 nodules) on the scan's grid with a name and colour for each value.
    """
    nodules = prediction.nodules
    dtype = np.uint8 if len(nodules) < 256 else np.uint16
    labels = np.zeros(prediction.geometry.shape_ijk, dtype=dtype, order="F")
    for value in _largest_first(nodules):
        nodule = nodules[value - 1]
        labels[nodule.box.slices][nodule.mask] = value
    segments = tuple(
        Segment(value=n, name=segment_name(nodule, n), colour_rgb=kind_colour(nodule.kind, n - 1))
        for n, nodule in enumerate(nodules, start=1)
    )
    return LabelMap(geometry=prediction.geometry, labels=labels, segments=segments)


def _largest_first(nodules: Sequence[Nodule]) -> list[int]:
    """Values from 1 in falling order of volume; equal volumes in rising order of value."""
    return sorted(range(1, len(nodules) + 1), key=lambda value: (-nodules[value - 1].volume_mm3, value))


def same_nodule(first: Nodule, second: Nodule) -> bool:
    """True where two outlines share at least a third of the smaller one: two findings of one nodule."""
    shared = first.box.intersect(second.box)
    if shared.is_empty:
        return False
    overlap = np.count_nonzero(
        first.mask[shared.shift([-n for n in first.box.start_ijk]).slices]
        & second.mask[shared.shift([-n for n in second.box.start_ijk]).slices]
    )
    return bool(overlap * 3 >= min(np.count_nonzero(first.mask), np.count_nonzero(second.mask)))


def merge_duplicates(nodules: Sequence[Nodule]) -> list[Nodule]:
    """Keep one outline a nodule: of two of the same the more probable one, the larger where both are as likely.

    Returns:
        The remaining nodules, largest probability first.
    """
    kept: list[Nodule] = []
    for nodule in sorted(nodules, key=lambda n: (-n.probability, -n.volume_mm3, n.box.start_ijk)):
        if not any(same_nodule(nodule, other) for other in kept):
            kept.append(nodule)
    return kept


def join_fragments(volume: Volume, nodules: Sequence[Nodule]) -> list[Nodule]:
    """Make one nodule of large outlines that touch: a mass is often found several times, in parts.

    Args:
        volume: the scan, for measuring the whole.
        nodules: without duplicates, largest probability first.

    Returns:
        The nodules, largest probability first; a joined one has the probability and side of its most probable part.
    """
    joined: list[Nodule] = []
    for nodule in nodules:
        whole = nodule
        for other in [n for n in joined if _touch(n, nodule)]:
            joined.remove(other)
            whole = _union(volume, other, whole)
        joined.append(whole)
    return sorted(joined, key=lambda n: -n.probability)


def _touch(first: Nodule, second: Nodule) -> bool:
    """True for two large outlines with neighbouring voxels."""
    from scipy import ndimage

    if min(first.diameter_mm, second.diameter_mm) < FRAGMENT_MM:
        return False
    if first.box.expand((1, 1, 1)).intersect(second.box).is_empty:
        return False
    both = first.box.union(second.box)
    grown = ndimage.binary_dilation(_on_box(first, both))
    return bool(np.any(grown & _on_box(second, both)))


def _union(volume: Volume, first: Nodule, second: Nodule) -> Nodule:
    """Two outlines as one nodule."""
    both = first.box.union(second.box)
    best = first if first.probability >= second.probability else second
    mask = _on_box(first, both) | _on_box(second, both)
    whole = nodule_from_mask(volume, both, mask, probability=best.probability, side=best.side)
    return replace(whole, doubt=best.doubt)


def _on_box(nodule: Nodule, box: IndexBox) -> NDArray[np.bool_]:
    """A nodule's mask in a larger box."""
    mask = np.zeros(box.shape_ijk, dtype=bool)
    mask[nodule.box.shift([-n for n in box.start_ijk]).slices] = nodule.mask
    return mask
