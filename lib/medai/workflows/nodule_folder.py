"""A folder of outlined nodules: ``images/``, ``masks/`` and ``nodules.csv``, one row a nodule.

Such folders come from many hands: what is missing or odd in one case is named and left out, and the others count.
``nodules.csv`` may lack any column but the case's name, and may be missing altogether.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.domain.click_case import ClickCase
from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.plausibility import read_chest_ct
from medai.volume_io.readers import read_label_map
from medai.volume_io.regrid import place_label_map

TABLE = "nodules.csv"
IMAGE_FOLDERS = ("images",)
MASK_FOLDERS = ("masks", "labels")
ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".mhd")
_CASE_COLUMNS = ("case_id", "case", "nodule_id", "id", "image", "filename", "file")
_PATIENT_COLUMNS = ("patient_id", "patient", "patientid")
_DIAMETER_COLUMNS = ("diameter_mm", "diameter")
_NO_RATINGS = {*_CASE_COLUMNS, *_PATIENT_COLUMNS, *_DIAMETER_COLUMNS, "series_instance_uid"}
_IMAGE_SUFFIXES = ("", "_0000", "_image", "_img")
"""After the case's name; nnU-Net's is _0000."""
_MASK_SUFFIXES = ("", "_mask", "-mask", "_seg", "-seg", "_label", "-label")
_LIDC_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderNodule:
    """One nodule of a folder, not read yet.

    Attributes:
        case_id: its name.
        patient_id: from the table, else from a case id such as LIDC-IDRI-0001_R_1, else the case id itself.
        image_path: the scan around it: a file, or a folder of DICOM files.
        mask_path: its outline.
        diameter_mm: from the table, None where it does not say.
        ratings: column to number for everything else that is a number in its row (``malignancy``, ``texture`` …).
    """

    case_id: str
    patient_id: str
    image_path: Path
    mask_path: Path
    diameter_mm: float | None = None
    ratings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoduleFolder:
    """What a folder holds.

    Attributes:
        nodules: those with an image and a mask, in the order of the table.
        skipped: case id to the reason why it is left out.
        warnings: what is odd about the folder, in sentences.
    """

    nodules: tuple[FolderNodule, ...]
    skipped: Mapping[str, str]
    warnings: tuple[str, ...]


def read_nodule_folder(folder: Path) -> NoduleFolder:
    """List the nodules of a folder; neither images nor masks are read yet.

    Raises:
        InputError: no such folder, no images or masks in it, a table that cannot be read, or no case that has both
            files.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'. Check the path.")
    images = _by_name(_subfolder(folder, IMAGE_FOLDERS))
    masks = _by_name(_subfolder(folder, MASK_FOLDERS))
    warnings: list[str] = []
    rows = _table(folder, warnings)
    if rows is None:
        rows = [{_CASE_COLUMNS[0]: name} for name in sorted({_bare(name, _IMAGE_SUFFIXES) for name in images})]
    skipped: dict[str, str] = {}
    nodules: dict[str, FolderNodule] = {}
    for row in rows:
        case_id = _without_ending(_first(row, _CASE_COLUMNS))
        if case_id in nodules or case_id in skipped:
            warnings.append(f"Case {case_id} is listed more than once: the first row counts.")
            continue
        image, mask = _file_of(case_id, images, _IMAGE_SUFFIXES), _file_of(case_id, masks, _MASK_SUFFIXES)
        if image is None or mask is None:
            kind, where = ("image", IMAGE_FOLDERS[0]) if image is None else ("mask", MASK_FOLDERS[0])
            skipped[case_id] = f"There is no {kind} {where}/{case_id}.nii.gz (or {', '.join(ENDINGS[1:])})."
            continue
        nodules[case_id] = _nodule(case_id, row, image, mask)
    if not nodules:
        reason = next(iter(skipped.items()), None)
        example = f" The first: {reason[0]}: {reason[1]}" if reason else ""
        raise InputError(f"No nodule in {folder} has both an image and a mask of its name.{example}")
    return NoduleFolder(nodules=tuple(nodules.values()), skipped=skipped, warnings=tuple(warnings))


def load_nodule(nodule: FolderNodule) -> ClickCase:
    """Read the image and the mask of a nodule; every voxel of the mask that is not 0 belongs to it.

    A mask on another grid is put on the image's where their voxels coincide, also where its axes are turned or flipped.
    One that has the image's shape but lies elsewhere is taken voxel by voxel: many programs write masks without place.

    Raises:
        InputError: a file is damaged or no scan, or the mask is empty.
        GeometryError: the mask has another shape and does not lie on the image's voxels.
    """
    try:
        volume = read_chest_ct(nodule.image_path)
    except InputError as error:
        raise InputError(f"The image cannot be used: {error}") from error
    try:
        label_map = read_label_map(nodule.mask_path)
    except InputError as error:
        raise InputError(f"The mask cannot be used: {error}") from error
    mask = _mask_on(label_map, volume.geometry, nodule.mask_path.name)
    if not mask.any():
        raise InputError(f"The mask {nodule.mask_path.name} is empty: there is no nodule to outline.")
    return ClickCase(
        case_id=nodule.case_id,
        patient_id=nodule.patient_id,
        volume=Volume(geometry=volume.geometry, image_hu=volume.image_hu, case_id=nodule.case_id, header=volume.header),
        mask=mask,
    )


def patient_of(case_id: str) -> str:
    """The patient a case's name tells: LIDC-IDRI-0001 of LIDC-IDRI-0001_R_1; else the case is its own."""
    match = _LIDC_PATIENT.match(case_id)
    return match.group() if match else case_id


