"""What makes a submitted label doubtful enough to keep it from training until somebody has looked.

Nothing is ever dropped here: a label that is held stays as it is, with the reason in words, and what is merely odd
about it (crumbs beside a good nodule, one part of several) is told. A label that is poor is the promotion gate's
business; these checks catch what no careful reader draws: a whole scan, a lonely voxel, specks, an outline that was
shifted, mirrored, turned inside out or drawn on another scan.

How often each of them is found, and how often honest labels are held, is measured by ``tests/benchmarks/sanity``; the
figures are in ``lib/decisions/0022-labels-that-are-held.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import LabelMap, Volume
from medai.domain.crumbs import is_crumb
from medai.evaluation.label_parts import LabelPart, label_parts
from medai.evaluation.part_evidence import DOUBT_BOUND, evidence_of, region_around
from medai.geometry import IndexBox, VolumeGeometry
from medai.volume_io.label_names import says_nothing_found

MOST_PARTS = 1000
"""Honest outlines have 1 to 46. Miliary disease is not outlined nodule by nodule; a thresholded scan has tens of
thousands of parts."""

FEW_CRUMBS, MOST_CRUMBS = 12, 40
"""The most that an honest reader has left beside a nodule is 12; more than these hold a label where they are more than
its nodules, or in any case."""

LARGEST_ML = 1000.0
"""A sphere of 12 cm; both lungs are 4–6 litres. The largest honest outline has 18 ml, but masses are not in LIDC."""

LARGEST_EXTENT_MM = 120.0
"""A longer part is a lung or a body outline: a nodule has 30 mm at most, a mass seldom 100. Nothing trains on it."""

MOST_OF_SCAN = 0.6
"""Share of the scan's voxels. A nodule fills 15 % of a crop around it at most, a mass half."""

LOOSE_FROM_VOXELS, LEAST_TOGETHER = 50, 0.35
"""A label of so many voxels hangs together: of its voxels' six neighbours this share is in it too, on average. Honest
outlines have 0.53 and more, voxels strewn over a nodule's box 0.3 at most."""

PARTS_LOOKED_AT = 16
"""By volume; smaller ones hardly decide what most of a label is."""

AIR_HU = -900.0
"""Healthy lung is about -850; the faintest ground-glass nodule is above -800."""

MOST_OUTSIDE = 0.5
"""Share of a part that is air or outside the body, and of a label that its doubtful parts have. Of honest outlines 21 %
at most are below ``AIR_HU``, and one in a hundred has more than 6 %."""

LEAST_AGREEMENT = 0.2
"""Dice to the other label that it agrees with best. Honest readers: median 0.82, one in a hundred below 0.54, one in a
thousand below 0.33. At a bound of 0.4 it were 7 of 2783; a label of another place has 0."""

LEAST_PEERS = 2
"""With one other label nobody can say which of the two is odd."""

SURE, LEAST_SURE = 0.95, 2
"""A model marks a vessel or a scar now and then, surely even; two in one scan hardly ever."""

