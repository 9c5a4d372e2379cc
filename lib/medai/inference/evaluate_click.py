"""Judge a click network as an annotator would meet it: through the whole click path, on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.evaluation.dice import dice
from medai.evaluation.simulated_clicks import correcting_click, first_click
from medai.inference.click import ClickSegmenter
from medai.networks.engine import Engine


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
    return [
        _dice_of(segmenter, case, np.random.default_rng([seed, number]), clicks, careful)
        for number, case in enumerate(cases)
    ]


def _dice_of(segmenter: ClickSegmenter, case: ClickCase, rng: np.random.Generator, clicks: int, careful: bool) -> float:
    """Dice of one case."""
    foreground = [first_click(case, rng, careful=careful)]
    background: list[tuple[int, int, int]] = []
    everywhere = np.ones(case.mask.shape, dtype=bool)
    predicted = _outlined(segmenter, case, foreground, background)
    for _ in range(clicks - 1):
        correction = correcting_click(predicted, case.mask, everywhere, rng)
        if correction is None:
            break
        index, is_foreground = correction
        (foreground if is_foreground else background).append(index)
        predicted = _outlined(segmenter, case, foreground, background)
    return dice(predicted, case.mask)


def _outlined(
    segmenter: ClickSegmenter,
    case: ClickCase,
    foreground: list[tuple[int, int, int]],
    background: list[tuple[int, int, int]],
) -> NDArray[np.bool_]:
    """The outline as a mask of the whole case."""
    result = segmenter.segment(case.volume, foreground_ijk=foreground, background_ijk=background)
    predicted = np.zeros(case.mask.shape, dtype=bool)
    predicted[result.box.slices] = result.mask
    return predicted
