"""One answer from several annotators' label maps of a case: a majority, and a soft label for training.

Nodules are matched first and each is joined in its own box: in a whole scan the background, on which everybody agrees,
would decide STAPLE's estimate (Warfield et al., IEEE TMI 2004).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError, InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.postprocessing.components import LabelComponent, label_components

MARGIN_MM = 3.0
"""Background around a nodule that STAPLE sees: enough for a specificity, too little to drown the outline."""
LEAST_DICE = 0.1
"""Outlines that overlap less are not of one nodule, even where one lies within the other."""
_MOST_ITERATIONS = 200


class SoftLabel(StrEnum):
    """What a voxel of the soft label is."""

    MEAN = "mean"
    STAPLE = "staple"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderPerformance:
    """How one reader compares with the truth that STAPLE estimates.

    Attributes:
        sensitivity: share of the truth's voxels the reader outlined, 0–1.
        specificity: share of the other voxels the reader left out, 0–1; of the box STAPLE saw.
    """

    sensitivity: float
    specificity: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StapleEstimate:
    """STAPLE's answer.

    Attributes:
        probability: float32, 0–1, that a voxel belongs to the nodule.
        readers: one a mask, in their order.
    """

    probability: NDArray[np.float32]
    readers: tuple[ReaderPerformance, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedNodule:
    """One nodule as every annotator outlined it.

    Attributes:
        box: the smallest that holds all outlines.
        masks: one an annotator, bool of shape ``box.shape_ijk``; None where the nodule was not marked.
        values: the label values of each annotator's outline; empty where there is none.
    """

    box: IndexBox
    masks: tuple[NDArray[np.bool_] | None, ...]
    values: tuple[tuple[int, ...], ...]

    @property
    def share(self) -> float:
        """Of the annotators who marked it, above 0 to 1."""
        return sum(mask is not None for mask in self.masks) / len(self.masks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConsensusNodule:
    """A nodule and what the annotators make of it together.

    Attributes:
        matched: their outlines.
        box: where ``soft`` and ``majority`` lie: the outlines' box and a margin.
        soft: float32, 0–1, shape ``box.shape_ijk``; no voxel is above the share of annotators who marked the nodule.
        majority: bool, voxels that more than half of all annotators outlined; may be empty.
        readers: STAPLE's estimate of each annotator; None for those who did not mark it, and where only one did.
    """

    matched: MatchedNodule
    box: IndexBox
    soft: NDArray[np.float32]
    majority: NDArray[np.bool_]
    readers: tuple[ReaderPerformance | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consensus:
    """What several annotators say of one case.

    Attributes:
        majority: a segment a nodule, values from 1; nodules without a majority are left out.
        soft: float32, 0–1, shape of the scan; where nodules meet the larger value stands.
        nodules: all of them, marked by most first.
        readers: mean of STAPLE's estimates of each annotator over the nodules; None without one.
    """

    majority: LabelMap
    soft: NDArray[np.float32]
    nodules: tuple[ConsensusNodule, ...]
    readers: tuple[ReaderPerformance | None, ...]


def majority_vote(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Voxels that more than half of the masks hold: of two masks both, of three two.

    Raises:
        InputError: no mask.
        GeometryError: the shapes differ.
    """
    return np.asarray(2 * _votes(masks) > len(masks))