BODY_HU = -300.0
WHOLE_BODY_MM = 250.0
"""A field of view narrower than this is a crop: where its body ends cannot be told."""
COARSE_MM = 4.0
"""The body is found on a grid as coarse as this; its border is not needed to the voxel."""
MOST_NAMED = 5
"""Parts that are told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheck:
    """What was found out about a label.

    Attributes:
        reason: why no training may learn from it until somebody has looked; "" where nothing is so wrong.
        notes: what else its annotator should know, a sentence each; empty for an honest label as a rule.
        nodules: its parts that can be nodules.
    """

    reason: str = ""
    notes: tuple[str, ...] = ()
    nodules: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _DoubtfulPart:
    """One part that the scan does not bear out."""

    name: str
    words: str
    voxels: int

    def __str__(self) -> str:
        return f"segment '{self.name}': {self.words}"


def check_label(label_map: LabelMap, volume: Volume | None) -> LabelCheck:
    """Look for what is wrong with a label.

    Costs what its nodules cost: a few milliseconds each beside one look at the label's voxels.

    Args:
        label_map: the label, with the names that the annotator reads.
        volume: its scan, on the same grid; None where it cannot be read: then only shapes are looked at.

    Returns:
        Nothing for a label that says that there is no nodule.
    """
    box = IndexBox.of_mask(label_map.labels)
    if box is None:
        return LabelCheck()
    labelled = label_map.labels[box.slices] != 0
    reason = _contradiction(label_map) or _size_problem(labelled, label_map.geometry)
    if reason:
        return LabelCheck(reason=reason)
    parts = [_shifted(part, box) for part in label_parts(labelled)]
    if len(parts) > MOST_PARTS:
        words = f"it has {len(parts)} separate parts (the bound is {MOST_PARTS})"
        return LabelCheck(reason=f"{words}; it looks like a threshold, not an outline")
    reason = _loose_problem(parts)
    voxel_mm3 = label_map.geometry.voxel_volume_mm3
    crumbs = [part for part in parts if is_crumb(part.voxels, voxel_mm3)]
    nodules = [part for part in parts if not is_crumb(part.voxels, voxel_mm3)]
    notes = tuple(_crumb_notes(crumbs, label_map))
    reason = reason or _crumb_problem(crumbs, nodules, label_map)
    doubtful = [] if volume is None else list(_doubtful_parts(nodules[:PARTS_LOOKED_AT], label_map, volume))
    doubt = _doubt_problem(doubtful, nodules[:PARTS_LOOKED_AT])
    told = () if doubt and not reason else tuple(dict.fromkeys(f"{part}." for part in doubtful[:MOST_NAMED]))
    return LabelCheck(reason=reason or doubt, notes=(*notes, *told), nodules=len(nodules))


def agreement_problem(dice_to_peers: Sequence[float], dice_to_proposal: float | None) -> str:
    """Whether a label is alone against its peers and the model.

    Args:
        dice_to_peers: to each other annotator's label of the same case, 0–1.
        dice_to_proposal: to what the model drew, 0–1; None where that is not known.

    Returns:
        The reason in words, "" where there is none or too few peers to tell.
    """
    if len(dice_to_peers) < LEAST_PEERS:
        return ""
    # With none of them: a mean would put a good label into quarantine for two bad ones beside it.
    best = max(dice_to_peers)
    if best >= LEAST_AGREEMENT or (dice_to_proposal is not None and dice_to_proposal >= LEAST_AGREEMENT):
        return ""
    model = "" if dice_to_proposal is None else f" and {dice_to_proposal:.2f} with the model"
    return (
        f"it agrees with none of the {len(dice_to_peers)} other labels of this case (Dice {best:.2f} at best){model} "
        f"(the bound is {LEAST_AGREEMENT})"
    )


def emptied_problem(standing_nodules: Sequence[int], candidates: Sequence[float] = ()) -> str:
    """Whether a label that says that there is no nodule stands against those of its case that show some.

    "No nodules" is an answer like any other, and disagreeing with crumbs, a whole-scan label or one of another scan is
    no fault: those are held themselves and do not count here. But what was outlined where the scan shows a nodule must
    not be emptied unseen, by whomever: it waits while more of the case's labels show nodules than say that there are
    none. A model is believed only where it is sure of several, and nobody else has said that there is nothing.

    Args:
        standing_nodules: how many each label of the case shows that counts, the latest of each annotator; 0 for an
            empty one.
        candidates: probability of each that a model has found in the scan.

    Returns:
        The reason in words, "" where there is none.
    """
    showing = [count for count in standing_nodules if count > 0]
    empty = len(standing_nodules) - len(showing)
    sure = sum(probability >= SURE for probability in candidates)
    if not showing and not empty and sure >= LEAST_SURE:
        return (
            f"it says that there is no nodule, but the model is sure of {sure} places in this scan (probability "
            f"{SURE:.0%} and more)"
        )
    if len(showing) <= empty:
        return ""
    before = "an earlier label" if len(showing) == 1 else f"{len(showing)} earlier labels"
    return (
        f"it says that there is no nodule, but {before} of this case {'shows' if len(showing) == 1 else 'show'} "
        f"{max(showing)} where the scan does not speak against it"
    )


def _contradiction(label_map: LabelMap) -> str:
    """A segment that says that there is no nodule, and outlines one."""
    for segment in label_map.segments:
        if says_nothing_found([segment.name], {}) and (label_map.labels == segment.value).any():
            return (
                f"its segment '{segment.name}' holds voxels; empty that segment where there is nothing to label, or "
                "give it another name, and submit again"
            )
    return ""


def _size_problem(labelled: NDArray[np.bool_], geometry: VolumeGeometry) -> str:
    """Whether it is far more than nodules can be; the cheapest check, so that a whole scan is not looked at further."""
    voxels = int(np.count_nonzero(labelled))
    share = voxels / float(np.prod(geometry.shape_ijk))
    if share > MOST_OF_SCAN:
        return f"it covers {share:.0%} of the scan, more than nodules can; is it the background that is labelled?"
    volume_ml = voxels * geometry.voxel_volume_mm3 / 1000.0
    if volume_ml > LARGEST_ML:
        return f"it holds {volume_ml:.0f} ml, more than nodules can (the bound is {LARGEST_ML:.0f} ml)"
    return ""


def _loose_problem(parts: Sequence[LabelPart]) -> str:
    """Whether the voxels hang together as an outline's do."""
    voxels = sum(part.voxels for part in parts)
    together = sum(_share_together(part.mask) * part.voxels for part in parts) / max(1, voxels)
    if voxels >= LOOSE_FROM_VOXELS and together < LEAST_TOGETHER:
        return (
            f"its voxels lie strewn: {together:.0%} of their neighbours belong to it (the bound is "
            f"{LEAST_TOGETHER:.0%}); no outline looks like that"
        )
    return ""


