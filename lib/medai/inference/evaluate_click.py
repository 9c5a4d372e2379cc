"""Judge a click network as an annotator would meet it: through the whole click path, on the scan's own grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.evaluation.dice import dice
from medai.evaluation.simulated_clicks import ClickPlace, correcting_click, placed_click
from medai.inference.click import ClickResult, ClickSegmenter
from medai.networks.engine import Engine


class Outliner(Protocol):
    """What answers clicks: ``medai.inference.click.ClickSegmenter``."""

    def segment(
        self,
        volume: Volume,
        *,
        foreground_ijk: Sequence[Sequence[int]],
        background_ijk: Sequence[Sequence[int]] = (),
    ) -> ClickResult:
        """Outline what the foreground clicks lie in."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickTrial:
    """One nodule outlined by simulated clicks.

    Attributes:
        foreground_ijk: clicks inside, in their order.
        background_ijk: clicks outside.
        result: the answer to all of them.
        mask: that answer on the whole case's grid, bool.
        dice_after: Dice after each click; shorter than the clicks asked for where nothing was left to correct.
    """

    foreground_ijk: tuple[tuple[int, int, int], ...]
    background_ijk: tuple[tuple[int, int, int], ...]
    result: ClickResult
    mask: NDArray[np.bool_]
    dice_after: tuple[float, ...]


def evaluate_click_model(
    engine: Engine, cases: Sequence[ClickCase], seed: int, *, clicks: int = 1, careful: bool = True
) -> list[float]:
    """Dice of each case after simulated clicks.

    The same seed places the same first click in the same case whatever the network, so that two networks are compared
    fairly.

    Args:
        engine: a loaded click network.
        cases: nodules with their truth.
        seed: places the clicks.
        clicks: one, or how many in all; each further one corrects the largest mistake that is left.
        careful: the first click lies within 3 mm of the innermost voxel; False: anywhere in the nodule.

    Returns:
        One Dice a case, in the order of the cases.
    """
    segmenter = ClickSegmenter(engine)
    place = ClickPlace.CENTRE if careful else ClickPlace.ANYWHERE
    return [
        outline_by_clicks(
            segmenter, case, place=place, clicks=clicks, rng=case_generator(seed, case.case_id)
        ).dice_after[-1]
        for case in cases
    ]


def case_generator(seed: int, case_id: str) -> np.random.Generator:
    """Random numbers of one case: the same whichever other cases are judged with it."""
    digest = hashlib.sha256(case_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def outline_by_clicks(
    segmenter: Outliner, case: ClickCase, *, place: ClickPlace, clicks: int, rng: np.random.Generator
) -> ClickTrial:
    """Click on a nodule, look at the answer, and click again at the innermost voxel of the largest mistake.

    Args:
        segmenter: answers the clicks.
        case: the nodule with its truth.
        place: where the first click lies.
        clicks: how many in all, at least one; fewer are made where the outline is right to the voxel.
        rng: draws the first click; the corrections are no matter of chance.
    """
    foreground = [placed_click(case, place, rng)]
    background: list[tuple[int, int, int]] = []
    everywhere = np.ones(case.mask.shape, dtype=bool)
    result, mask = _outlined(segmenter, case, foreground, background)
    dice_after = [dice(mask, case.mask)]
    for _ in range(clicks - 1):
        correction = correcting_click(mask, case.mask, everywhere, None, spacing_mm=case.volume.geometry.spacing_mm)
        if correction is None:
            break
        index, is_foreground = correction
        if index in foreground or index in background:
            break
        (foreground if is_foreground else background).append(index)
        result, mask = _outlined(segmenter, case, foreground, background)
        dice_after.append(dice(mask, case.mask))
    return ClickTrial(
        foreground_ijk=tuple(foreground),
        background_ijk=tuple(background),
        result=result,
        mask=mask,
        dice_after=tuple(dice_after),
    )


def _outlined(
    segmenter: Outliner,
    case: ClickCase,
    foreground: list[tuple[int, int, int]],
    background: list[tuple[int, int, int]],
) -> tuple[ClickResult, NDArray[np.bool_]]:
    """The answer, and its outline as a mask of the whole case."""
    result = segmenter.segment(case.volume, foreground_ijk=foreground, background_ijk=background)
    outlined = np.zeros(case.mask.shape, dtype=bool)
    outlined[result.box.slices] = result.mask
    return result, outlined
