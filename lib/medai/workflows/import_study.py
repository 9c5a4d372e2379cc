"""Bring scans into a study: DICOM folders, NIfTI, NRRD and MetaImage files become ``<study>/<case id>.nii.gz``.

Names. A DICOM series is called after its folder, without words that occur in the patient's name or ids, and the first
eight hex digits of the SHA-256 of its SeriesInstanceUID: ``chest_ct_1f3a9c02``. A volume file keeps its own name; if
another scan has it already, eight digits of the hash of its content are added. Other characters than letters, digits,
dot, ``-`` and ``_`` become ``_``.

Facts. ``<study>/.medai/cases/<case id>.json`` holds the header facts (no identifiers), where the case came from as a
hash, and ``patient_key``, by which studies of one patient stay together: the first 16 hex digits of the SHA-256 of the
PatientID. A volume file has no PatientID; where its name begins like ``LIDC-IDRI-0001_R_1`` the leading id is hashed
instead, so that it meets the same patient's DICOM. Other files get no key: each counts as a patient of its own.

A case appears whole: it is written in ``.medai/incoming`` and moved into place after its facts. Importing again skips
what is there; one bad source never stops the others.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.domain import Volume
from medai.errors import InputError, MedaiError, StorageError
from medai.geometry import VolumeGeometry
from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.names import IMAGE_EXTENSIONS, check_case_id
from medai.store.split import CASES_FOLDER
from medai.volume_io.dicom_headers import looks_like_dicom, patient_key_of, patient_words
from medai.volume_io.dicom_series import DicomSeries, find_series, group_series, read_series
from medai.volume_io.options import ReadOptions
from medai.volume_io.plausibility import check_chest_ct
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume

_log = logging.getLogger(__name__)

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
FILE_FORMATS = ("nii.gz", "nii", "nrrd")

_LEADING_PATIENT = re.compile(r"([A-Za-z]+(?:-[A-Za-z]+)+-\d+)(?:_|$)")
_LONGEST_NAME = 80
_HASH_DIGITS = 8

ProgressCallback = Callable[[int, int, str], None]
"""Called with the number of scans done, the number of all, and the one at hand."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportedCase:
    """A scan that is in the study now."""

    case_id: str
    path: Path
    geometry: VolumeGeometry
    patient_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedSource:
    """What was not imported, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportReport:
    """What became of each scan; ``skipped`` holds the ids of cases that were there already."""

    imported: tuple[ImportedCase, ...]
    refused: tuple[RefusedSource, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "imported": [
                {
                    "case_id": case.case_id,
                    "path": str(case.path),
                    "shape_ijk": list(case.geometry.shape_ijk),
                    "spacing_mm": list(case.geometry.spacing_mm),
                    "patient_key": case.patient_key,
                }
                for case in self.imported
            ],
            "refused": [{"source": refusal.source, "reason": refusal.reason} for refusal in self.refused],
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    """Something to import.

    Attributes:
        source: what to call it in messages.
        name: wish for the case id.
        origin: hash that identifies the scan.
        patient_key: see the module's docstring.
        fallback_name: case id where another scan has ``name``.
        read: gives the scan.
    """

    source: str
    name: str
    origin: str
    patient_key: str
    fallback_name: str
    read: Callable[[], Volume]


def import_scans(
    sources: Sequence[Path],
    study_folder: Path,
    *,
    options: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    file_format: str = "nii.gz",
    on_progress: ProgressCallback | None = None,
) -> ImportReport:
    """Import scans into a study folder.

    Args:
        sources: volume files, DICOM files (their series is taken), and folders, searched through.
        study_folder: made if absent.
        options: what to do with irregular or tilted series.
        file_format: one of ``FILE_FORMATS``.
        on_progress: see ``ProgressCallback``.

    Returns:
        What was imported, refused with the reason, and skipped.

    Raises:
        InputError: an unknown format.
        StorageError: the study cannot be written.
    """
    if file_format not in FILE_FORMATS:
        raise InputError(f"Cases cannot be stored as '{file_format}'; choose one of {', '.join(FILE_FORMATS)}.")
    try:
        for folder in (study_folder, state_folder(study_folder) / CASES_FOLDER, _incoming(study_folder)):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The study folder {study_folder} cannot be made: {error.strerror}.") from error
    scans, refused = _find_scans(sources, options)
    imported: list[ImportedCase] = []
    skipped: list[str] = []
    for done, scan in enumerate(scans):
        if on_progress is not None:
            on_progress(done, len(scans), scan.source)
        try:
            case_id, is_there = _place(scan, study_folder)
            if is_there:
                skipped.append(case_id)
            else:
                imported.append(_import_one(scan, case_id, study_folder, file_format))
                _log.info("imported case %s", case_id)
        except StorageError:
            raise
        except MedaiError as error:
            refused.append(RefusedSource(source=scan.source, reason=str(error)))
    if on_progress is not None:
        on_progress(len(scans), len(scans), "")
    return ImportReport(imported=tuple(imported), refused=tuple(refused), skipped=tuple(skipped))


def _find_scans(sources: Sequence[Path], options: ReadOptions) -> tuple[list[_Scan], list[RefusedSource]]:
    scans: dict[str, _Scan] = {}
    refused: list[RefusedSource] = []
    for source in sources:
        try:
            found = [_dicom_scan(series, options) for series in _series_in(source)]
            found += [_file_scan(path, options) for path in _volume_files_in(source)]
        except (InputError, OSError) as error:
            refused.append(RefusedSource(source=source.name, reason=str(error)))
            continue
        if not found:
            formats = ", ".join(VOLUME_ENDINGS)
            reason = f"'{source.name}' holds no scan: no DICOM series and no file ending in {formats}."
            refused.append(RefusedSource(source=source.name, reason=reason))
        for scan in found:
            scans.setdefault(scan.origin, scan)
    return list(scans.values()), refused


def _series_in(source: Path) -> list[DicomSeries]:
    if not source.exists():
        raise InputError(f"There is no file or folder '{source}'. Check the path.")
    if source.is_dir():
        return find_series(source)
    if not looks_like_dicom(source):
        return []
    beside = group_series(sorted(path for path in source.parent.iterdir() if looks_like_dicom(path)))
    return [series for series in beside if any(file.path == source for file in series.files)]


def _volume_files_in(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.name.lower().endswith(VOLUME_ENDINGS) else []
    return sorted(
        path
        for path in source.rglob("*")
        if path.name.lower().endswith(VOLUME_ENDINGS)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def _dicom_scan(series: DicomSeries, options: ReadOptions) -> _Scan:
    digits = hashlib.sha256(series.series_instance_uid.encode()).hexdigest()
    name = _safe_name(series.folder.name, patient_words(series.files[0].path)) or "ct"
    return _Scan(
        source=f"{series.folder.name}: {series.describe()}",
        name=f"{name}_{digits[:_HASH_DIGITS]}",
        origin=digits,
        patient_key=series.patient_key,
        fallback_name=f"{name}_{digits[:32]}",
        read=lambda: read_series(series, options),
    )


def _file_scan(path: Path, options: ReadOptions) -> _Scan:
    ending = next(ending for ending in VOLUME_ENDINGS if path.name.lower().endswith(ending))
    digits = _content_hash(path, ending)
    name = _safe_name(path.name[: -len(ending)], set()) or "scan"
    patient = _LEADING_PATIENT.match(name)
    return _Scan(
        source=path.name,
        name=name,
        origin=digits,
        patient_key=patient_key_of(patient.group(1)) if patient else "",
        fallback_name=f"{name}_{digits[:_HASH_DIGITS]}",
        read=lambda: _read_chest_ct(path, options),
    )


def _read_chest_ct(path: Path, options: ReadOptions) -> Volume:
    volume = read_volume(path, options=options)
    check_chest_ct(volume)
    return volume


def _content_hash(path: Path, ending: str) -> str:
    """SHA-256 of a file; of a detached header together with the files of the same name that hold its voxels."""
    stem = path.name[: -len(ending)]
    beside = sorted(path.parent.glob(f"{glob.escape(stem)}.*")) if ending in (".nhdr", ".mhd") else [path]
    digest = hashlib.sha256()
    for part in beside:
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _safe_name(name: str, secrets: set[str]) -> str:
    """Letters, digits, dot, - and _ of a name, without the words in ``secrets``."""
    for secret in sorted(secrets, key=len, reverse=True):
        name = re.sub(re.escape(secret), " ", name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return re.sub(r"__+", "_", name).strip("._-")[:_LONGEST_NAME]


def _place(scan: _Scan, study_folder: Path) -> tuple[str, bool]:
    """The case id for a scan, and whether that scan is there already."""
    for name in (scan.name, scan.fallback_name):
        case_id = check_case_id(name)
        if not any((study_folder / f"{case_id}{ending}").exists() for ending in IMAGE_EXTENSIONS):
            return case_id, False
        if _origin_of(case_id, study_folder) == scan.origin:
            return case_id, True
    raise InputError(f"The study has other scans named '{scan.name}' and '{scan.fallback_name}'. Rename the source.")


def _origin_of(case_id: str, study_folder: Path) -> str:
    try:
        facts = json.loads(_facts_path(case_id, study_folder).read_text(encoding="utf-8"))
        return str(facts["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _import_one(scan: _Scan, case_id: str, study_folder: Path, file_format: str) -> ImportedCase:
    volume = scan.read()
    incoming = _incoming(study_folder) / f"{case_id}.{file_format}"
    write_volume(volume, incoming)
    facts = {
        "case_id": case_id,
        "origin": scan.origin,
        "patient_key": scan.patient_key,
        "header": volume.header,
        "shape_ijk": list(volume.geometry.shape_ijk),
        "spacing_mm": list(volume.geometry.spacing_mm),
    }
    write_json(_facts_path(case_id, study_folder), facts)
    path = study_folder / incoming.name
    try:
        incoming.replace(path)
    except OSError as error:
        raise StorageError(f"{path.name} could not be moved into the study: {error.strerror}.") from error
    return ImportedCase(case_id=case_id, path=path, geometry=volume.geometry, patient_key=scan.patient_key)


def _facts_path(case_id: str, study_folder: Path) -> Path:
    return state_folder(study_folder) / CASES_FOLDER / f"{case_id}.json"


def _incoming(study_folder: Path) -> Path:
    return state_folder(study_folder) / "incoming"
