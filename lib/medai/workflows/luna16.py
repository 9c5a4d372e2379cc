"""Scans with lists of their nodules, as LUNA16 hands them out, and lists of marks, as LUNA16 takes them in.

A LUNA16 download is read as it is: the lists and the scans (``subset*/<series uid>.mhd``) may lie anywhere below the
folder, the lung masks that come with it (``seg-lungs-LUNA16``) are passed over. Our own layout is the same with
``images/<case>.nii.gz``. Places in the lists are LPS millimetres; here they become RAS.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medai.domain.detection_case import TrueNodule
from medai.errors import InputError
from medai.evaluation.froc import Mark, ScanTruth
from medai.geometry.frames import points_lps_to_ras, points_ras_to_lps
from medai.volume_io.atomic import atomic_path

UNKNOWN_DIAMETER_MM = 10.0
"""LUNA16's own rule for a finding whose diameter is not known (−1 in its lists)."""

IMAGE_ENDINGS = (".mhd", ".mha", ".nii.gz", ".nii", ".nrrd")
_NOT_SCANS = re.compile(r"^(seg-lungs.*|lungs?|masks?|labels?|lungmasks?)$", re.IGNORECASE)
_PLACE = ("seriesuid", "coordx", "coordy", "coordz")
_PROBABILITY_NAMES = ("probability", "cadprobability", "score")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFolder:
    """Scans and what is known of them.

    Attributes:
        truths: scan id to its findings, RAS mm; these are the scans that count, in the order of the list.
        images: scan id to its file, for those of ``truths`` that have one.
        has_irrelevant_list: True where there is a list of irrelevant findings.
        warnings: what is odd about the folder, in sentences.
    """

    truths: Mapping[str, ScanTruth]
    images: Mapping[str, Path]
    has_irrelevant_list: bool
    warnings: tuple[str, ...]


def read_detection_folder(folder: Path) -> DetectionFolder:
    """Find the lists and the scans below a folder.

    The scans that count are those of ``seriesuids.csv``, else those that have a file; where some but not all of the
    listed ones have a file, those (so that one part of a download can be judged alone).

    Args:
        folder: holds ``annotations.csv`` and the scans, at any depth; ``annotations_excluded.csv`` and
            ``seriesuids.csv`` where there are any.

    Raises:
        InputError: no such folder, no ``annotations.csv``, a damaged list, or no scan.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'. Check the path.")
    files = _files_below(folder)
    annotations = _list_named(files, "annotations.csv")
    if annotations is None:
        raise InputError(
            f"There is no annotations.csv in {folder} or below it: it lists the nodules, with the columns seriesuid, "
            "coordX, coordY, coordZ, diameter_mm."
        )
    warnings: list[str] = []
    nodules = read_findings(annotations)
    excluded = _list_named(files, "annotations_excluded.csv")
    irrelevant = read_findings(excluded) if excluded is not None else {}
    if excluded is None:
        warnings.append(
            "There is no annotations_excluded.csv: a mark on any finding that is not in annotations.csv counts as "
            "wrong. LUNA16's lies in evaluationScript.zip; unpack it into the folder."
        )
    images = _images_among(files, folder, warnings)
    uid_list = _list_named(files, "seriesuids.csv")
    scans = _scans(read_scan_ids(uid_list) if uid_list is not None else None, images, nodules, warnings)
    if not scans:
        zipped = " Unpack the zip files in it first." if any(path.suffix == ".zip" for path in files) else ""
        raise InputError(
            f"No scan was found in {folder} or below it: neither a seriesuids.csv nor a file ending in "
            f"{', '.join(IMAGE_ENDINGS)}.{zipped}"
        )
    unlisted = sorted(set(nodules) - set(scans))
    if unlisted:
        warnings.append(f"Nodules of {len(unlisted)} scans that do not count are passed over: {_named(unlisted)}.")
    truths = {
        scan: ScanTruth(nodules=tuple(nodules.get(scan, ())), irrelevant=tuple(irrelevant.get(scan, ())))
        for scan in scans
    }
    return DetectionFolder(
        truths=truths,
        images={scan: images[scan] for scan in scans if scan in images},
        has_irrelevant_list=excluded is not None,
        warnings=tuple(warnings),
    )


def read_findings(path: Path) -> dict[str, list[TrueNodule]]:
    """Scan id to the findings of a list (``annotations.csv`` or ``annotations_excluded.csv``), RAS mm.

    Raises:
        InputError: a column is missing or a value is no number.
    """
    findings: dict[str, list[TrueNodule]] = {}
    for line, row in _rows(path, (*_PLACE, "diameter_mm")):
        text = row["diameter_mm"]
        diameter_mm = _number(path, line, "diameter_mm", text) if text else math.nan
        known = math.isfinite(diameter_mm) and diameter_mm > 0
        finding = TrueNodule(
            centre_ras_mm=_place_ras(path, line, row), diameter_mm=diameter_mm if known else UNKNOWN_DIAMETER_MM
        )
        findings.setdefault(row["seriesuid"], []).append(finding)
    return findings


def read_scan_ids(path: Path) -> list[str]:
    """The ids in ``seriesuids.csv``: one a line, with or without a header, each once."""
    ids = [re.split(r"[,;\t]", line, maxsplit=1)[0].strip().strip('"') for line in _text(path).splitlines()]
    return list(dict.fromkeys(scan for scan in ids if scan and scan.lower() != "seriesuid"))


def read_marks(path: Path) -> dict[str, list[Mark]]:
    """Scan id to the marks of a LUNA16 submission: seriesuid, coordX, coordY, coordZ (LPS mm), probability.

    Raises:
        InputError: no such file, a column is missing or a value is no finite number.
    """
    marks: dict[str, list[Mark]] = {}
    for line, row in _rows(path, _PLACE, one_of=_PROBABILITY_NAMES):
        name = next(name for name in _PROBABILITY_NAMES if name in row)
        probability = _number(path, line, name, row[name])
        if not math.isfinite(probability):
            raise InputError(f"{path.name}, line {line}: the probability is '{row[name]}'; it must be a number.")
        mark = Mark(centre_ras_mm=_place_ras(path, line, row), probability=probability)
        marks.setdefault(row["seriesuid"], []).append(mark)
    return marks


def write_marks(path: Path, marks: Mapping[str, Sequence[Mark]]) -> None:
    """Write marks as a LUNA16 submission, most probable first in each scan.

    Raises:
        StorageError: the disk refuses.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["seriesuid", "coordX", "coordY", "coordZ", "probability"])
        for scan, found in marks.items():
            for mark in sorted(found, key=lambda m: -m.probability):
                x, y, z = points_ras_to_lps(mark.centre_ras_mm)
                rows.writerow([scan, f"{x + 0.0:.4f}", f"{y + 0.0:.4f}", f"{z:.4f}", repr(mark.probability)])


