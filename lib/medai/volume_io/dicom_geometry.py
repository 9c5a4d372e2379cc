"""From the frames of a series to one regular right-angled grid, or to the reason why there is none.

Pure geometry from headers, no pixels. Slices are sorted by their position along the normal of the image plane
(row direction × column direction), so k rises to the head in an ordinary axial scan. Lengths are judged by their
effect on voxels: slices may lie 10 % of a spacing off a regular grid (scanners round positions to 0.1 mm, which is
nearly that much at 0.6 mm), and a quarter of a pixel off a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.geometry.frames import affine_lps_to_ras
from medai.volume_io.dicom_headers import Frame
from medai.volume_io.dicom_scans import SAME_POSITION_MM
from medai.volume_io.options import ReadOptions

_SAME_DIRECTION = 1e-3
_SAME_PIXEL_SIZE = 1e-3
_OFF_GRID = 0.1
_OFF_LINE_PIXELS = 0.25
_MOST_NAMED = 8
_MOST_STACKS = 8
_FEWEST_IN_STACK = 3
_TOUCHING = 0.9
# A resampled series may not grow beyond this: two slices 0.1 mm apart by mistake would ask for thousands.
_LARGEST_GROWTH = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StackPlan:
    """How to build the volume.

    Attributes:
        groups: frames by slice, in the order of the slices; several in a group are at the same position.
        positions_mm: of each group along the slice axis.
        geometry: the grid to be filled.
        grid_positions_mm: of each k of ``geometry``, on the same axis; differs from ``positions_mm`` where slices are
            to be interpolated.
        shifts_ij: of each group, how far its first voxel lies from the first voxel of the grid, in pixels; None where
            every slice lies on the grid as it is.
    """

    groups: tuple[tuple[Frame, ...], ...]
    positions_mm: NDArray[np.float64]
    geometry: VolumeGeometry
    grid_positions_mm: NDArray[np.float64]
    shifts_ij: NDArray[np.float64] | None

    @property
    def is_interpolated(self) -> bool:
        """True where slices of the grid lie between slices of the series."""
        return self.grid_positions_mm is not self.positions_mm


def plan_stack(frames: Sequence[Frame], options: ReadOptions, name: str) -> StackPlan:
    """Find the grid of a series.

    Args:
        frames: all images of one series, in any order, without localisers.
        options: whether to correct tilt and resample irregular slices.
        name: of the series, for messages.

    Raises:
        UnsupportedScanError: no positions, mixed orientations or sizes, one slice, tilt, missing or uneven slices.
    """
    _check_uniform(frames, name)
    orientation = np.asarray(frames[0].orientation, dtype=np.float64).reshape(2, 3)
    row, column = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    spacing_ij_mm = np.asarray(frames[0].spacing_ij_mm, dtype=np.float64)
    groups, origins_lps_mm = _sort_and_group(frames, normal)
    if len(groups) < 2:
        where = "one slice" if len(frames) == 1 else f"{len(frames)} images at one position (ImagePositionPatient)"
        raise UnsupportedScanError(f"{name} has {where}; a scan needs at least two at different positions.")
    positions_mm = origins_lps_mm @ normal
    off_ij_mm = (origins_lps_mm - origins_lps_mm[0]) @ np.stack([row, column]).T
    shifts_ij = _shifts(off_ij_mm / spacing_ij_mm, off_ij_mm, positions_mm, options, name)
    grid_positions_mm = _grid_positions(positions_mm, _thickness_mm(frames), options, name)
    spacing_k_mm = float((grid_positions_mm[-1] - grid_positions_mm[0]) / (len(grid_positions_mm) - 1))
    first_ij = np.zeros(2)
    shape_ij = np.asarray(frames[0].shape_ij)
    if shifts_ij is not None:
        first_ij = np.floor(shifts_ij.min(axis=0))
        shape_ij = shape_ij + (np.ceil(shifts_ij.max(axis=0)) - first_ij).astype(int)
        shifts_ij = shifts_ij - first_ij
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = row * spacing_ij_mm[0]
    affine_lps[:3, 1] = column * spacing_ij_mm[1]
    affine_lps[:3, 2] = normal * spacing_k_mm
    affine_lps[:3, 3] = origins_lps_mm[0] + affine_lps[:3, :2] @ first_ij
    return StackPlan(
        groups=groups,
        positions_mm=positions_mm,
        geometry=VolumeGeometry(
            shape_ijk=(int(shape_ij[0]), int(shape_ij[1]), len(grid_positions_mm)),
            affine_ijk_to_ras_mm=affine_lps_to_ras(affine_lps),
        ),
        grid_positions_mm=grid_positions_mm,
        shifts_ij=shifts_ij,
    )


def _check_uniform(frames: Sequence[Frame], name: str) -> None:
    first = frames[0]
    for frame in frames:
        missing = [
            keyword
            for keyword, value in (
                ("ImagePositionPatient", frame.position_lps_mm),
                ("ImageOrientationPatient", frame.orientation),
                ("PixelSpacing", frame.spacing_ij_mm),
            )
            if value is None or not np.isfinite(value).all()
        ]
        if missing:
            raise UnsupportedScanError(
                f"{name}: {frame.path.name} has no {', '.join(missing)}; its place in the patient is unknown."
            )
        if frame.shape_ij != first.shape_ij:
            raise UnsupportedScanError(
                f"{name} mixes image sizes: {first.path.name} has {_size(first)} pixels, {frame.path.name} "
                f"{_size(frame)}. Export each reconstruction as a series of its own."
            )
        if not np.allclose(frame.orientation or (), first.orientation or (), atol=_SAME_DIRECTION):
            raise UnsupportedScanError(
                f"{name} mixes orientations: {first.path.name} and {frame.path.name} are not parallel "
                "(ImageOrientationPatient). Export each plane as a series of its own."
            )
        if not np.allclose(frame.spacing_ij_mm or (), first.spacing_ij_mm or (), rtol=_SAME_PIXEL_SIZE):
            raise UnsupportedScanError(
                f"{name} mixes pixel sizes: {first.spacing_ij_mm} mm in {first.path.name}, {frame.spacing_ij_mm} mm "
                f"in {frame.path.name}. Export each reconstruction as a series of its own."
            )
    if min(first.spacing_ij_mm or (0.0,)) <= 0:
        raise UnsupportedScanError(f"{name} has the pixel size {first.spacing_ij_mm} mm; it must be positive.")
    row, column = np.asarray(first.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or abs(row @ column) > 0.01 * lengths[0] * lengths[1]:
        raise UnsupportedScanError(f"{name} has image axes that are not at right angles: {first.orientation}.")


def _size(frame: Frame) -> str:
    return f"{frame.shape_ij[0]}×{frame.shape_ij[1]}"


def _sort_and_group(
    frames: Sequence[Frame], normal: NDArray[np.float64]
) -> tuple[tuple[tuple[Frame, ...], ...], NDArray[np.float64]]:
    """Frames by position along the normal, those at one place together; and the first voxel of each group."""
    origins = np.array([frame.position_lps_mm for frame in frames], dtype=np.float64)
    order = np.argsort(origins @ normal, kind="stable")
    groups: list[list[int]] = []
    for index in order:
        if groups and (origins[index] - origins[groups[-1][0]]) @ normal < SAME_POSITION_MM:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return tuple(tuple(frames[i] for i in group) for group in groups), origins[[group[0] for group in groups]]


def _shifts(
    off_ij: NDArray[np.float64],
    off_ij_mm: NDArray[np.float64],
    positions_mm: NDArray[np.float64],
    options: ReadOptions,
    name: str,
) -> NDArray[np.float64] | None:
    """In-plane offsets of the slices where they matter; refuses what is not a tilt, and a tilt unless asked."""
    if np.abs(off_ij).max() <= _OFF_LINE_PIXELS:
        return None
    along = positions_mm - positions_mm[0]
    slope_ij = (along @ off_ij) / (along @ along)
    if np.abs(off_ij - along[:, None] * slope_ij).max() > _OFF_LINE_PIXELS:
        raise UnsupportedScanError(
            f"{name} has slices that are shifted against each other by up to {np.abs(off_ij_mm).max():.1f} mm within "
            "their plane; they are not one scan."
        )
    tilt_mm_per_mm = np.linalg.norm((along @ off_ij_mm) / (along @ along))
    if not options.correct_tilt:
        raise UnsupportedScanError(
            f"{name} was scanned with a gantry tilt of {math.degrees(math.atan(tilt_mm_per_mm)):.1f}°: its slices are "
            "not stacked at right angles. medai import --correct-tilt resamples them."
        )
    # The fitted line, not each header's rounding, is where the slices lie.
    return np.asarray(along[:, None] * slope_ij)


def _grid_positions(
    positions_mm: NDArray[np.float64], thickness_mm: float | None, options: ReadOptions, name: str
) -> NDArray[np.float64]:
    count = len(positions_mm)
    regular = np.linspace(positions_mm[0], positions_mm[-1], count)
    mean_mm = float((positions_mm[-1] - positions_mm[0]) / (count - 1))
    if np.abs(positions_mm - regular).max() <= _OFF_GRID * mean_mm:
        return positions_mm
    if stacks := _interleaved_stacks(positions_mm):
        raise UnsupportedScanError(
            f"{name} holds {stacks} stacks of about {count // stacks} slices that lie between one another, and nothing "
            "in the headers tells them apart: they are several scans. Export each as a series of its own."
        )
    if not options.resample_irregular:
        described = _describe_gaps(positions_mm)
        closest_mm = float(np.diff(positions_mm).min())
        if thickness_mm is not None and "uneven" in described and closest_mm < _TOUCHING * thickness_mm:
            raise UnsupportedScanError(
                f"{name} {described} Slices of {thickness_mm:g} mm overlap there: this may be more than one scan. "
                "Export each as a series of its own."
            )
        raise UnsupportedScanError(f"{name} {described} medai import --resample-irregular fills them in.")
    # Rounding of headers must not make the grid finer than the scan: gaps within it count as one.
    gaps_mm = np.diff(positions_mm)
    finest_mm = float(np.median(gaps_mm[gaps_mm <= gaps_mm.min() * (1 + 2 * _OFF_GRID)]))
    steps = round((positions_mm[-1] - positions_mm[0]) / finest_mm)
    if steps + 1 > _LARGEST_GROWTH * count:
        raise UnsupportedScanError(
            f"{name} has slices {finest_mm:.2f} mm apart and gaps of {gaps_mm.max():.1f} mm; resampling would turn "
            f"{count} slices into {steps + 1}. Are these several scans?"
        )
    return np.asarray(positions_mm[0] + finest_mm * np.arange(steps + 1))


def _thickness_mm(frames: Sequence[Frame]) -> float | None:
    """SliceThickness where all slices have the same."""
    found = {frame.traits.get("SliceThickness", "") for frame in frames}
    try:
        (thickness_mm,) = {float(text) for text in found}
    except ValueError:
        return None
    return thickness_mm


def _interleaved_stacks(positions_mm: NDArray[np.float64]) -> int:
    """Number of regular stacks of one spacing that the slices fall into by turns; 0 where they do not.

    Slices that were lost leave gaps of no such pattern.
    """
    for count in range(2, _MOST_STACKS + 1):
        if len(positions_mm) < _FEWEST_IN_STACK * count:
            break
        gaps_mm = [np.diff(positions_mm[first::count]) for first in range(count)]
        spacing_mm = float(np.median(np.concatenate(gaps_mm)))
        if all(np.abs(gaps - spacing_mm).max() <= _OFF_GRID * spacing_mm for gaps in gaps_mm):
            return count
    return 0


def _describe_gaps(positions_mm: NDArray[np.float64]) -> str:
    gaps_mm = np.diff(positions_mm)
    usual_mm = float(np.median(gaps_mm))
    missing: list[float] = []
    uneven: list[str] = []
    for start_mm, gap_mm in zip(positions_mm, gaps_mm, strict=False):
        steps = round(gap_mm / usual_mm)
        if steps >= 1 and abs(gap_mm - steps * usual_mm) <= _OFF_GRID * usual_mm * steps:
            missing.extend(start_mm + usual_mm * step for step in range(1, steps))
        else:
            uneven.append(f"{gap_mm:.2f} mm between {start_mm:.1f} and {start_mm + gap_mm:.1f} mm")
    parts: list[str] = []
    if missing:
        named = ", ".join(f"{position:.1f}" for position in missing[:_MOST_NAMED])
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        parts.append(f"lacks {len(missing)} of its slices, at {named} mm{more}")
    if uneven:
        more = f" and {len(uneven) - _MOST_NAMED} more" if len(uneven) > _MOST_NAMED else ""
        parts.append(f"has unevenly spaced slices: {', '.join(uneven[:_MOST_NAMED])}{more}, usually {usual_mm:.2f} mm")
    if not parts:
        parts.append(f"has slice positions that drift off a regular grid of {usual_mm:.2f} mm")
    return " and ".join(parts) + "."