def _crumb_problem(crumbs: Sequence[LabelPart], nodules: Sequence[LabelPart], label_map: LabelMap) -> str:
    """Whether crumbs are all there is, or most of it."""
    if not crumbs:
        return ""
    voxels = sum(part.voxels for part in crumbs)
    if not nodules:
        volume_mm3 = voxels * label_map.geometry.voxel_volume_mm3
        which = "one part" if len(crumbs) == 1 else f"{len(crumbs)} parts"
        return f"it holds nothing as large as a nodule: {which} of {_count(voxels)} in all ({volume_mm3:.1f} mm³)"
    is_mostly_crumbs = len(crumbs) > FEW_CRUMBS and voxels > sum(part.voxels for part in nodules)
    if len(crumbs) > MOST_CRUMBS or is_mostly_crumbs:
        return f"it is strewn with {len(crumbs)} specks of a few voxels beside {len(nodules)} larger parts"
    return ""


def _crumb_notes(crumbs: Sequence[LabelPart], label_map: LabelMap) -> Iterable[str]:
    """What is left out, segment by segment."""
    by_name: dict[str, list[int]] = {}
    for part in crumbs:
        by_name.setdefault(_name(part, label_map), []).append(part.voxels)
    for name, sizes in by_name.items():
        what = (
            f"{_count(sizes[0])}" if len(sizes) == 1 else f"{len(sizes)} specks of {min(sizes)} to {max(sizes)} voxels"
        )
        yield f"segment '{name}': {what}, too small to be a nodule: not counted, and no training learns from it."


def _doubtful_parts(parts: Sequence[LabelPart], label_map: LabelMap, volume: Volume) -> Iterable[_DoubtfulPart]:
    """The parts that are too long, air, outside the body, or where the scan shows no nodule."""
    spacing_mm = label_map.geometry.spacing_mm
    body = _coarse_body(volume) if parts else None
    for part in parts:
        words = _part_problem(part, spacing_mm, volume, body)
        if words:
            yield _DoubtfulPart(name=_name(part, label_map), words=words, voxels=part.voxels)


