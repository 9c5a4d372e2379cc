"""Outline what the annotator clicks on.

The rules an annotator can rely on, whatever the network says:

- A foreground click always belongs to the result, and so does the connected region around it.
- A background click never does. Where the network did not take it away by itself, what lies nearer to it than to any
  foreground click is cut off.
- Another foreground click only adds: the result is the union of the answers to the first click, the first two, and
  so on, each in a patch around its latest click. Nodules far apart in one segment each get their own patch.
- Nothing outside ``roi`` is ever in the result.

Only the patches are read from the scan, so the time does not depend on its size. What may be part of something larger
is looked at again in a coarser patch: close up, the network takes a bay of a large nodule for the whole of it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.errors import ModelError
from medai.geometry import IndexBox
from medai.inference.click_rules import Index, ball, check_together, checked, connected_to, cut_away, within
from medai.networks.engine import Engine
from medai.preprocessing.click_maps import click_map
from medai.preprocessing.hu_window import window_hu
from medai.preprocessing.patches import PatchGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickConfig:
    """How clicks are answered.

    Attributes:
        patch_shape: voxels, as the network was trained.
        spacing_mm: spacing of the first patch.
        coarser_factor: spacing of the next patch over that of the one before.
        max_passes: patches looked at for one click.
        border_voxels: a region this near the patch's rim (in patch voxels) has filled it, and is looked at coarser.
        doubtful_extent_mm: a region of the first patch whose box has a side of this length is looked at coarser too.
        large_extent_mm: and the coarser answer is taken where its box has a side of this length. So it is where the
            network hardly believes in the click (a probability below ``threshold``): inside a mass that is larger than
            the first patch nothing in it looks like a nodule.
        threshold: probability from which a voxel belongs to the nodule.
        least_probability: where the network hardly believes in the click, the threshold falls to half the probability
            at the click, but not below this.
        click_radius_mm: voxels this near a click count as clicked when regions are kept or cut off.
    """

    patch_shape: tuple[int, int, int] = (48, 48, 48)
    spacing_mm: float = 0.75
    coarser_factor: float = 1.6
    max_passes: int = 3
    border_voxels: float = 2.0
    doubtful_extent_mm: float = 6.0
    large_extent_mm: float = 16.0
    threshold: float = 0.5
    least_probability: float = 0.05
    click_radius_mm: float = 1.0

    @property
    def reach_mm(self) -> float:
        """How far from a click the first two patches reach along an axis; hardly any click needs a third.

        The second patch lies around what has filled the first, so its middle is at most half a first patch away.
        """
        first = max(self.patch_shape) * self.spacing_mm / 2
        return first + first * self.coarser_factor if self.max_passes > 1 else first

    @classmethod
    def of_checkpoint(cls, config: Mapping[str, Any]) -> ClickConfig:
        """The patch a click network was trained on.

        Raises:
            ModelError: the weights are of another task.
        """
        if config.get("task") != "nodule_click":
            raise ModelError(f"These weights are for '{config.get('task')}', not for 'nodule_click'.")
        i, j, k = (int(n) for n in config["patch_shape"])
        return cls(patch_shape=(i, j, k), spacing_mm=float(config["spacing_mm"]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickResult:
    """The answer to a set of clicks.

    Attributes:
        box: where the arrays lie in the scan; empty without a foreground click.
        mask: bool, shape ``box.shape_ijk``.
        probability: float32, same shape, 0–1; 0 where no patch was looked at.
        looked_at: the part of the scan that was read for the answer, empty without a foreground click. Voxels outside
            have no influence on it, nor has where the scan ends, unless the box reaches that end.
        uncertainty: 0 (sure) to 1 (guessing): mean binary entropy over what the network took for nodule or nearly so.
        seconds: wall time of "resample", "network" and "total".
    """

    box: IndexBox
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    looked_at: IndexBox
    uncertainty: float
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Region:
    """A mask and probabilities in one box of the scan, the patch they come from, and the probability at the click.

    ``looked_at`` is the part of the scan that was read for it, patches that were passed over included.
    """

    grid: PatchGrid
    box: IndexBox
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    at_click: float
    looked_at: IndexBox

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


class ClickSegmenter:
    """Point-guided segmentation. Keeps no state between calls; may be called from any number of threads.

    Args:
        engine: a loaded click network.
        config: by default what the engine's checkpoint says.
    """

    def __init__(self, engine: Engine, config: ClickConfig | None = None) -> None:
        self._engine = engine
        self._config = config or ClickConfig.of_checkpoint(engine.config)

    @property
    def config(self) -> ClickConfig:
        """How clicks are answered."""
        return self._config

    @property
    def reach_mm(self) -> float:
        """How far from a click the answer usually looks; see ``ClickConfig.reach_mm``."""
        return self._config.reach_mm

    def segment(
        self,
        volume: Volume,
        *,
        foreground_ijk: Sequence[Sequence[int]],
        background_ijk: Sequence[Sequence[int]] = (),
        roi: IndexBox | None = None,
    ) -> ClickResult:
        """Outline the nodules that the foreground clicks lie in.

        Args:
            volume: the scan; only patches of it are read.
            foreground_ijk: voxels inside, in the order they were clicked. With background clicks alone the result is
                empty.
            background_ijk: voxels outside.
            roi: nothing outside it is segmented; None for the whole scan.

        Raises:
            InputError: no click at all, a click outside the scan or a foreground click outside the roi, a voxel clicked
                as both, or more than ``MAX_CLICKS``.
        """
        started = time.perf_counter()
        allowed = IndexBox.of_shape(volume.geometry.shape_ijk)
        if roi is not None:
            allowed = allowed.intersect(roi)
        foreground = checked(foreground_ijk, "foreground", volume, allowed)
        background = checked(background_ijk, "background", volume, None)
        check_together(foreground, background)
        seconds = {"resample": 0.0, "network": 0.0}
        regions: list[_Region] = []
        for count in range(1, len(foreground) + 1):
            regions.append(self._answer(volume, foreground[:count], background, allowed, regions, seconds))
        box, mask, probability = _united(regions)
        for click in foreground:
            mask[within(click, box)] = True
        seconds["total"] = time.perf_counter() - started
        return ClickResult(
            box=box,
            mask=mask,
            probability=probability,
            looked_at=_surrounding([region.looked_at for region in regions]),
            uncertainty=_uncertainty(mask, probability),
            seconds=seconds,
        )

    def _answer(
        self,
        volume: Volume,
        foreground: Sequence[Index],
        background: Sequence[Index],
        allowed: IndexBox,
        earlier: Sequence[_Region],
        seconds: dict[str, float],
    ) -> _Region:
        """The region of the latest click: in an earlier click's patch where it lies well inside, else around itself."""
        grid = self._first_grid(volume, foreground[-1], earlier)
        region = self._look(volume, grid, foreground, background, allowed, seconds)
        looked_at = region.looked_at
        spacing_mm = grid.spacing_mm
        for _ in range(self._config.max_passes - 1):
            centre = self._coarser_centre(region, foreground[-1])
            if centre is None:
                break
            spacing_mm *= self._config.coarser_factor
            coarser = PatchGrid.around(volume.geometry, centre, shape=grid.shape, spacing_mm=spacing_mm)
            wider = self._look(volume, coarser, foreground, background, allowed, seconds)
            looked_at = looked_at.union(wider.looked_at)
            if self._fills(region) or (self._believes(wider) and wider.extent_mm >= self._config.large_extent_mm):
                region = wider
            elif self._believes(region):
                break
        return dataclasses.replace(region, looked_at=looked_at)

    def _look(
        self,
        volume: Volume,
        grid: PatchGrid,
        foreground: Sequence[Index],
        background: Sequence[Index],
        allowed: IndexBox,
        seconds: dict[str, float],
    ) -> _Region:
        """What the network and the clicks say in one patch."""
        probability = self._probability(volume, grid, foreground, background, seconds)
        begun = time.perf_counter()
        region = self._kept(grid, probability, foreground, background, allowed)
        seconds["resample"] += time.perf_counter() - begun
        return region

    def _believes(self, region: _Region) -> bool:
        """True where the network takes the click for part of a nodule."""
        return region.at_click >= self._config.threshold

    def _coarser_centre(self, region: _Region, click: Index) -> Sequence[float] | None:
        """Where the next, coarser patch should lie; None where none is needed."""
        if self._fills(region) and region.filled is not None:
            return [(a + b - 1) / 2 for a, b in zip(region.filled.start_ijk, region.filled.stop_ijk, strict=True)]
        is_first = region.grid.spacing_mm == self._config.spacing_mm
        doubtful = not self._believes(region) or region.extent_mm >= self._config.doubtful_extent_mm
        return click if is_first and doubtful else None

    def _first_grid(self, volume: Volume, click: Index, earlier: Sequence[_Region]) -> PatchGrid:
        """The patch a click is looked at in first."""
        shape = self._config.patch_shape
        for region in reversed(earlier):
            at = region.grid.to_patch([click])[0]
            margin = np.asarray(shape) / 6
            if np.all(at > margin) and np.all(at < np.asarray(shape) - 1 - margin):
                return region.grid
        return PatchGrid.around(volume.geometry, click, shape=shape, spacing_mm=self._config.spacing_mm)

    def _probability(
        self,
        volume: Volume,
        grid: PatchGrid,
        foreground: Sequence[Index],
        background: Sequence[Index],
        seconds: dict[str, float],
    ) -> NDArray[np.float32]:
        """Run the network on one patch; 0–1, patch shape."""
        begun = time.perf_counter()
        channels = [
            window_hu(grid.extract(volume.image_hu)),
            click_map(grid.shape, grid.to_patch(foreground)),
            click_map(grid.shape, grid.to_patch(background)),
        ]
        resampled = time.perf_counter()
        logits = self._engine.run(np.stack(channels)[None])[0, 0]
        seconds["resample"] += resampled - begun
        seconds["network"] += time.perf_counter() - resampled
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))), dtype=np.float32)

    def _kept(
        self,
        grid: PatchGrid,
        patch_probability: NDArray[np.float32],
        foreground: Sequence[Index],
        background: Sequence[Index],
        allowed: IndexBox,
    ) -> _Region:
        """Bring a patch's answer to the scan's grid and keep what the clicks say."""
        covered, values = grid.restore(patch_probability)
        box = covered.intersect(allowed)
        values = values[box.shift([-n for n in covered.start_ijk]).slices]
        spacing_mm = grid.geometry.spacing_mm
        seeds = [ball(click, box, spacing_mm, self._config.click_radius_mm) for click in foreground]
        at_click = float(values[seeds[-1]].max(initial=0.0)) if seeds[-1].any() else 0.0
        threshold = min(self._config.threshold, max(self._config.least_probability, 0.5 * at_click))
        mask = values >= threshold
        for click in background:
            mask = cut_away(mask, click, foreground, box, spacing_mm, self._config.click_radius_mm)
        kept = connected_to(mask, seeds)
        for click in foreground:
            kept[within(click, box)] = True
        return _Region(grid=grid, box=box, mask=kept, probability=values, at_click=at_click, looked_at=grid.read_box)

    def _fills(self, region: _Region) -> bool:
        """True where a region touches a side of its patch beyond which the scan goes on."""
        grid, filled = region.grid, region.filled
        if filled is None:
            return False
        covered = grid.box
        margin = self._config.border_voxels * grid.spacing_mm / np.asarray(grid.geometry.spacing_mm)
        start, stop = np.asarray(covered.start_ijk), np.asarray(covered.stop_ijk)
        low = (np.asarray(filled.start_ijk) < start + margin) & (start > 0)
        high = (np.asarray(filled.stop_ijk) > stop - margin) & (stop < np.asarray(grid.geometry.shape_ijk))
        return bool(np.any(low | high))


