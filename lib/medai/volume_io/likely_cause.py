"""The most likely reason why a scan's values are no Hounsfield units, and what mends it.

Each way in which exports and conversions are known to spoil a CT is undone on a sample of the voxels; the first that
gives a chest in Hounsfield units names the cause. What is no spoiled CT is told by its range: a mask, a picture, a
normalised copy, another modality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.volume_io.hounsfield import AIR_HU, figures_of, value_fault
from medai.volume_io.voxel_sample import VoxelSample

_MASK_VALUES = 32
_NORMALISED_RANGE = 40.0
_TRIED_VOXELS = 20_000
_JUSTIFIED = "(12 bits stored left-justified)"
_WORD = 65536.0
_LARGEST_WINDOW_HU = 500.0

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spoiling:
    """One way to spoil a CT.

    Attributes:
        words: what it looks like and what to do.
        undo: from the values found to Hounsfield units.
    """

    words: str
    undo: Callable[[Values], Values]


def _shifted(offset: float) -> Callable[[Values], Values]:
    return lambda values: values - np.float32(offset)


def _swapped(values: Values) -> Values:
    return np.clip(values, -32768, 32767).astype(np.int16).byteswap().astype(np.float32)


_INTERCEPT = "export it with the rescale intercept applied (stored value × slope + intercept)"
_SLOPE_1 = "export it with the rescale slope 1"
_SPOILED: tuple[_Spoiling, ...] = (
    _Spoiling(words=f"HU + 1024: subtract 1024, or {_INTERCEPT}, which is -1024", undo=_shifted(1024)),
    _Spoiling(words=f"HU + 1000: subtract 1000, or {_INTERCEPT}, which is -1000", undo=_shifted(1000)),
    _Spoiling(words="HU + 32768 (unsigned 16 bits): subtract 32768", undo=_shifted(32768)),
    _Spoiling(words="HU + 31744 (unsigned 16 bits less 1024): subtract 31744", undo=_shifted(31744)),
    _Spoiling(words="HU - 1024, the rescale intercept applied twice: add 1024", undo=_shifted(-1024)),
    _Spoiling(words="HU × 2 (a slope applied twice, or two channels added): halve it", undo=lambda hu: hu / 2),
    _Spoiling(words="HU × 10: divide it by 10", undo=lambda hu: hu / 10),
    _Spoiling(words="HU ÷ 10: multiply it by 10", undo=lambda hu: hu * 10),
    _Spoiling(words="HU ÷ 2: multiply it by 2", undo=lambda hu: hu * 2),
    _Spoiling(words=f"stored values × 2 less 1024: {_SLOPE_1}", undo=lambda hu: (hu + 1024) / 2 - 1024),
    _Spoiling(words=f"stored values ÷ 2 less 1024: {_SLOPE_1}", undo=lambda hu: (hu + 1024) * 2 - 1024),
    _Spoiling(words=f"stored values × 10 less 1024: {_SLOPE_1}", undo=lambda hu: (hu + 1024) / 10 - 1024),
    _Spoiling(words=f"stored values ÷ 10 less 1024: {_SLOPE_1}", undo=lambda hu: (hu + 1024) * 10 - 1024),
    _Spoiling(words=f"HU × 16 {_JUSTIFIED}: divide it by 16", undo=lambda hu: hu / 16),
    _Spoiling(words=f"stored values × 16 {_JUSTIFIED}: divide by 16, subtract 1024", undo=lambda hu: hu / 16 - 1024),
    _Spoiling(
        words=f"stored values × 16 {_JUSTIFIED} less 1024: divide the stored values by 16",
        undo=lambda hu: (hu + 1024) / 16 - 1024,
    ),
    _Spoiling(words="HU with the sign reversed: multiply it by -1", undo=lambda hu: -hu),
    _Spoiling(
        words="an inverted CT (MONOCHROME1): export the stored values, not how they are shown",
        undo=lambda hu: hu.max() - hu - np.float32(1024),
    ),
)
"""Tried in this order, on means of neighbours."""

_SPOILED_WORDS: tuple[_Spoiling, ...] = (
    _Spoiling(
        words="HU whose negative values were stored as unsigned and became 64,000 and more: convert it as signed",
        undo=lambda hu: np.where(hu > 32767, hu - np.float32(_WORD), hu),
    ),
    _Spoiling(
        words="16-bit values with their bytes swapped: convert it with the right byte order",
        undo=_swapped,
    ),
)
"""Tried where all values are whole, on single voxels: means have no bits."""


def likely_cause(sample: VoxelSample, *, is_whole_body: bool) -> str:
    """What the values look like and how to mend them, as a clause that follows "It looks like".

    Args:
        sample: of a scan whose values are no Hounsfield units of a chest.
        is_whole_body: see ``hounsfield.is_whole_body``.
    """
    single = sample.single
    low, high = float(single.min()), float(single.max())
    is_whole = bool((np.rint(single) == single).all())
    return (
        _no_ct(single, low, high, is_whole=is_whole)
        or _spoiled_ct(sample, is_whole=is_whole, is_whole_body=is_whole_body)
        or _other(low, high)
    )


def _no_ct(single: Values, low: float, high: float, *, is_whole: bool) -> str:
    """What the range of the values says by itself; "" for most."""
    if low == high:
        return f"an empty volume: every voxel looked at is {low:g}"
    if is_whole and low >= 0 and high <= 255:
        if np.unique(single).size <= _MASK_VALUES:
            return "a mask or a label map: open the scan, and submit this as its label"
        return "a picture of 8 bits, made for a screen: export the CT itself, not a windowed copy"
    if not is_whole and high - low < _NORMALISED_RANGE:
        return "a copy normalised for a network (or a density): export the CT in Hounsfield units"
    return ""


def _spoiled_ct(sample: VoxelSample, *, is_whole: bool, is_whole_body: bool) -> str:
    """The first way to spoil a CT whose undoing gives a chest; "" where none does."""
    means, voxels = sample.values, sample.single[sample.measured]
    step = max(1, means.size // _TRIED_VOXELS)
    for spoilings, values in ((_SPOILED_WORDS if is_whole else (), voxels[::step]), (_SPOILED, means[::step])):
        for spoiling in spoilings:
            if not value_fault(figures_of(spoiling.undo(values)), is_whole_body=is_whole_body):
                return spoiling.words
    return ""


def _other(low: float, high: float) -> str:
    if low > AIR_HU and high <= _LARGEST_WINDOW_HU:
        return f"a copy cut to a window ({low:g} to {high:g}) or another modality: export the whole CT"
    return (
        "another modality (MR, PET), or CT without its rescale slope and intercept: export the CT in Hounsfield units"
    )
