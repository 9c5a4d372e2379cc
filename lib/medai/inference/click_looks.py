"""One look at a click: a patch of the scan, what the network says of it, and the region that belongs to the clicks."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.evaluation.dice import dice
from medai.evaluation.information import mutual_information_bits
from medai.geometry import IndexBox
from medai.inference.click_rules import Index, ball, connected_to, cut_away, within
from medai.inference.mirrored import FLIPS
from medai.networks.committee import Committee
from medai.networks.engine import Engine
from medai.preprocessing.click_maps import network_input
from medai.preprocessing.patches import PatchGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicks:
    """What is clicked, and where an answer may lie."""

    foreground: tuple[Index, ...]
    background: tuple[Index, ...]
    allowed: IndexBox


@dataclass(frozen=True, slots=True, kw_only=True)
class LookRules:
    """How a probability becomes a region; see ``ClickConfig``."""

    threshold: float
    least_probability: float
    click_radius_mm: float
    border_voxels: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """A mask and probabilities in one box of the scan, the patch they come from, and the probability at the click.

    ``looked_at`` is the part of the scan that was read for it, patches that were passed over included; ``threshold``
    the probability from which a voxel belongs to the mask. ``view_variation`` and ``member_information`` say how much
    mirrored views and the members of a committee differ (``ClickResult``), None where there was one.
    """

    grid: PatchGrid
    box: IndexBox
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    at_click: float
    looked_at: IndexBox
    fills: bool
    threshold: float
    view_variation: float | None = None
    member_information: float | None = None

    @property
    def filled(self) -> IndexBox | None:
        """The box of the mask in the scan."""
        inside = IndexBox.of_mask(self.mask)
        return None if inside is None else inside.shift(self.box.start_ijk)

    @property
    def extent_mm(self) -> float:
        """The longest side of that box."""
        filled = self.filled
        return 0.0 if filled is None else float(np.max(np.multiply(filled.shape_ijk, self.grid.geometry.spacing_mm)))

    @property
    def centre(self) -> NDArray[np.float64]:
        """The middle of that box, in scan voxels; the patch's middle where the mask is empty."""
        filled = self.filled
        if filled is None:
            middle: NDArray[np.float64] = self.grid.to_scan([[(n - 1) / 2 for n in self.grid.shape]])[0]
            return middle
        return np.asarray((np.asarray(filled.start_ijk) + np.asarray(filled.stop_ijk) - 1) / 2)


def look(
    engine: Engine,
    volume: Volume,
    grid: PatchGrid,
    clicks: Clicks,
    rules: LookRules,
    *,
    views: int,
    seconds: dict[str, float],
) -> Region:
    """Run the network on one patch and keep what the clicks say.

    Args:
        engine: a loaded click network.
        volume: the scan; only the patch is read.
        grid: where the patch lies.
        clicks: at least one foreground click.
        rules: from probability to region.
        views: mirrored views that are averaged, 1 to 8.
        seconds: wall time is added to "resample" and "network".
    """
    begun = time.perf_counter()
    patch = network_input(
        grid.extract(volume.image_hu),
        foreground=grid.to_patch(clicks.foreground),
        background=grid.to_patch(clicks.background) if clicks.background else (),
        inside=grid.inside(),
        spacing_mm=grid.spacing_mm,
    )
    flips = [tuple(axis + 1 for axis in axes) for axes in FLIPS[:views]]
    batch = np.stack([np.flip(patch, axes) for axes in flips])
    prepared = time.perf_counter()
    members = engine.run_members(batch)[:, :, 0] if isinstance(engine, Committee) else engine.run(batch)[None, :, 0]
    answered = time.perf_counter()
    by_view = _turned_back(members.mean(axis=0), flips)
    probability = np.mean(by_view, axis=0, dtype=np.float32)
    region = _kept(grid, np.asarray(probability, dtype=np.float32), clicks, rules)
    if views > 1:
        region = replace(region, view_variation=_variation(by_view, probability, region.threshold))
    if len(members) > 1:
        by_member = np.stack([np.mean(_turned_back(one, flips), axis=0, dtype=np.float32) for one in members])
        region = replace(region, member_information=_information(by_member, region.threshold))
    seconds["resample"] += (prepared - begun) + (time.perf_counter() - answered)
    seconds["network"] += answered - prepared
    return region


