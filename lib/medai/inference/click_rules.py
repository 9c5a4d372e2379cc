"""What clicks are worth, whatever the network says: which are valid, what they keep and what they cut off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry

Index = tuple[int, int, int]

MAX_CLICKS = 100
"""Each foreground click is one run of the network: more is a mistake of a program, not an annotator's work."""

SEVERING = 1.5
"""Radius of what a background click takes away, over how deep in the mask it lies."""


def region_of_scan(geometry: VolumeGeometry, roi: IndexBox | None) -> IndexBox:
    """The part of a region of interest that lies in the scan; all of the scan without one.

    Raises:
        InputError: no voxel of the region lies in the scan.
    """
    whole = IndexBox.of_shape(geometry.shape_ijk)
    if roi is None:
        return whole
    part = whole.intersect(roi)
    if part.is_empty:
        asked, valid = (
            ", ".join(
                f"{axis} {low}–{high - 1}" for axis, low, high in zip("ijk", box.start_ijk, box.stop_ijk, strict=True)
            )
            for box in (roi, whole)
        )
        raise InputError(
            f"The region of interest ({asked}) lies outside the scan: valid are {valid}. It takes voxel indices, not "
            "millimetres; leave it away to outline without one."
        )
    return part


def checked(clicks: Sequence[Sequence[int]], kind: str, volume: Volume, allowed: IndexBox | None) -> list[Index]:
    """Clicks as voxel indices.

    Raises:
        InputError: one is no index, or lies outside the scan or outside ``allowed``.
    """
    checked: list[Index] = []
    shape = volume.geometry.shape_ijk
    for click in clicks:
        index = np.asarray(click)
        if index.shape != (3,) or not np.issubdtype(index.dtype, np.number) or np.any(index != np.round(index)):
            raise InputError(f"A {kind} click is three whole voxel indices i, j, k, this one is {click!r}.")
        i, j, k = (int(n) for n in index)
        if not volume.geometry.contains((i, j, k)):
            valid = ", ".join(f"{axis} 0–{n - 1}" for axis, n in zip("ijk", shape, strict=True))
            raise InputError(f"The {kind} click ({i}, {j}, {k}) lies outside the scan: valid are {valid}.")
        if allowed is not None and not allowed.contains((i, j, k)):
            valid = ", ".join(
                f"{axis} {a}–{b - 1}" for axis, a, b in zip("ijk", allowed.start_ijk, allowed.stop_ijk, strict=True)
            )
            raise InputError(f"The {kind} click ({i}, {j}, {k}) lies outside the region of interest: it holds {valid}.")
        if (i, j, k) not in checked:
            checked.append((i, j, k))
    return checked


def check_together(foreground: Sequence[Index], background: Sequence[Index]) -> None:
    """Raise InputError for no clicks, too many, or contradictory ones."""
    count = len(foreground) + len(background)
    if count == 0:
        raise InputError("There is no click: place a foreground point inside the nodule.")
    if count > MAX_CLICKS:
        raise InputError(f"{count} clicks were sent for one segment, at most {MAX_CLICKS} are answered: remove some.")
    both = sorted(set(foreground) & set(background))
    if both:
        raise InputError(f"Voxel {both[0]} is clicked as foreground and as background: remove one of the two.")


def within(index: Index, box: IndexBox) -> tuple[slice, slice, slice]:
    """The one voxel as slices of an array of the box; empty slices where it lies outside."""
    if not box.contains(index):
        return slice(0, 0), slice(0, 0), slice(0, 0)
    i, j, k = (slice(n - start, n - start + 1) for n, start in zip(index, box.start_ijk, strict=True))
    return i, j, k


def distance_mm(click: Sequence[int], box: IndexBox, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Distance of every voxel of the box from a click."""
    i, j, k = (
        ((np.arange(a, b, dtype=np.float32) - c) * np.float32(s)) ** 2
        for a, b, c, s in zip(box.start_ijk, box.stop_ijk, click, spacing_mm, strict=True)
    )
    return np.asarray(np.sqrt(i[:, None, None] + j[None, :, None] + k[None, None, :]), dtype=np.float32)


def ball(click: Index, box: IndexBox, spacing_mm: Sequence[float], radius_mm: float) -> NDArray[np.bool_]:
    """Voxels of the box within a radius of a click, the clicked voxel always."""
    ball: NDArray[np.bool_] = distance_mm(click, box, spacing_mm) <= radius_mm
    ball[within(click, box)] = True
    return ball


def cut_away(
    mask: NDArray[np.bool_],
    click: Index,
    foreground: Sequence[Index],
    box: IndexBox,
    spacing_mm: Sequence[float],
    radius_mm: float,
) -> NDArray[np.bool_]:
    """Remove a background click, and where it was in the mask a ball about as thick as the mask is there.

    A click on a vessel so severs it, and what it led to is no longer connected to a foreground click; a click at the
    nodule's rim only takes a little of the rim away. The ball ends halfway to the nearest foreground click.
    """
    from scipy import ndimage

    at_click = ball(click, box, spacing_mm, radius_mm)
    if not np.any(mask & at_click):
        return mask
    remaining = mask & ~at_click
    if mask[within(click, box)].any():
        depth_mm = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
        reach_mm = SEVERING * float(depth_mm[within(click, box)].max()) + radius_mm
        offsets_mm = np.subtract(np.asarray(foreground), click) * np.asarray(spacing_mm)
        halfway_mm = float(np.min(np.linalg.norm(offsets_mm, axis=1))) / 2
        remaining &= distance_mm(click, box, spacing_mm) > min(reach_mm, halfway_mm)
    return remaining


def connected_to(mask: NDArray[np.bool_], seeds: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """The connected regions of a mask that meet a seed."""
    from scipy import ndimage

    numbered, count = ndimage.label(mask, structure=ndimage.generate_binary_structure(3, 2))
    keep = np.zeros(count + 1, dtype=bool)
    for seed in seeds:
        keep[numbered[seed]] = True
    keep[0] = False
    return np.asarray(keep[numbered])