def mean_label(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """The share of masks that hold a voxel, float32, 0–1; raises as ``majority_vote``."""
    return np.asarray(_votes(masks) / len(masks), dtype=np.float32)


def staple(masks: Sequence[NDArray[np.bool_]]) -> StapleEstimate:
    """Estimate the outline, and how good each reader is, from their agreement (STAPLE, by ITK).

    Args:
        masks: two at least, of one shape, cropped to the nodule and a margin; background must not dominate.

    Raises:
        InputError: fewer than two masks, or none with a voxel.
        GeometryError: the shapes differ.
    """
    votes = _votes(masks)
    if len(masks) < 2 or not votes.any():
        raise InputError(f"STAPLE compares outlines: give two masks at least, one with a voxel, not {len(masks)}.")
    import itk

    image_type = itk.Image[itk.F, 3]
    estimate = itk.STAPLEImageFilter[image_type, image_type].New()
    estimate.SetForegroundValue(1.0)
    estimate.SetMaximumIterations(_MOST_ITERATIONS)
    # The filter's pipeline keeps no reference of its own to numpy's memory.
    images = [itk.image_from_array(np.ascontiguousarray(mask, dtype=np.float32)) for mask in masks]
    for index, image in enumerate(images):
        estimate.SetInput(index, image)
    estimate.Update()
    probability = np.clip(itk.array_from_image(estimate.GetOutput()), 0.0, 1.0).astype(np.float32)
    readers = tuple(
        ReaderPerformance(
            sensitivity=float(estimate.GetSensitivity(index)), specificity=float(estimate.GetSpecificity(index))
        )
        for index in range(len(masks))
    )
    return StapleEstimate(probability=probability, readers=readers)


def match_nodules(label_maps: Sequence[LabelMap]) -> tuple[MatchedNodule, ...]:
    """Find which outlines of several annotators are of one nodule.

    Two outlines are where they share a third of the smaller one, with a Dice of 0.1. What is left over joins a nodule
    of other annotators whose middle lies within the radius of the smaller of the two, the nearest first: small outlines
    miss each other by a voxel. Several outlines of one annotator may be parts of one nodule.

    Args:
        label_maps: one an annotator, of one grid; segments or one value for all nodules.

    Returns:
        Nodules, those of most annotators first, then in the order of their boxes.

    Raises:
        InputError: no label map.
        GeometryError: the grids differ.
    """
    geometry = _common_grid(label_maps)
    found = [
        (reader, component)
        for reader, label_map in enumerate(label_maps)
        for component in label_components(label_map.labels, label_map.geometry.spacing_mm)
    ]
    group = list(range(len(found)))
    for (a, (reader, one)), (b, (other_reader, other)) in itertools.combinations(enumerate(found), 2):
        if reader != other_reader and _overlap(one, other):
            group = [group[a] if n == group[b] else n for n in group]
    groups = [[found[n] for n, g in enumerate(group) if g == name] for name in dict.fromkeys(group)]
    _join_near(groups, geometry)
    nodules = [_matched(members, len(label_maps)) for members in groups]
    return tuple(sorted(nodules, key=lambda nodule: (-nodule.share, nodule.box.start_ijk)))


def consensus(
    label_maps: Sequence[LabelMap], *, soft: SoftLabel = SoftLabel.STAPLE, margin_mm: float = MARGIN_MM
) -> Consensus:
    """Join the label maps of several annotators.

    A nodule that one of three marked has a soft label of a third at most, and is no part of the majority.

    Args:
        label_maps: one an annotator who looked at the whole scan, of one grid; an empty one says that there is nothing.
        soft: the mean of the outlines, or STAPLE's probability times the share of annotators who marked the nodule.
        margin_mm: background around a nodule that STAPLE sees.

    Raises:
        InputError: no label map.
        GeometryError: the grids differ.
    """
    geometry = _common_grid(label_maps)
    margin = [max(1, round(margin_mm / spacing)) for spacing in geometry.spacing_mm]
    nodules = tuple(
        _join(nodule, nodule.box.expand(margin).clip(geometry.shape_ijk), soft) for nodule in match_nodules(label_maps)
    )
    soft_label = np.zeros(geometry.shape_ijk, dtype=np.float32, order="F")
    kept = [nodule for nodule in nodules if nodule.majority.any()]
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8 if len(kept) < 256 else np.uint16, order="F")
    for nodule in nodules:
        np.maximum(soft_label[nodule.box.slices], nodule.soft, out=soft_label[nodule.box.slices])
    for value, nodule in enumerate(kept, start=1):
        labels[nodule.box.slices][nodule.majority] = value
    segments = tuple(
        Segment(value=n, name=f"Nodule {n} - marked by {_count(nodule)} of {len(label_maps)}")
        for n, nodule in enumerate(kept, start=1)
    )
    return Consensus(
        majority=LabelMap(geometry=geometry, labels=labels, segments=segments),
        soft=soft_label,
        nodules=nodules,
        readers=tuple(_mean_performance([n.readers[index] for n in nodules]) for index in range(len(label_maps))),
    )


def _join(nodule: MatchedNodule, box: IndexBox, soft: SoftLabel) -> ConsensusNodule:
    masks = [_on_box(nodule.box, mask, box) for mask in nodule.masks]
    marked = [index for index, mask in enumerate(nodule.masks) if mask is not None]
    label = mean_label(masks)
    readers: list[ReaderPerformance | None] = [None] * len(masks)
    if len(marked) > 1:
        estimate = staple([masks[index] for index in marked])
        for index, performance in zip(marked, estimate.readers, strict=True):
            readers[index] = performance
        if soft is SoftLabel.STAPLE:
            label = np.asarray(estimate.probability * np.float32(nodule.share))
    return ConsensusNodule(matched=nodule, box=box, soft=label, majority=majority_vote(masks), readers=tuple(readers))