def _united(regions: Sequence[_Region]) -> tuple[IndexBox, NDArray[np.bool_], NDArray[np.float32]]:
    """The union of regions, in the smallest box that holds what they looked at."""
    box = _surrounding([region.box for region in regions])
    mask = np.zeros(box.shape_ijk, dtype=bool)
    probability = np.zeros(box.shape_ijk, dtype=np.float32)
    for region in regions:
        part = region.box.shift([-n for n in box.start_ijk]).slices
        mask[part] |= region.mask
        probability[part] = np.maximum(probability[part], region.probability)
    return box, mask, probability


def _surrounding(boxes: Sequence[IndexBox]) -> IndexBox:
    """The smallest box that holds all; an empty one for none."""
    return functools.reduce(IndexBox.union, boxes) if boxes else IndexBox(start_ijk=(0, 0, 0), stop_ijk=(0, 0, 0))


def _uncertainty(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> float:
    """Mean binary entropy, in bits, over the mask and whatever else has a probability above 0.05."""
    doubtful = probability[mask | (probability > 0.05)].astype(np.float64)
    if doubtful.size == 0:
        return 0.0
    p = np.clip(doubtful, 1e-6, 1 - 1e-6)
    return float(np.mean(-(p * np.log2(p) + (1 - p) * np.log2(1 - p))))
