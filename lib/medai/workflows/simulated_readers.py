"""Readers without a person, for simulations of annotation: honest, careless, biased and hostile ones.

Each function turns a true outline into the label that such a reader would submit; all chance comes from the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError
from medai.evaluation.dice import dice
from medai.geometry import IndexBox

HONEST_DICE = 0.9
"""Dice of a careful reader's outline to the truth; two such readers then agree with about 0.85."""
CARELESS_DICE = 0.7
_HONEST_VOLUME_SD, _CARELESS_VOLUME_SD = 0.05, 0.2
"""Standard deviation of the log of the volume over the true one; its mean is 0: no bias."""
_DICE_SD = 0.02
_RIPPLE_OF_RADIUS = 0.5
"""How long the waves of an outline's error are, in radii of the nodule."""
_STEPS = 18


class Sabotage(StrEnum):
    """How a hostile reader spoils a label."""

    WRONG_PLACE = "wrong place"
    SHUFFLED = "shuffled"
    INVERTED = "inverted"
    NEARLY_EMPTY = "nearly empty"


def honest_label(
    mask: NDArray[np.bool_], spacing_mm: Sequence[float], rng: np.random.Generator, *, dice_wanted: float = HONEST_DICE
) -> NDArray[np.bool_]:
    """An outline as another careful reader draws it: wavy where the truth is not, of the same volume on average.

    Args:
        mask: the true nodule, bool [i, j, k]; at least one voxel.
        spacing_mm: of the grid, three values.
        rng: draws the waves, the volume and how good this outline is.
        dice_wanted: mean Dice to the truth, above 0 and below 1; a nodule of few voxels reaches it only roughly.

    Raises:
        InputError: the mask is empty, or the Dice is out of range.
    """
    return _redrawn(mask, spacing_mm, rng, dice_wanted=dice_wanted, volume_sd=_HONEST_VOLUME_SD)


def careless_label(
    mask: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    dice_wanted: float = CARELESS_DICE,
) -> NDArray[np.bool_]:
    """A noisy outline: far off the truth, but no larger or smaller on average; see ``honest_label``."""
    return _redrawn(mask, spacing_mm, rng, dice_wanted=dice_wanted, volume_sd=_CARELESS_VOLUME_SD)


def biased_label(
    mask: NDArray[np.bool_], spacing_mm: Sequence[float], rng: np.random.Generator, *, margin_mm: float
) -> NDArray[np.bool_]:
    """An honest outline drawn too large all around.

    Args:
        mask: the true nodule, bool [i, j, k]; at least one voxel.
        spacing_mm: of the grid, three values.
        rng: draws the honest outline.
        margin_mm: voxels whose middle lies this near to an outlined one are added; an axis whose voxels are larger does
            not grow.

    Raises:
        InputError: the mask is empty, or the margin is not above 0.
    """
    if not margin_mm > 0:
        raise InputError(f"An outline cannot be too large by {margin_mm} mm: give a margin above 0.")
    from scipy import ndimage

    drawn = honest_label(mask, spacing_mm, rng)
    return np.asarray(ndimage.distance_transform_edt(~drawn, sampling=list(spacing_mm)) <= margin_mm)


def hostile_label(
    mask: NDArray[np.bool_], spacing_mm: Sequence[float], rng: np.random.Generator, *, sabotage: Sabotage | None = None
) -> NDArray[np.bool_]:
    """A label that does harm.

    Args:
        mask: the true nodule, bool [i, j, k]; at least one voxel.
        spacing_mm: of the grid, three values.
        rng: draws the place and the kind.
        sabotage: how; None draws one. ``WRONG_PLACE`` needs room beside the nodule: without it the label is inverted.

    Raises:
        InputError: the mask is empty.
    """
    box = _box(mask)
    kind = sabotage or list(Sabotage)[int(rng.integers(len(Sabotage)))]
    if kind is Sabotage.WRONG_PLACE:
        moved = _moved(mask, box, rng)
        if moved is not None:
            return moved
        kind = Sabotage.INVERTED
    around = box.expand([_margin_voxels(box, spacing_mm, axis) for axis in range(3)]).clip(mask.shape)
    spoiled = np.zeros(mask.shape, dtype=bool)
    inside = mask[around.slices]
    if kind is Sabotage.SHUFFLED:
        spoiled[around.slices] = rng.permutation(inside.ravel()).reshape(inside.shape)
    elif kind is Sabotage.INVERTED:
        spoiled[around.slices] = ~inside
    else:
        places = np.argwhere(mask)
        spoiled[tuple(places[int(rng.integers(len(places)))])] = True
    return spoiled