def _votes(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    if not masks:
        raise InputError("There is no mask to join: give one an annotator.")
    shapes = sorted({mask.shape for mask in masks})
    if len(shapes) > 1:
        raise GeometryError(f"Masks of the shapes {', '.join(map(str, shapes))} cannot be joined: crop them alike.")
    return np.asarray(np.sum(masks, axis=0, dtype=np.int64))


def _common_grid(label_maps: Sequence[LabelMap]) -> VolumeGeometry:
    if not label_maps:
        raise InputError("There is no label map to join: give one an annotator.")
    geometry = label_maps[0].geometry
    for number, label_map in enumerate(label_maps[1:], start=2):
        if not geometry.is_same_grid(label_map.geometry):
            raise GeometryError(
                f"Label map {number} lies on another grid than the first: {label_map.geometry.describe()} instead of "
                f"{geometry.describe()}. Bring all to the scan's grid."
            )
    return geometry


def _overlap(one: LabelComponent, other: LabelComponent) -> bool:
    """True where two outlines share a third of the smaller one, and neither is a flood that covers everything."""
    shared = one.box.intersect(other.box)
    if shared.is_empty:
        return False
    both = np.count_nonzero(
        one.mask[shared.shift([-n for n in one.box.start_ijk]).slices]
        & other.mask[shared.shift([-n for n in other.box.start_ijk]).slices]
    )
    sizes = np.count_nonzero(one.mask), np.count_nonzero(other.mask)
    return bool(3 * both >= min(sizes) and 2 * both >= LEAST_DICE * sum(sizes))


_Members = list[tuple[int, LabelComponent]]


def _join_near(groups: list[_Members], geometry: VolumeGeometry) -> None:
    """Join groups of different annotators whose middles are near, the nearest first, in place."""
    while True:
        places = [_middle_and_radius_mm(members, geometry) for members in groups]
        readers = [{reader for reader, _ in members} for members in groups]
        near = [
            (float(np.linalg.norm(places[a][0] - places[b][0])), a, b)
            for a, b in itertools.combinations(range(len(groups)), 2)
            if not readers[a] & readers[b]
        ]
        near = [(off, a, b) for off, a, b in near if off <= min(places[a][1], places[b][1])]
        if not near:
            return
        _, a, b = min(near)
        groups[a] += groups.pop(b)


def _middle_and_radius_mm(members: _Members, geometry: VolumeGeometry) -> tuple[NDArray[np.float64], float]:
    """Mean voxel of all outlines, and the radius of the ball of their mean volume."""
    voxels = np.concatenate([np.argwhere(c.mask) + c.box.start_ijk for _, c in members])
    volume_mm3 = len(voxels) * geometry.voxel_volume_mm3 / len({reader for reader, _ in members})
    return geometry.ijk_to_ras(voxels.mean(axis=0)), float((3 * volume_mm3 / (4 * np.pi)) ** (1 / 3))


def _matched(members: _Members, reader_count: int) -> MatchedNodule:
    box = members[0][1].box
    for _, component in members[1:]:
        box = box.union(component.box)
    masks: list[NDArray[np.bool_] | None] = [None] * reader_count
    values: list[tuple[int, ...]] = [()] * reader_count
    for reader, component in members:
        mask = _on_box(component.box, component.mask, box)
        known = masks[reader]
        masks[reader] = mask if known is None else known | mask
        values[reader] = tuple(sorted({*values[reader], component.value}))
    return MatchedNodule(box=box, masks=tuple(masks), values=tuple(values))


def _on_box(own: IndexBox, mask: NDArray[np.bool_] | None, box: IndexBox) -> NDArray[np.bool_]:
    """A mask in a box that holds its own; empty for None."""
    placed = np.zeros(box.shape_ijk, dtype=bool)
    if mask is not None:
        placed[own.shift([-n for n in box.start_ijk]).slices] = mask
    return placed


def _count(nodule: ConsensusNodule) -> int:
    return sum(mask is not None for mask in nodule.matched.masks)


def _mean_performance(found: Sequence[ReaderPerformance | None]) -> ReaderPerformance | None:
    known = [performance for performance in found if performance is not None]
    if not known:
        return None
    return ReaderPerformance(
        sensitivity=float(np.mean([performance.sensitivity for performance in known])),
        specificity=float(np.mean([performance.specificity for performance in known])),
    )