def _part_problem(
    part: LabelPart, spacing_mm: Sequence[float], volume: Volume, body: tuple[NDArray[np.bool_], tuple[int, ...]] | None
) -> str:
    extent_mm = max(count * side for count, side in zip(part.box.shape_ijk, spacing_mm, strict=True))
    if extent_mm > LARGEST_EXTENT_MM:
        return f"it is {extent_mm:.0f} mm long, and no nodule is (the bound is {LARGEST_EXTENT_MM:.0f} mm)"
    in_air = float(np.mean(np.less(volume.image_hu[part.box.slices][part.mask], AIR_HU)))
    if in_air > MOST_OUTSIDE:
        return f"{in_air:.0%} of it is air (below {AIR_HU:.0f} HU), where no nodule can be"
    if body is not None:
        inside, step = body
        index = [
            (n + start) // side for n, start, side in zip(np.nonzero(part.mask), part.box.start_ijk, step, strict=True)
        ]
        outside = float(np.mean(~inside[tuple(index)]))
        if outside > MOST_OUTSIDE:
            return f"{outside:.0%} of it lies outside the body"
    region = region_around(part.box, part.mask, spacing_mm, volume.geometry.shape_ijk)
    around = np.zeros(region.shape_ijk, dtype=bool)
    around[part.box.shift([-n for n in region.start_ijk]).slices] = part.mask
    evidence = evidence_of(volume.image_hu[region.slices], around, spacing_mm)
    return evidence.words if evidence.doubt > DOUBT_BOUND else ""


def _doubt_problem(doubtful: Sequence[_DoubtfulPart], parts: Sequence[LabelPart]) -> str:
    """Whether most of a label is doubtful: by volume, or by number of parts where the largest is one of them."""
    if not doubtful:
        return ""
    voxels, all_voxels = sum(part.voxels for part in doubtful), sum(part.voxels for part in parts)
    # Specks beside a nodule say nothing of it, however many.
    most_parts = len(doubtful) > MOST_OUTSIDE * len(parts) and doubtful[0].voxels == parts[0].voxels
    if voxels <= MOST_OUTSIDE * all_voxels and not most_parts:
        return ""
    named = "; ".join(dict.fromkeys(str(part) for part in doubtful[:MOST_NAMED]))
    return named if len(doubtful) <= MOST_NAMED else f"{named}; and {len(doubtful) - MOST_NAMED} more of its parts"


def _name(part: LabelPart, label_map: LabelMap) -> str:
    """The segment that most of a part belongs to."""
    values = np.bincount(label_map.labels[part.box.slices][part.mask].astype(np.intp))
    value = int(np.argmax(values))
    return next((segment.name for segment in label_map.segments if segment.value == value), str(value))


def _shifted(part: LabelPart, box: IndexBox) -> LabelPart:
    return LabelPart(box=part.box.shift(box.start_ijk), mask=part.mask, voxels=part.voxels)


def _count(voxels: int) -> str:
    return f"{voxels} voxel{'' if voxels == 1 else 's'}"


def _share_together(mask: NDArray[np.bool_]) -> float:
    """Of the six neighbours of the mask's voxels, the share that is in the mask too, on average."""
    pairs = (
        np.count_nonzero(mask[1:] & mask[:-1])
        + np.count_nonzero(mask[:, 1:] & mask[:, :-1])
        + np.count_nonzero(mask[:, :, 1:] & mask[:, :, :-1])
    )
    return 2 * pairs / (6 * max(1, np.count_nonzero(mask)))


def _coarse_body(volume: Volume) -> tuple[NDArray[np.bool_], tuple[int, ...]] | None:
    """The body with its lungs on a coarse grid, and voxels a step; None for a crop, or where no body is found."""
    sizes_mm = [n * side for n, side in zip(volume.geometry.shape_ijk, volume.geometry.spacing_mm, strict=True)]
    across = int(np.argmax(np.abs(volume.geometry.directions_ras[2])))
    if min(size for axis, size in enumerate(sizes_mm) if axis != across) < WHOLE_BODY_MM:
        return None
    step = tuple(max(1, round(COARSE_MM / side)) for side in volume.geometry.spacing_mm)
    tissue = np.greater(volume.image_hu[:: step[0], :: step[1], :: step[2]], BODY_HU)
    numbered, found = ndimage.label(tissue)
    if found == 0:
        return None
    body = numbered == 1 + int(np.argmax(np.bincount(numbered.ravel())[1:]))
    # Slice by slice: the lungs are open at the scan's upper and lower end.
    slices = np.moveaxis(body, across, 0)
    filled = np.stack([ndimage.binary_fill_holes(ndimage.binary_closing(one, iterations=2)) | one for one in slices])
    grown: NDArray[np.bool_] = ndimage.binary_dilation(np.moveaxis(filled, 0, across))
    return grown, step
