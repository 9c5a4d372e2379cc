"""The pixels of a planned series, slice by slice: read or decoded, turned to HU, straightened, interpolated.

Slices flow through generators, so no more than two of them exist beside the volume (an enhanced multi-frame file is
decoded whole: GDCM knows no other way).

Voxels outside the scanner's field (PixelPaddingValue, up to PixelPaddingRangeLimit) become −1024 HU, the value of air
in which CT scanners clip; so does what a tilt correction uncovers. A padding value that is one of tissue too
(converters to Hounsfield units leave the 0 of the scanner's numbers) counts at the corners of the picture alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError, UnsupportedScanError
from medai.volume_io.dicom_geometry import StackPlan
from medai.volume_io.dicom_headers import Frame
from medai.volume_io.dicom_stored import StoredValues
from medai.volume_io.voxel_stream import HU_TYPES, VoxelBuilder

_log = logging.getLogger(__name__)

AIR_HU = -1024
_SHOWN_COPIES = 3
_TISSUE_HU = (-900.0, 400.0)
"""Lung to blood with contrast: what a scan measures."""


def read_stack(plan: StackPlan, name: str) -> NDArray[np.generic]:
    """Decode a planned series into one array.

    Args:
        plan: from ``plan_stack``.
        name: of the series, for messages.

    Returns:
        HU indexed [i, j, k], Fortran order, int16 where all are whole numbers, else float32.

    Raises:
        InputError: a file cannot be decoded.
        UnsupportedScanError: different images at one position.
    """
    copies: list[str] = []
    slices = _unique_slices(plan, name, copies)
    if plan.shifts_ij is not None:
        slices = _straightened(slices, plan)
    if plan.is_interpolated:
        slices = _interpolated(slices, plan)
    builder = VoxelBuilder(plan.geometry.shape_ijk, HU_TYPES, name)
    for image_hu in slices:
        builder.add(image_hu[:, :, np.newaxis])
    _tell_copies(copies, name)
    return builder.finish()


def _tell_copies(copies: Sequence[str], name: str) -> None:
    if not copies:
        return
    what = "image repeats another and is" if len(copies) == 1 else "images repeat others and are"
    more = f" and {len(copies) - _SHOWN_COPIES} more" if len(copies) > _SHOWN_COPIES else ""
    shown = ", ".join(copies[:_SHOWN_COPIES]) + more
    _log.warning("%s: %d %s left out (%s)", name, len(copies), what, shown)


def _unique_slices(plan: StackPlan, name: str, copies: list[str]) -> Iterator[NDArray[Any]]:
    """HU of each slice; files that repeat one are added to ``copies``."""
    decoder = _Decoder()
    for group, position_mm in zip(plan.groups, plan.positions_mm, strict=True):
        image_hu = decoder.image_hu(group[0])
        for other in group[1:]:
            if not np.array_equal(image_hu, decoder.image_hu(other)):
                crowded = sum(len(slice_frames) > 1 for slice_frames in plan.groups)
                most = max(len(slice_frames) for slice_frames in plan.groups)
                raise UnsupportedScanError(
                    f"{name} has different images at one position, {position_mm:.1f} mm ({group[0].path.name} and "
                    f"{other.path.name}): {crowded} of its {len(plan.groups)} positions hold up to {most} images, and "
                    "nothing in their headers tells which belong together. Export each phase or reconstruction as a "
                    "series of its own."
                )
            copies.append(f"{other.path.parent.name}/{other.path.name}")
        yield image_hu


def _straightened(slices: Iterable[NDArray[Any]], plan: StackPlan) -> Iterator[NDArray[Any]]:
    """Shift each slice to its place on the right-angled grid, linearly, rounded to whole HU."""
    from scipy import ndimage

    shifts = plan.shifts_ij if plan.shifts_ij is not None else np.zeros((len(plan.positions_mm), 2))
    for image_hu, shift in zip(slices, shifts, strict=True):
        canvas = np.full(plan.geometry.shape_ijk[:2], float(AIR_HU))
        canvas[: image_hu.shape[0], : image_hu.shape[1]] = image_hu
        yield np.rint(ndimage.shift(canvas, shift, order=1, mode="grid-constant", cval=AIR_HU))


def _interpolated(slices: Iterator[NDArray[Any]], plan: StackPlan) -> Iterator[NDArray[Any]]:
    """Linear interpolation between the two neighbouring slices, rounded to whole HU."""
    positions_mm = plan.positions_mm
    index = 0
    below, above = next(slices), next(slices)
    for wanted_mm in plan.grid_positions_mm:
        while wanted_mm > positions_mm[index + 1] and index + 2 < len(positions_mm):
            index += 1
            below, above = above, next(slices)
        span_mm = positions_mm[index + 1] - positions_mm[index]
        weight = float(np.clip((wanted_mm - positions_mm[index]) / span_mm, 0.0, 1.0))
        yield np.rint(below * (1.0 - weight) + above * weight)


class _Decoder:
    """Turns frames into HU."""

    def __init__(self) -> None:
        self._stored = StoredValues()

    def image_hu(self, frame: Frame) -> NDArray[Any]:
        """HU indexed [i, j]; integers where slope and intercept are."""
        if frame.pixels is None:
            raise InputError(f"{frame.path.name} has {frame.problem}. Copy or export the series again.")
        stored, padding = self._stored.frame(frame.pixels, frame.index)
        if frame.slope.is_integer() and frame.intercept.is_integer():
            # 16 bits and an intercept fit 32 bits; wider cells, or wilder intercepts, need 64.
            fits = frame.pixels.bits_stored <= 16 and abs(frame.intercept) < 1 << 24
            image_hu: NDArray[Any] = stored.astype(np.int32 if fits else np.int64)
            if frame.slope != 1:
                image_hu *= int(frame.slope)
            image_hu += int(frame.intercept)
        else:
            image_hu = stored * np.float64(frame.slope) + np.float64(frame.intercept)
        if padding is not None:
            image_hu[_at_corners(padding) if _is_tissue_too(frame) else padding] = AIR_HU
        return image_hu


def _is_tissue_too(frame: Frame) -> bool:
    """True where the padding of a frame has the value of tissue."""
    if frame.pixels is None or frame.pixels.padding is None:
        return False
    low, high = (stored * frame.slope + frame.intercept for stored in frame.pixels.padding)
    return low < _TISSUE_HU[1] and high > _TISSUE_HU[0]


def _at_corners(padding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask that reach a corner of the picture, as what lies outside a circle does."""
    from scipy import ndimage

    parts, _ = ndimage.label(padding)
    corners = parts[[0, 0, -1, -1], [0, -1, 0, -1]]
    return np.asarray(np.isin(parts, corners[corners > 0]))
