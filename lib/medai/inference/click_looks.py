"""One look at a click: a patch of the scan, what the network says of it, and the region that belongs to the clicks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.geometry import IndexBox
from medai.inference.click_rules import Index, ball, connected_to, cut_away, within
from medai.networks.engine import Engine
from medai.preprocessing.click_maps import network_input
from medai.preprocessing.patches import PatchGrid

FLIPS: tuple[tuple[int, ...], ...] = ((), (0, 1, 2), (0,), (1, 2), (1,), (0, 2), (2,), (0, 1))
"""The mirrored views of a patch, in an order whose every even number of them is balanced."""


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
    the probability from which a voxel belongs to the mask.
    """

    grid: PatchGrid
    box: IndexBox
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    at_click: float
    looked_at: IndexBox
    fills: bool
    threshold: float

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
    logits = engine.run(batch)[:, 0]
    answered = time.perf_counter()
    seen = [np.flip(one, [axis - 1 for axis in axes]) for one, axes in zip(logits, flips, strict=True)]
    probability = np.mean([1.0 / (1.0 + np.exp(-np.clip(one, -30.0, 30.0))) for one in seen], axis=0, dtype=np.float32)
    region = _kept(grid, np.asarray(probability, dtype=np.float32), clicks, rules)
    seconds["resample"] += (prepared - begun) + (time.perf_counter() - answered)
    seconds["network"] += answered - prepared
    return region


def _kept(grid: PatchGrid, patch_probability: NDArray[np.float32], clicks: Clicks, rules: LookRules) -> Region:
    """Bring a patch's answer to the scan's grid and keep what the clicks say."""
    covered, values = grid.restore(patch_probability)
    box = covered.intersect(clicks.allowed)
    values = values[box.shift([-n for n in covered.start_ijk]).slices]
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