def _redrawn(
    mask: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    dice_wanted: float,
    volume_sd: float,
) -> NDArray[np.bool_]:
    """The outline with waves of such a height that its Dice is the one wanted.

    The highest voxels of distance to the outline plus waves are taken, as many as the volume needs: whatever the waves
    do, the volume has no bias but for the islands, which are left out.
    """
    if not 0 < dice_wanted < 1:
        raise InputError(f"Dice of {dice_wanted} cannot be drawn: it lies between 0 and 1.")
    from scipy import ndimage

    box = _box(mask)
    around = box.expand([_margin_voxels(box, spacing_mm, axis) for axis in range(3)]).clip(mask.shape)
    truth = mask[around.slices]
    radius_mm = _radius_mm(truth, spacing_mm)
    ripple = [_RIPPLE_OF_RADIUS * radius_mm / spacing for spacing in spacing_mm]
    waves = ndimage.gaussian_filter(rng.standard_normal(truth.shape), ripple)
    waves = (waves - waves.mean()) / max(float(waves.std()), 1e-9)
    depth_mm = ndimage.distance_transform_edt(np.pad(truth, 1), sampling=list(spacing_mm))[1:-1, 1:-1, 1:-1]
    depth_mm = depth_mm - ndimage.distance_transform_edt(~truth, sampling=list(spacing_mm))
    voxels = int(np.count_nonzero(truth))
    count = max(1, min(truth.size, round(voxels * float(np.exp(rng.normal(0, volume_sd))))))
    goal = float(np.clip(rng.normal(dice_wanted, _DICE_SD), 0.05, 0.99))
    low, high = 0.0, 4 * radius_mm
    best = _highest(depth_mm, count)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        drawn = _highest(depth_mm + middle * waves, count)
        reached = dice(drawn, truth)
        if abs(reached - goal) < abs(dice(best, truth) - goal):
            best = drawn
        low, high = (middle, high) if reached > goal else (low, middle)
    label = np.zeros(mask.shape, dtype=bool)
    label[around.slices] = best
    return label


def _highest(score: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """The highest voxels, without islands: nobody draws those."""
    from scipy import ndimage

    chosen = np.zeros(score.size, dtype=bool)
    chosen[np.argpartition(-score, count - 1, axis=None)[:count]] = True
    numbered, parts = ndimage.label(chosen.reshape(score.shape), structure=np.ones((3, 3, 3)))
    if parts == 1:
        return np.asarray(numbered == 1)
    return np.asarray(numbered == 1 + int(np.argmax(np.bincount(numbered.ravel())[1:])))


def _moved(mask: NDArray[np.bool_], box: IndexBox, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """The nodule somewhere else in the grid where it does not touch itself; None without room."""
    room = [side - extent + 1 for side, extent in zip(mask.shape, box.shape_ijk, strict=True)]
    for _ in range(100):
        start = [int(rng.integers(n)) for n in room]
        offset = [new - old for new, old in zip(start, box.start_ijk, strict=True)]
        place = box.shift(offset)
        if place.intersect(box).is_empty:
            moved = np.zeros(mask.shape, dtype=bool)
            moved[place.slices] = mask[box.slices]
            return moved
    return None


def _box(mask: NDArray[np.bool_]) -> IndexBox:
    box = IndexBox.of_mask(mask)
    if box is None:
        raise InputError(f"The mask of shape {mask.shape} is empty: there is no nodule to outline.")
    return box


def _radius_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Of the ball of the same volume."""
    volume_mm3 = np.count_nonzero(mask) * float(np.prod(np.asarray(spacing_mm)))
    return float((3 * volume_mm3 / (4 * np.pi)) ** (1 / 3))


def _margin_voxels(box: IndexBox, spacing_mm: Sequence[float], axis: int) -> int:
    """Half the nodule's extent, two voxels at least: an outline can go that far off."""
    longest_mm = max(count * spacing for count, spacing in zip(box.shape_ijk, spacing_mm, strict=True))
    return max(2, int(np.ceil(longest_mm / 2 / spacing_mm[axis])))
