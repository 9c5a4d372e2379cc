"""Outline what the annotator clicks on.

The rules an annotator can rely on, whatever the network says:

- A foreground click always belongs to the result, and so does the connected region around it.
- A background click never does. Where the network did not take it away by itself, a ball around it is cut out, and with
  it what then no longer hangs together with a foreground click.
- Another foreground click only adds. Nodules far apart in one segment each get their own patch.
- A click changes what is near it: the farther from it, the more of the answer before it is kept. So correcting one side
  of a nodule does not spoil the other, and several answers smooth each other.
- Nothing outside ``roi`` is ever in the result.

A click is looked at twice: first around the click to see what is there and how large it is, then around the nodule at
a spacing at which it fills about half the patch, in mirrored views and at two scales that are averaged. A nodule of
4 mm and one of 40 mm so look alike to the network, and it hardly matters where in the nodule the click lies; a large
one is shown a little larger, because what lies between its spicules is lost on coarse voxels. Only the patches are read
from the scan, so the time does not depend on its size.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.errors import ModelError
from medai.geometry import IndexBox
from medai.inference.click_answers import Answer, joined
from medai.inference.click_looks import Clicks, LookRules, Region, averaged, look, patch_around
from medai.inference.click_rules import Index, check_together, checked, region_of_scan
from medai.inference.mirrored import FLIPS
from medai.networks.engine import Engine
from medai.preprocessing.patches import PatchGrid

VIEWS_OF_A_SCALE = 2
"""Mirrored views of a further look, also where the second look has eight for what they differ about."""

NO_NODULE = 0.02
"""Probabilities below this are taken for 0: far from the nodule there are many voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickConfig:
    """How clicks are answered.

    Attributes:
        patch_shape: voxels, as the network was trained.
        spacing_mm: spacing of the first look.
        fill: part of the second look's patch that the nodule's longest side takes.
        fill_large: the same of a large nodule, where it is more than ``fill``.
        large_mm: the longest side from which the part grows, and the one from which it is ``fill_large``.
        finest_mm: least spacing of the second look.
        coarsest_mm: largest spacing of any look.
        coarser_factor: spacing of the next first look over that of the one before.
        max_passes: first looks, each coarser than the one before, and second looks, each around the outline before.
        views: mirrored views averaged in the second look, 1 to 8. Two outline as well as eight in a quarter of the
            time; how much eight differ says more of a nodule (``ClickSegmenter.from_all_sides``).
        scales: further second looks, around the outline of the one before, are averaged with it: at the spacing that
            suits its size times each of these, in at most ``VIEWS_OF_A_SCALE`` views.
        finest_scale_mm: least spacing of those.
        border_voxels: a region this near the patch's rim (in patch voxels) has filled it, and is looked at coarser.
        influence: how far a further click reaches (standard deviation), over the longest side of its answer.
        refit_ratio: the second look is repeated where the nodule turns out larger or smaller by this factor.
        threshold: probability from which a voxel belongs to the nodule.
        least_probability: where the network hardly believes in the click, the threshold falls to half the probability
            at the click, but not below this.
        click_radius_mm: voxels this near a click count as clicked when regions are kept or cut off.
    """

    patch_shape: tuple[int, int, int] = (32, 32, 32)
    spacing_mm: float = 0.9
    fill: float = 0.55
    fill_large: float = 0.85
    large_mm: tuple[float, float] = (18.0, 25.0)
    finest_mm: float = 0.5
    coarsest_mm: float = 2.4
    coarser_factor: float = 1.8
    max_passes: int = 3
    views: int = 2
    scales: tuple[float, ...] = (1.2,)
    finest_scale_mm: float = 0.35
    border_voxels: float = 1.5
    influence: float = 0.5
    refit_ratio: float = 1.35
    threshold: float = 0.5
    least_probability: float = 0.05
    click_radius_mm: float = 1.0

    @property
    def reach_mm(self) -> float:
        """How far from a click the looks reach along an axis where the nodule is not unusually large.

        The second look lies around what the first one shows, so its middle is inside the first patch.
        """
        return max(self.patch_shape) * self.spacing_mm

    def second_spacing_mm(self, extent_mm: float) -> float:
        """The spacing of the second look at a nodule of this longest side."""
        return min(max(self._suitable_mm(extent_mm), self.finest_mm), self.coarsest_mm)

    def scaled_spacing_mm(self, extent_mm: float, scale: float) -> float:
        """The spacing of a further look at it, at one of the other scales."""
        return min(max(scale * self._suitable_mm(extent_mm), self.finest_scale_mm), self.coarsest_mm)

    def _suitable_mm(self, extent_mm: float) -> float:
        """The spacing at which a nodule takes its part of the patch."""
        fill = float(np.interp(extent_mm, self.large_mm, (self.fill, max(self.fill, self.fill_large))))
        return extent_mm / (fill * min(self.patch_shape))

    @property
    def rules(self) -> LookRules:
        """What a single look needs to know."""
        return LookRules(
            threshold=self.threshold,
            least_probability=self.least_probability,
            click_radius_mm=self.click_radius_mm,
            border_voxels=self.border_voxels,
        )

    @classmethod
    def of_checkpoint(cls, config: Mapping[str, Any]) -> ClickConfig:
        """The patches a click network was trained on.

        Raises:
            ModelError: the weights are of another task, or of a version that looked only once.
        """
        if config.get("task") != "nodule_click":
            raise ModelError(f"These weights are for '{config.get('task')}', not for 'nodule_click'.")
        missing = sorted({"fill", "finest_mm", "coarsest_mm"} - config.keys())
        if missing:
            raise ModelError(
                f"These weights are of an older medai (their config lacks {', '.join(missing)}): train again from the "
                "starter model."
            )
        i, j, k = (int(n) for n in config["patch_shape"])
        found = cls(
            patch_shape=(i, j, k),
            spacing_mm=float(config["spacing_mm"]),
            fill=float(config["fill"]),
            finest_mm=float(config["finest_mm"]),
            coarsest_mm=float(config["coarsest_mm"]),
        )
        return dataclasses.replace(found, threshold=float(config.get("threshold", found.threshold)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickResult:
    """The answer to a set of clicks.

    Attributes:
        box: where the arrays lie in the scan; empty without a foreground click.
        mask: bool, shape ``box.shape_ijk``.
        probability: float32, same shape, 0–1; 0 where no patch was looked at.
        looked_at: the part of the scan that was read for the answer, empty without a foreground click. Voxels outside
            have no influence on it, nor has where the scan ends, unless the box reaches that end.
        uncertainty: 0 (sure) to 1 (guessing): one less the Dice that may be expected of the mask.
        view_variation: one less the mean Dice of the mirrored views' outlines with that of their mean, 0–1; of several
            foreground clicks the largest. None where one view alone was looked at.
        member_information: how much the members of a committee differ about the voxels that any of them takes for
            nodule: mean mutual information, bits. None where one network answered.
        seconds: wall time of "resample", "network" and "total".
    """

    box: IndexBox
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    looked_at: IndexBox
    uncertainty: float
    view_variation: float | None = None
    member_information: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


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

    def from_all_sides(self) -> ClickSegmenter:
        """One of the same network that averages all mirrored views: slower, and surer of what it doubts."""
        return ClickSegmenter(self._engine, dataclasses.replace(self._config, views=len(FLIPS)))

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
            InputError: a roi that holds nothing of the scan, no click at all, a click outside the scan or a foreground
                click outside the roi, a voxel clicked as both, or more than ``MAX_CLICKS``.
        """
        started = time.perf_counter()
        allowed = region_of_scan(volume.geometry, roi)
        foreground = checked(foreground_ijk, "foreground", volume, allowed)
        background = checked(background_ijk, "background", volume, None)
        check_together(foreground, background)
        seconds = {"resample": 0.0, "network": 0.0}
        regions: list[Region] = []
        answer: Answer | None = None
        for count in range(1, len(foreground) + 1):
            clicks = Clicks(foreground=tuple(foreground[:count]), background=(), allowed=allowed)
            regions.append(self._answer(volume, clicks, regions, seconds))
            answer = self._joined(answer, regions[-1], clicks, foreground[count - 1])
        looked_at = [region.looked_at for region in regions]
        for count in range(1, len(background) + 1 if answer is not None else 1):
            clicks = Clicks(foreground=tuple(foreground), background=tuple(background[:count]), allowed=allowed)
            region = self._corrected(volume, clicks, regions, seconds)
            if region is not None:
                looked_at.append(region.looked_at)
                answer = self._joined(answer, region, clicks, background[count - 1])
        box, mask, probability = (
            (answer.box, answer.mask, answer.probability)
            if answer is not None
            else (_surrounding([]), np.zeros((0, 0, 0), dtype=bool), np.zeros((0, 0, 0), dtype=np.float32))
        )
        seconds["total"] = time.perf_counter() - started
        return ClickResult(
            box=box,
            mask=mask,
            probability=probability,
            looked_at=_surrounding(looked_at),
            uncertainty=_uncertainty(mask, probability),
            view_variation=_largest_known(region.view_variation for region in regions),
            member_information=_largest_known(region.member_information for region in regions),
            seconds=seconds,
        )

    def _answer(self, volume: Volume, clicks: Clicks, earlier: Sequence[Region], seconds: dict[str, float]) -> Region:
        """The region of the latest click: in an earlier click's patch where it lies well inside, else around itself."""
        config, latest = self._config, clicks.foreground[-1]
        grid = self._earlier_grid(latest, earlier)
        if grid is None:
            found = self._first_looks(volume, clicks, seconds)
            looked_at = found.looked_at
            grid = self._second_grid(volume, found, latest)
        else:
            found, looked_at = None, grid.read_box
        for _ in range(config.max_passes):
            region = look(self._engine, volume, grid, clicks, config.rules, views=config.views, seconds=seconds)
            looked_at = looked_at.union(region.looked_at)
            closer = self._second_grid(volume, region, latest)
            ratio = closer.spacing_mm / grid.spacing_mm
            if not (region.fills and ratio > 1.0) and 1 / config.refit_ratio < ratio < config.refit_ratio:
                break
            grid = closer
        if found is not None and not self._believes(region) and self._believes(found):
            # What the views of the second look differ about is why it is not believed.
            region = dataclasses.replace(
                found, view_variation=region.view_variation, member_information=region.member_information
            )
        region = self._at_all_scales(volume, region, region, clicks, seconds)
        return dataclasses.replace(region, looked_at=looked_at.union(region.looked_at))

    def _at_all_scales(
        self, volume: Volume, region: Region, outlined: Region, clicks: Clicks, seconds: dict[str, float]
    ) -> Region:
        """A second look's region, averaged with what is seen around an outline at the other scales."""
        config, looks = self._config, [region]
        for scale in config.scales:
            spacing_mm = config.scaled_spacing_mm(outlined.extent_mm, scale)
            grid = patch_around(volume, outlined.centre, clicks.foreground[-1], config.patch_shape, spacing_mm)
            views = min(config.views, VIEWS_OF_A_SCALE)
            looks.append(look(self._engine, volume, grid, clicks, config.rules, views=views, seconds=seconds))
        return averaged(looks, clicks, config.rules)

    def _corrected(
        self, volume: Volume, clicks: Clicks, regions: list[Region], seconds: dict[str, float]
    ) -> Region | None:
        """A new answer in the latest patch that holds the latest background click, or None where none does.

        Nothing beyond the patches belongs to the answer, so that a click there has nothing to take away.
        """
        for number in reversed(range(len(regions))):
            grid = regions[number].grid
            at = grid.to_patch([clicks.background[-1]])[0]
            if np.all(at > -0.5) and np.all(at < np.asarray(grid.shape) - 0.5):
                rules, views = self._config.rules, self._config.views
                region = look(self._engine, volume, grid, clicks, rules, views=views, seconds=seconds)
                regions[number] = self._at_all_scales(volume, region, regions[number], clicks, seconds)
                return regions[number]
        return None

    def _joined(self, before: Answer | None, region: Region, clicks: Clicks, click: Index) -> Answer:
        """The answer after one more click."""
        if before is None:
            mask = region.mask.copy()
            return Answer(box=region.box, mask=mask, probability=region.probability, threshold=region.threshold)
        rules, spacing_mm = self._config.rules, region.grid.geometry.spacing_mm
        reach_mm = max(self._config.influence * region.extent_mm, rules.click_radius_mm)
        return joined(before, region, clicks, click, reach_mm=reach_mm, rules=rules, spacing_mm=spacing_mm)

    def _first_looks(self, volume: Volume, clicks: Clicks, seconds: dict[str, float]) -> Region:
        """What is at the click: at the usual spacing, and coarser while it fills its patch or nothing is believed."""
        config, latest = self._config, clicks.foreground[-1]
        centre: Any = latest
        spacing_mm, looked_at = config.spacing_mm, IndexBox.of_shape((0, 0, 0))
        best: Region | None = None
        for _ in range(config.max_passes):
            grid = patch_around(volume, centre, latest, config.patch_shape, spacing_mm)
            region = look(self._engine, volume, grid, clicks, config.rules, views=1, seconds=seconds)
            looked_at = region.looked_at if best is None else looked_at.union(region.looked_at)
            if best is None or best.fills or self._believes(region):
                best = region
            if not region.fills and self._believes(region):
                break
            spacing_mm = min(spacing_mm * config.coarser_factor, config.coarsest_mm)
            centre = region.centre if region.fills else latest
        if best is None:
            raise ModelError(f"max_passes must be 1 or more, it is {config.max_passes}.")
        return dataclasses.replace(best, looked_at=looked_at)

    def _second_grid(self, volume: Volume, region: Region, click: Index) -> PatchGrid:
        """The patch around a region at the spacing that suits its size; larger than that where it fills its patch."""
        config = self._config
        extent_mm = region.extent_mm * (config.coarser_factor if region.fills else 1.0)
        return patch_around(volume, region.centre, click, config.patch_shape, config.second_spacing_mm(extent_mm))

    def _earlier_grid(self, click: Index, earlier: Sequence[Region]) -> PatchGrid | None:
        """The patch of an earlier answer that holds a click well inside."""
        shape = np.asarray(self._config.patch_shape)
        for region in reversed(earlier):
            at = region.grid.to_patch([click])[0]
            if np.all(at > shape / 6) and np.all(at < shape - 1 - shape / 6):
                return region.grid
        return None

    def _believes(self, region: Region) -> bool:
        """True where the network takes the click for part of a nodule."""
        return region.at_click >= self._config.threshold


def _largest_known(values: Iterable[float | None]) -> float | None:
    """The largest of some numbers, None where none is known."""
    return max((value for value in values if value is not None), default=None)


def _surrounding(boxes: Sequence[IndexBox]) -> IndexBox:
    """The smallest box that holds all; an empty one for none."""
    return functools.reduce(IndexBox.union, boxes) if boxes else IndexBox(start_ijk=(0, 0, 0), stop_ijk=(0, 0, 0))


def _uncertainty(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> float:
    """One less the Dice that the probabilities let expect of the mask (the ratio of expectations).

    As the probabilities are calibrated, so is this: an uncertainty of 0.2 stands for a Dice of about 0.8.
    """
    expected = 2.0 * float(probability[mask].sum(dtype=np.float64))
    total = float(np.count_nonzero(mask)) + float(probability[probability > NO_NODULE].sum(dtype=np.float64))
    return min(1.0, max(0.0, 1.0 - expected / total)) if total > 0 else 0.0
