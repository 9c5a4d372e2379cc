"""One answer from several clicks: each click changes what is near it and leaves the rest as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.geometry import IndexBox
from medai.inference.click_looks import Clicks, LookRules, Region
from medai.inference.click_rules import Index, ball, connected_to, cut_away, distance_mm, within


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What the clicks so far give.

    Attributes:
        box: where the arrays lie in the scan.
        mask: bool, shape of the box.
        probability: float32, 0 where no patch was looked at.
        threshold: the lowest that a click of it was answered with.
    """

    box: IndexBox
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    threshold: float


def joined(
    before: Answer,
    region: Region,
    clicks: Clicks,
    click: Index,
    *,
    reach_mm: float,
    rules: LookRules,
    spacing_mm: Sequence[float],
) -> Answer:
    """The answer after one more click.

    Args:
        before: without it.
        region: what the network says with it.
        clicks: all so far, with it.
        click: the one that is new.
        reach_mm: standard deviation of its influence.
        rules: from probability to region.
        spacing_mm: of the scan.
    """
    box = before.box.union(region.box)
    old_part = before.box.shift([-n for n in box.start_ijk]).slices
    new_part = region.box.shift([-n for n in box.start_ijk]).slices
    probability = np.zeros(box.shape_ijk, dtype=np.float32)
    old_mask = np.zeros(box.shape_ijk, dtype=bool)
    covered = np.zeros(box.shape_ijk, dtype=bool)
    probability[old_part], old_mask[old_part], covered[old_part] = before.probability, before.mask, True
    share = np.exp(-0.5 * (distance_mm(click, region.box, spacing_mm) / np.float32(reach_mm)) ** 2)
    share[~covered[new_part]] = 1.0
    probability[new_part] = share * region.probability + (1.0 - share) * probability[new_part]
    threshold = min(before.threshold, region.threshold)
    mask = probability >= threshold
    for away in clicks.background:
        mask = cut_away(mask, away, clicks.foreground, box, spacing_mm, rules.click_radius_mm)
    seeds = [ball(one, box, spacing_mm, rules.click_radius_mm) for one in clicks.foreground]
    mask = connected_to(mask, seeds)
    if click in clicks.foreground:
        mask |= old_mask
    for one in clicks.foreground:
        mask[within(one, box)] = True
    return Answer(box=box, mask=mask, probability=probability, threshold=threshold)