def averaged(looks: Sequence[Region], clicks: Clicks, rules: LookRules) -> Region:
    """One region from several looks at the same clicks: where looks overlap, their mean probability counts.

    Args:
        looks: at least one; the first one's patch is the region's.
        clicks: what all of them were asked.
        rules: from probability to region.
    """
    first = looks[0]
    if len(looks) == 1:
        return first
    box = functools.reduce(IndexBox.union, (seen.box for seen in looks))
    total, count = np.zeros(box.shape_ijk, dtype=np.float32), np.zeros(box.shape_ijk, dtype=np.float32)
    for seen in looks:
        part = seen.box.shift([-n for n in box.start_ijk]).slices
        total[part] += seen.probability
        count[part] += 1
    mean = np.asarray(total / np.maximum(count, 1), dtype=np.float32)
    return replace(
        _region(first.grid, box, mean, clicks, rules),
        looked_at=functools.reduce(IndexBox.union, (seen.looked_at for seen in looks)),
        view_variation=first.view_variation,
        member_information=first.member_information,
    )


def _turned_back(logits: NDArray[np.float32], flips: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """The probabilities of mirrored views, each as the patch itself lies; ``flips`` count the channel axis."""
    seen = [np.flip(one, [axis - 1 for axis in axes]) for one, axes in zip(logits, flips, strict=True)]
    return [np.asarray(1.0 / (1.0 + np.exp(-np.clip(one, -30.0, 30.0)))) for one in seen]


def _variation(by_view: Sequence[NDArray[np.float32]], mean: NDArray[np.float32], threshold: float) -> float:
    """One less the mean Dice of each view's outline with that of their mean."""
    agreed = mean >= threshold
    return 1.0 - float(np.mean([dice(view >= threshold, agreed) for view in by_view]))


def _information(by_member: NDArray[np.float32], threshold: float) -> float:
    """The mean mutual information of the voxels that any member takes for nodule, bits."""
    somewhere = (by_member >= threshold).any(axis=0)
    return float(mutual_information_bits(by_member[:, somewhere]).mean()) if somewhere.any() else 0.0


def _kept(grid: PatchGrid, patch_probability: NDArray[np.float32], clicks: Clicks, rules: LookRules) -> Region:
    """Bring a patch's answer to the scan's grid and keep what the clicks say."""
    covered, values = grid.restore(patch_probability)
    box = covered.intersect(clicks.allowed)
    return _region(grid, box, values[box.shift([-n for n in covered.start_ijk]).slices], clicks, rules)


def _region(grid: PatchGrid, box: IndexBox, values: NDArray[np.float32], clicks: Clicks, rules: LookRules) -> Region:
    """What the clicks say of probabilities on the scan's grid."""
    spacing_mm = grid.geometry.spacing_mm
    seeds = [ball(click, box, spacing_mm, rules.click_radius_mm) for click in clicks.foreground]
    at_click = float(values[seeds[-1]].max(initial=0.0)) if seeds[-1].any() else 0.0
    threshold = min(rules.threshold, max(rules.least_probability, 0.5 * at_click))
    mask = values >= threshold
    for click in clicks.background:
        mask = cut_away(mask, click, clicks.foreground, box, spacing_mm, rules.click_radius_mm)
    kept = connected_to(mask, seeds)
    for click in clicks.foreground:
        kept[within(click, box)] = True
    inside = IndexBox.of_mask(kept)
    filled = None if inside is None else inside.shift(box.start_ijk)
    return Region(
        grid=grid,
        box=box,
        mask=kept,
        probability=values,
        at_click=at_click,
        looked_at=grid.read_box,
        fills=filled is not None and _fills(grid, filled, rules.border_voxels),
        threshold=threshold,
    )


def _fills(grid: PatchGrid, filled: IndexBox, border_voxels: float) -> bool:
    """True where a region touches a side of its patch beyond which the scan goes on."""
    covered = grid.box
    margin = border_voxels * grid.spacing_mm / np.asarray(grid.geometry.spacing_mm)
    start, stop = np.asarray(covered.start_ijk), np.asarray(covered.stop_ijk)
    low = (np.asarray(filled.start_ijk) < start + margin) & (start > 0)
    high = (np.asarray(filled.stop_ijk) > stop - margin) & (stop < np.asarray(grid.geometry.shape_ijk))
    return bool(np.any(low | high))


def patch_around(
    volume: Volume,
    centre: NDArray[np.float64] | Sequence[float],
    must_hold: Index,
    shape: tuple[int, int, int],
    spacing_mm: float,
) -> PatchGrid:
    """The patch around a point of the scan, moved where it would not hold a voxel well inside."""
    half = (np.asarray(shape) / 2 - 2) * spacing_mm / np.asarray(volume.geometry.spacing_mm)
    middle = np.clip(np.asarray(centre, dtype=np.float64), np.asarray(must_hold) - half, np.asarray(must_hold) + half)
    return PatchGrid.around(volume.geometry, middle.tolist(), shape=shape, spacing_mm=spacing_mm)
