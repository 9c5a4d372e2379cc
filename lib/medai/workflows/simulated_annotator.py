"""An annotator without a person: knows the truth, looks at proposals, clicks as a careful reader would.

What such a reader costs is counted the way a person would feel it: clicks, and how good the first outline was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Nodule, Volume
from medai.domain.click_case import ClickCase
from medai.errors import GeometryError
from medai.evaluation.dice import dice
from medai.evaluation.simulated_clicks import correcting_click, first_click
from medai.geometry import IndexBox

FOUND_DICE = 0.1
"""A proposal with this much overlap shows the annotator where the nodule is, however it is outlined."""

ACCEPTED_DICE = 0.8
"""An outline this good is accepted without another click; two human readers agree with 0.76 on average."""

_CONTEXT_MM = 40.0


class Outline(Protocol):
    """An outline in a box of the scan; ``medai.inference.click.ClickResult`` is one."""

    @property
    def box(self) -> IndexBox:
        """Where it lies."""
        ...

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool, the box's shape."""
        ...


class Outliner(Protocol):
    """Outlines what is clicked; ``medai.inference.click.ClickSegmenter`` is one."""

    def segment(
        self,
        volume: Volume,
        *,
        foreground_ijk: Sequence[Sequence[int]],
        background_ijk: Sequence[Sequence[int]] = (),
    ) -> Outline:
        """Outline the nodules that the foreground clicks lie in."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedNodule:
    """One nodule's way from proposal to truth.

    Attributes:
        proposal_dice: Dice of the best proposal for it, 0 where it was missed.
        clicks: clicks until the outline was good enough; 0 where the proposal was.
        first_click_dice: Dice after the first click; None where none was needed.
        final_dice: Dice before the annotator painted what was left.
    """

    proposal_dice: float
    clicks: int
    first_click_dice: float | None
    final_dice: float

    @property
    def found(self) -> bool:
        """True where a proposal pointed at it."""
        return self.proposal_dice >= FOUND_DICE


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedCase:
    """What the annotator had to do in one case.

    Attributes:
        nodules: one for each true nodule.
        false_proposals: proposals that were removed.
    """

    nodules: tuple[AnnotatedNodule, ...]
    false_proposals: int


def annotate_case(
    volume: Volume,
    truth: LabelMap,
    proposals: Sequence[Nodule],
    outliner: Outliner,
    *,
    max_clicks: int,
    rng: np.random.Generator,
) -> AnnotatedCase:
    """Bring a model's proposals to the truth and count the work.

    A proposal that is good enough is accepted. For every other nodule the annotator clicks: first near its middle, then
    into the largest mistake, until the outline is good enough or ``max_clicks`` is reached; the rest is painted.

    Args:
        volume: the scan.
        truth: one value a nodule, on the scan's grid.
        proposals: what the model found.
        outliner: answers clicks.
        max_clicks: most clicks for one nodule.
        rng: places the clicks.

    Raises:
        GeometryError: the truth lies on another grid.
    """
    if not volume.geometry.is_same_grid(truth.geometry):
        raise GeometryError(
            f"The truth of case '{volume.case_id}' lies on another grid than its scan: {truth.geometry.describe()} "
            f"instead of {volume.geometry.describe()}."
        )
    boxes = _nodule_boxes(truth)
    overlaps = np.array(
        [[_dice_of_proposal(p, box, truth.labels[box.slices] == v) for p in proposals] for v, box in boxes]
    ).reshape(len(boxes), len(proposals))
    nodules = tuple(
        _annotate_nodule(_around(volume, truth, value, box), float(overlap.max(initial=0.0)), outliner, max_clicks, rng)
        for (value, box), overlap in zip(boxes, overlaps, strict=True)
    )
    is_true = overlaps.max(axis=0, initial=0.0) >= FOUND_DICE
    return AnnotatedCase(nodules=nodules, false_proposals=int(np.count_nonzero(~is_true)))


def _annotate_nodule(
    case: ClickCase, proposal_dice: float, outliner: Outliner, max_clicks: int, rng: np.random.Generator
) -> AnnotatedNodule:
    if proposal_dice >= ACCEPTED_DICE:
        return AnnotatedNodule(proposal_dice=proposal_dice, clicks=0, first_click_dice=None, final_dice=proposal_dice)
    foreground = [first_click(case, rng, careful=True)]
    background: list[tuple[int, int, int]] = []
    everywhere = np.ones(case.mask.shape, dtype=bool)
    reached: list[float] = []
    while True:
        answer = outliner.segment(case.volume, foreground_ijk=foreground, background_ijk=background)
        outlined = np.zeros(case.mask.shape, dtype=bool)
        outlined[answer.box.slices] = answer.mask
        reached.append(dice(outlined, case.mask))
        correction = correcting_click(outlined, case.mask, everywhere, rng)
        if reached[-1] >= ACCEPTED_DICE or len(reached) >= max_clicks or correction is None:
            break
        index, is_foreground = correction
        if index in foreground or index in background:
            break
        (foreground if is_foreground else background).append(index)
    return AnnotatedNodule(
        proposal_dice=proposal_dice, clicks=len(reached), first_click_dice=reached[0], final_dice=reached[-1]
    )


def _nodule_boxes(truth: LabelMap) -> list[tuple[int, IndexBox]]:
    """Each value of the truth that has a voxel, with its box."""
    outer = IndexBox.of_mask(truth.labels)
    if outer is None:
        return []
    inside = truth.labels[outer.slices]
    found = [(int(value), IndexBox.of_mask(inside == value)) for value in np.unique(inside[inside != 0])]
    return [(value, box.shift(outer.start_ijk)) for value, box in found if box is not None]


def _around(volume: Volume, truth: LabelMap, value: int, box: IndexBox) -> ClickCase:
    """One nodule with enough scan around it for any click."""
    margin = [int(np.ceil(_CONTEXT_MM / spacing_mm)) for spacing_mm in volume.geometry.spacing_mm]
    region = box.expand(margin).clip(volume.geometry.shape_ijk)
    return ClickCase(
        case_id=f"{volume.case_id}#{value}",
        patient_id=volume.case_id,
        volume=volume.crop(region),
        mask=np.asarray(truth.labels[region.slices] == value),
    )


def _dice_of_proposal(proposal: Nodule, box: IndexBox, mask: NDArray[np.bool_]) -> float:
    """Dice of a proposal and a true nodule, each in its own box."""
    shared = proposal.box.intersect(box)
    if shared.is_empty:
        return 0.0
    in_proposal = proposal.mask[shared.shift([-n for n in proposal.box.start_ijk]).slices]
    in_truth = mask[shared.shift([-n for n in box.start_ijk]).slices]
    both = int(np.count_nonzero(in_proposal & in_truth))
    return 2.0 * both / (int(np.count_nonzero(proposal.mask)) + int(np.count_nonzero(mask)))