def _mask_on(label_map: LabelMap, geometry: VolumeGeometry, name: str) -> NDArray[np.bool_]:
    """The mask on the image's grid."""
    try:
        return np.asarray(place_label_map(_turned(label_map, geometry), geometry).labels != 0)
    except GeometryError as error:
        if label_map.labels.shape == geometry.shape_ijk:
            return np.asarray(label_map.labels != 0)
        raise GeometryError(
            f"The mask {name} has the shape {label_map.labels.shape}, its image {geometry.shape_ijk}, and its voxels "
            "are not the image's. Export it with the image as reference."
        ) from error


def _turned(label_map: LabelMap, geometry: VolumeGeometry) -> LabelMap:
    """The label map with its axes in the order and direction of a grid's, where they are parallel; else as it is."""
    between = geometry.directions_ras.T @ label_map.geometry.directions_ras
    turn = np.rint(between).astype(int)
    if np.abs(between - turn).max() > 0.01 or (np.abs(turn).sum(axis=1) != 1).any():
        return label_map
    order = np.abs(turn).argmax(axis=1).tolist()
    flipped = [axis for axis in range(3) if turn[axis, order[axis]] < 0]
    affine = label_map.geometry.affine_ijk_to_ras_mm[:, [*order, 3]]
    shape = label_map.labels.shape
    turned = VolumeGeometry(shape_ijk=(shape[order[0]], shape[order[1]], shape[order[2]]), affine_ijk_to_ras_mm=affine)
    for axis in flipped:
        turned = turned.with_axis_reversed(axis)
    labels = np.flip(label_map.labels.transpose(order), flipped)
    return LabelMap(geometry=turned, labels=labels, segments=label_map.segments)


def _nodule(case_id: str, row: Mapping[str, str], image: Path, mask: Path) -> FolderNodule:
    diameter_mm = _positive(_first(row, _DIAMETER_COLUMNS))
    ratings = {
        name: value
        for name, text in row.items()
        if name not in _NO_RATINGS and not name.startswith("centre_") and (value := _number(text)) is not None
    }
    return FolderNodule(
        case_id=case_id,
        patient_id=_first(row, _PATIENT_COLUMNS) or patient_of(case_id),
        image_path=image,
        mask_path=mask,
        diameter_mm=diameter_mm,
        ratings=ratings,
    )


def _subfolder(folder: Path, names: Sequence[str]) -> Path:
    """The first of some folders that is there."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    inside = sorted(path.parent.name for path in folder.glob(f"*/{names[0]}") if path.is_dir())
    hint = f" Did you mean {folder / inside[0]}?" if inside else ""
    raise InputError(
        f"There is no folder {names[0]}/ in {folder}: name a folder that holds images/, masks/ and, if there is one, "
        f"{TABLE}.{hint}"
    )


def _by_name(folder: Path) -> dict[str, Path]:
    """Case name to file (or DICOM folder) in a folder; of several endings the first of ``ENDINGS`` counts."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (_rank(path), path.name)):
        if path.name.startswith(".") or not (path.is_dir() or _rank(path) < len(ENDINGS)):
            continue
        found.setdefault(path.name if path.is_dir() else _without_ending(path.name), path)
    if not found:
        raise InputError(f"{folder} holds no scan: medai reads files ending in {', '.join(ENDINGS)}.")
    return found


def _rank(path: Path) -> int:
    name = path.name.lower()
    return next((n for n, ending in enumerate(ENDINGS) if name.endswith(ending)), len(ENDINGS))


def _without_ending(name: str) -> str:
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _bare(name: str, suffixes: Sequence[str]) -> str:
    suffix = next((suffix for suffix in suffixes if suffix and name.endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _file_of(case_id: str, files: Mapping[str, Path], suffixes: Iterable[str]) -> Path | None:
    return next((files[case_id + suffix] for suffix in suffixes if case_id + suffix in files), None)


def _table(folder: Path, warnings: list[str]) -> list[dict[str, str]] | None:
    """The rows of the table by lower-case column name; None where the file names must do."""
    tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    path = next((table for table in tables if table.name.lower() == TABLE), tables[0] if len(tables) == 1 else None)
    if path is None:
        warnings.append(f"There is no {TABLE}: nodules are named by their files, without diameters and ratings.")
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Is it a CSV file in UTF-8?") from error
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        rows = [
            {(name or "").strip().lower(): value.strip() for name, value in row.items() if isinstance(value, str)}
            for row in csv.DictReader(text.splitlines(), delimiter=delimiter)
        ]
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file that can be read ({error}). Save it again.") from error
    columns = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    if not set(columns) & set(_CASE_COLUMNS):
        warnings.append(
            f"{path.name} has no column {_CASE_COLUMNS[0]} (it has {', '.join(columns[:_MOST_NAMED])}): it is passed "
            "over, and nodules are named by their files."
        )
        return None
    if not set(columns) & set(_PATIENT_COLUMNS):
        warnings.append(
            f"{path.name} has no column {_PATIENT_COLUMNS[0]}: patients are told by the case ids; a case without a "
            "known pattern is its own patient, which makes intervals too narrow where patients have several nodules."
        )
    return [row for row in rows if _first(row, _CASE_COLUMNS)]


def _first(row: Mapping[str, str], names: Sequence[str]) -> str:
    """The first of some columns that holds something."""
    return next((row[name] for name in names if row.get(name)), "")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _positive(text: str) -> float | None:
    value = _number(text)
    return value if value is not None and value > 0 else None