def _files_below(folder: Path) -> list[Path]:
    """Every file below a folder, shallow ones first; links to folders are followed, each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.extend(Path(where) / name for name in names if not name.startswith("."))
    return sorted(found, key=lambda path: (len(path.parts), str(path)))


def _list_named(files: Iterable[Path], name: str) -> Path | None:
    """The shallowest file of that name."""
    return next((path for path in files if path.name.lower() == name), None)


def _images_among(files: Iterable[Path], folder: Path, warnings: list[str]) -> dict[str, Path]:
    """Scan id to file. Of several files of one name the shallowest counts, of these the first ending of the list."""
    found: dict[str, list[Path]] = {}
    for path in files:
        ending = _image_ending(path)
        if ending and not any(_NOT_SCANS.match(part) for part in path.relative_to(folder).parts[:-1]):
            found.setdefault(path.name[: -len(ending)], []).append(path)
    twice = sorted(scan for scan, paths in found.items() if len(paths) > 1)
    if twice:
        warnings.append(f"{len(twice)} scans have several files; the first counts: {_named(twice)}.")
    return {
        scan: min(paths, key=lambda path: (len(path.parts), IMAGE_ENDINGS.index(_image_ending(path)), str(path)))
        for scan, paths in found.items()
    }


def _image_ending(path: Path) -> str:
    name = path.name.lower()
    return next((ending for ending in IMAGE_ENDINGS if name.endswith(ending)), "")


def _scans(
    listed: list[str] | None,
    images: Mapping[str, Path],
    nodules: Mapping[str, object],
    warnings: list[str],
) -> list[str]:
    """The scans that count."""
    if listed is None:
        if not images and nodules:
            warnings.append(
                "There is neither a seriesuids.csv nor a scan: only scans with a nodule count, and false positives a "
                "scan are those on such scans."
            )
            return list(nodules)
        if images and nodules and not set(images) & set(nodules):
            raise InputError(
                f"annotations.csv names none of the scans: it has {_named(list(nodules))}, the files are "
                f"{_named(sorted(images))}. Name the files by the ids of the list."
            )
        return sorted(images)
    present = [scan for scan in listed if scan in images]
    if present and len(present) < len(listed):
        warnings.append(
            f"{len(listed) - len(present)} of the {len(listed)} scans in seriesuids.csv have no file; the other "
            f"{len(present)} count."
        )
        return present
    if images and not present:
        raise InputError(
            f"No scan that seriesuids.csv lists has a file: the files are {_named(sorted(images))}, the list has "
            f"{_named(listed)}. Name the files by the ids of the list."
        )
    return listed


def _rows(path: Path, columns: Sequence[str], one_of: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of each row that is not empty, by lower-case column name.

    Raises:
        InputError: a column is missing, or a row is short.
    """
    lines = _text(path).splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    missing = [name for name in columns if name not in names]
    if one_of and not any(name in names for name in one_of):
        missing.append(one_of[0])
    if missing:
        raise InputError(
            f"{path.name} has no column {', '.join(missing)}: its first line must name the columns, it is "
            f"'{header[:120]}'."
        )
    for line, values in enumerate(csv.reader(lines[1:], delimiter=delimiter), start=2):
        if not any(value.strip() for value in values):
            continue
        if len(values) < len(names):
            raise InputError(f"{path.name}, line {line}: {len(values)} values under {len(names)} columns.")
        yield line, {name: value.strip() for name, value in zip(names, values, strict=False)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}). Is it a CSV file?") from error


def _place_ras(path: Path, line: int, row: Mapping[str, str]) -> tuple[float, float, float]:
    lps_mm = [_number(path, line, name, row[name]) for name in _PLACE[1:]]
    if not all(math.isfinite(value) for value in lps_mm):
        raise InputError(f"{path.name}, line {line}: the place is {lps_mm}; it must be three numbers.")
    x, y, z = points_lps_to_ras(lps_mm).tolist()
    return (x, y, z)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path.name}, line {line}: {column} is '{text}', not a number.") from error


def _named(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_MOST_NAMED]) + (" …" if len(names) > _MOST_NAMED else "")
