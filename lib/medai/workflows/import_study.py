"""Bring scans into a study: DICOM folders, NIfTI, NRRD and MetaImage files become ``<study>/<case id>.nii.gz``.

Names. A DICOM series is called after its folder, without words that occur in the patient's name or ids, and the first
eight hex digits of the hash of its SeriesInstanceUID: ``chest_ct_1f3a9c02``; of its origin where several scans share
that UID. A volume file is called after itself, or after its folder where
its own name tells nothing or is not its alone (``import_names``); if another scan has that name already, eight digits
of the hash of its content are added. Other characters than letters, digits, dot, ``-`` and ``_`` become ``_``.

Which scan it is says its origin, never its name: of a DICOM series the hash of its SeriesInstanceUID, patient, study
and part of the series, of a file the hash of its content, and of both the hash of their voxels in the patient, so that
a renamed folder, a renamed file, or the same scan in another format is the case that is there already.

Facts. ``<study>/.medai/cases/<case id>.json`` (``store.case_facts``) holds the header facts (no identifiers), the
origin, and ``patient_key``, by which studies of one patient stay together: the first 16 hex digits of the SHA-256 of
the PatientID. A volume file has no PatientID; where its name begins like ``LIDC-IDRI-0001_R_1`` the leading id is
hashed instead, so that it meets the same patient's DICOM. Other files get no key: each counts as a patient of its own.

A case appears whole: it is written in ``.medai/incoming`` and moved into place after its facts. Importing again skips
what is there; one bad source never stops the others.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain import Volume
from medai.errors import ConflictError, InputError, MedaiError, StorageError
from medai.geometry import VolumeGeometry
from medai.preprocessing.turning import turn_to_ras
from medai.store.atomic import write_json
from medai.store.case_facts import case_of_origin, facts_folder, facts_path, origins_of, read_facts
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock
from medai.store.names import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, check_case_id, find_extension
from medai.volume_io.dicom_headers import patient_key_of, patient_words
from medai.volume_io.dicom_series import DicomSeries, read_series
from medai.volume_io.options import ReadOptions
from medai.volume_io.plausibility import check_chest_ct
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume
from medai.workflows.import_names import names_of_files, safe_name
from medai.workflows.import_sources import VOLUME_ENDINGS, FoundScans, LeftOut, find_scans, labels_folder

_log = logging.getLogger(__name__)

FILE_FORMATS = ("nii.gz", "nii", "nrrd")

_LEADING_PATIENT = re.compile(r"([A-Za-z]+(?:-[A-Za-z]+)+-\d+)(?:_|$)")
_HASH_DIGITS = 8

FEWEST_VOXELS = 20_000
"""A DICOM series of fewer voxels is a test pattern, too little to tell a chest by: its header decides. Before a model
it is checked like any scan."""
_ABANDONED_AFTER_S = 24 * 3600.0
"""No scan takes a day to be written: such a file is of an import that was killed."""

ProgressCallback = Callable[[int, int, str], None]
"""Called with the number of scans done, the number of all, and the one at hand."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportedCase:
    """A scan that is in the study now; ``notes`` are what its reader had to decide about its file."""

    case_id: str
    path: Path
    geometry: VolumeGeometry
    patient_key: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportReport:
    """What became of each scan.

    Attributes:
        imported: cases that are new.
        refused: what was not imported, and why.
        skipped: ids of cases that were there already.
        left_out: what lies beside the scans and is none.
    """

    imported: tuple[ImportedCase, ...]
    refused: tuple[LeftOut, ...]
    skipped: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

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
                    "notes": list(case.notes),
                }
                for case in self.imported
            ],
            "refused": [{"source": refusal.source, "reason": refusal.reason} for refusal in self.refused],
            "skipped": list(self.skipped),
            "left_out": [{"source": each.source, "reason": each.reason} for each in self.left_out],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    """Something to import.

    Attributes:
        source: what to call it in messages.
        names: wishes for the case id; a later one where another scan has those before it.
        origin: hash that identifies the scan.
        patient_key: see the module's docstring.
        former_origin: by which earlier versions knew it, "" where they knew it by ``origin``.
        images: how many images a DICOM series has; 0 for a file.
        header: what ``read`` will say of the acquisition, as far as that is known before.
        read: gives the scan.
    """

    source: str
    names: tuple[str, ...]
    origin: str
    patient_key: str
    former_origin: str = ""
    images: int = 0
    header: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[], Volume]


@dataclass(slots=True, kw_only=True)
class _Study:
    """The study that is imported into.

    Attributes:
        folder: its folder.
        file_format: of new cases.
        case_of_origin: which case a scan is, of those that are there.
        lock: held while a case is moved into place.
    """

    folder: Path
    file_format: str
    case_of_origin: dict[str, str] = field(default_factory=dict)
    lock: ExclusiveLock

    @property
    def incoming(self) -> Path:
        return state_folder(self.folder) / "incoming"


def import_scans(
    sources: Sequence[Path],
    study_folder: Path,
    *,
    options: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    file_format: str = "nii.gz",
    on_progress: ProgressCallback | None = None,
    on_imported: Callable[[ImportedCase], None] = lambda case: None,
) -> ImportReport:
    """Import scans into a study folder.

    Args:
        sources: volume files, DICOM files (their series is taken), and folders, searched through; links are followed.
        study_folder: made if absent; it may lie in a source, or a source in it.
        options: what to do with irregular or tilted series.
        file_format: one of ``FILE_FORMATS``.
        on_progress: see ``ProgressCallback``.
        on_imported: told of each new case as soon as it is in the study, where it stays whatever comes after.

    Returns:
        What was imported, refused with the reason, skipped, and left out.

    Raises:
        InputError: an unknown format.
        StorageError: the study cannot be written.
    """
    if file_format not in FILE_FORMATS:
        raise InputError(f"Cases cannot be stored as '{file_format}'; choose one of {', '.join(FILE_FORMATS)}.")
    study = _open(study_folder, file_format)
    found = find_scans(sources, study_folder)
    refused = list(found.refused)
    scans = _scans_of(found, options, refused)
    imported: list[ImportedCase] = []
    skipped: list[str] = []
    for done, scan in enumerate(scans):
        if on_progress is not None:
            on_progress(done, len(scans), scan.source)
        try:
            new, case_id = _import_one(scan, study)
        except StorageError:
            raise
        except MedaiError as error:
            refused.append(LeftOut(source=scan.source, reason=str(error)))
            continue
        if new is None:
            skipped.append(case_id)
        else:
            imported.append(new)
            on_imported(new)
            _log.info("imported case %s", case_id)
    if on_progress is not None:
        on_progress(len(scans), len(scans), "")
    return ImportReport(
        imported=tuple(imported),
        refused=tuple(refused),
        skipped=tuple(dict.fromkeys(skipped)),
        left_out=tuple(found.left_out),
    )


def _open(study_folder: Path, file_format: str) -> _Study:
    study = _Study(
        folder=study_folder,
        file_format=file_format,
        lock=ExclusiveLock(state_folder(study_folder) / "import.lock"),
    )
    try:
        for folder in (study_folder, facts_folder(study_folder), study.incoming):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in study.incoming.iterdir():
            if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER_S:
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"The study folder {study_folder} cannot be made: {error.strerror}.") from error
    study.case_of_origin = case_of_origin(study_folder, _case_ids(study_folder))
    return study


def _case_ids(study_folder: Path) -> set[str]:
    splits = (find_extension(path.name, IMAGE_EXTENSIONS) for path in study_folder.iterdir())
    return {split[0] for split in splits if split is not None}


def _scans_of(found: FoundScans, options: ReadOptions, refused: list[LeftOut]) -> list[_Scan]:
    scans: dict[str, _Scan] = {}
    for series in found.series:
        scan = _dicom_scan(series, options)
        scans.setdefault(scan.origin, scan)
    endings = [next(end for end in VOLUME_ENDINGS if path.name.lower().endswith(end)) for path in found.files]
    stems = [path.name[: -len(ending)] for path, ending in zip(found.files, endings, strict=True)]
    names = names_of_files(found.files, stems, given=found.given)
    for path, ending, name in zip(found.files, endings, names, strict=True):
        try:
            scan = _file_scan(path, ending, name, options)
        except OSError as error:
            refused.append(LeftOut(source=path.name, reason=f"It cannot be read: {error.strerror}."))
            continue
        scans.setdefault(scan.origin, scan)
    return list(scans.values())


def _dicom_scan(series: DicomSeries, options: ReadOptions) -> _Scan:
    origin, former = series.origin, series.former_origin
    name = safe_name(series.folder.name, patient_words(series.files[0].path)) or "ct"
    short, long = f"{name}_{origin[:_HASH_DIGITS]}", f"{name}_{origin[:32]}"
    return _Scan(
        source=f"{series.folder.name}: {series.describe()}",
        names=(short, long) if series.part_key else (f"{name}_{former[:_HASH_DIGITS]}", short, long),
        origin=origin,
        former_origin="" if series.part_key else former,
        patient_key=series.patient_key,
        images=series.image_count,
        header=series.header,
        read=lambda: read_series(series, options),
    )


def _file_scan(path: Path, ending: str, name: str, options: ReadOptions) -> _Scan:
    digits = _content_hash(path, ending)
    name = name or "scan"
    patient = _LEADING_PATIENT.match(name)
    return _Scan(
        source=path.name if name in path.name else f"{path.parent.name}/{path.name}",
        names=(name, f"{name}_{digits[:_HASH_DIGITS]}"),
        origin=digits,
        patient_key=patient_key_of(patient.group(1)) if patient else "",
        read=lambda: read_volume(path, options=options),
    )


def _content_hash(path: Path, ending: str) -> str:
    """SHA-256 of a file; of a detached header together with the files of the same name that hold its voxels."""
    stem = path.name[: -len(ending)]
    beside = sorted(path.parent.glob(f"{glob.escape(stem)}.*")) if ending in (".nhdr", ".mhd") else [path]
    digest = hashlib.sha256()
    for part in beside:
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def voxel_hash(volume: Volume) -> str:
    """SHA-256 of what a scan holds and where, whatever the format and the order of its axes.

    Voxels count in the order right, front, head; the grid to a hundredth of a millimetre, as far as the formats agree.
    """
    turn = turn_to_ras(volume.geometry)
    grid = np.round(turn.geometry(volume.geometry).affine_ijk_to_ras_mm, 2) + 0.0
    turned = turn.apply(volume.image_hu)
    digest = hashlib.sha256(repr((turned.shape, turned.dtype.str, grid.tolist())).encode())
    for plane in turned:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()


def _import_one(scan: _Scan, study: _Study) -> tuple[ImportedCase | None, str]:
    """The new case, or None where the scan is there already; and the case's id."""
    known = study.case_of_origin.get(scan.origin)
    former = None if known else _known_to_earlier_versions(scan, study)
    if known is None and former and read_facts(study.folder, former).get("header") == dict(scan.header):
        known = former
        _remember(scan, known, study)
    if known is not None:
        _check_same_images(scan, known, study)
        return None, known
    volume = scan.read()
    if not scan.images or volume.image_hu.size >= FEWEST_VOXELS:
        check_chest_ct(volume)
    voxels = voxel_hash(volume)
    incoming = study.incoming / f"{secrets.token_hex(8)}.{study.file_format}"
    try:
        write_volume(volume, incoming)
        with study.lock.hold():
            # Another import may have brought it meanwhile.
            known = study.case_of_origin.get(voxels) or _known_by_name(scan, voxels, study)
            if known is None and former and _voxels_of_case(former, study) == voxels:
                known = former
            if known is not None:
                _remember(scan, known, study)
                return None, known
            return _put_in_place(scan, volume, voxels, incoming, study)
    finally:
        with contextlib.suppress(OSError):
            incoming.unlink(missing_ok=True)


def _put_in_place(scan: _Scan, volume: Volume, voxels: str, incoming: Path, study: _Study) -> tuple[ImportedCase, str]:
    case_id = _free_name(scan, study)
    facts = {
        "case_id": case_id,
        "origin": scan.origin,
        "also": [voxels],
        "images": scan.images,
        "patient_key": scan.patient_key,
        "header": volume.header,
        "shape_ijk": list(volume.geometry.shape_ijk),
        "spacing_mm": list(volume.geometry.spacing_mm),
        "notes": list(volume.notes),
    }
    write_json(facts_path(study.folder, case_id), facts)
    path = study.folder / f"{case_id}.{study.file_format}"
    try:
        incoming.replace(path)
    except OSError as error:
        raise StorageError(f"{path.name} could not be moved into the study: {error.strerror}.") from error
    for origin in (scan.origin, voxels):
        study.case_of_origin[origin] = case_id
    case = ImportedCase(
        case_id=case_id, path=path, geometry=volume.geometry, patient_key=scan.patient_key, notes=volume.notes
    )
    return case, case_id


def _check_same_images(scan: _Scan, case_id: str, study: _Study) -> None:
    """A series that has grown since it was imported is not there already."""
    images = read_facts(study.folder, case_id).get("images")
    if scan.images and images and images != scan.images:
        raise ConflictError(
            f"It is case '{case_id}', which was imported when the series had {images} images; now it has "
            f"{scan.images}. If this is the whole series, delete that case (its labels go with it) and import again."
        )


def _known_to_earlier_versions(scan: _Scan, study: _Study) -> str | None:
    """The case of the same patient that an earlier version knew by the series UID alone."""
    case_id = study.case_of_origin.get(scan.former_origin)
    if case_id is None or read_facts(study.folder, case_id).get("patient_key") != scan.patient_key:
        return None
    return case_id


def _voxels_of_case(case_id: str, study: _Study) -> str:
    path = _scan_path(case_id, study.folder)
    try:
        return voxel_hash(read_volume(path)) if path is not None else ""
    except MedaiError:
        return ""


def _known_by_name(scan: _Scan, voxels: str, study: _Study) -> str | None:
    """The case that has one of the scan's names, where it is this scan: another import's, or a file put there."""
    for name in scan.names:
        path = _scan_path(name, study.folder)
        if path is None:
            continue
        if {scan.origin, voxels} & set(origins_of(read_facts(study.folder, name))):
            return name
        if _content_hash(path, path.name[len(name) :]) == scan.origin or _voxels_of_case(name, study) == voxels:
            return name
    return None


def _remember(scan: _Scan, case_id: str, study: _Study) -> None:
    """Add an origin to a case's facts: found by it, the scan need not be read the next time."""
    facts = read_facts(study.folder, case_id)
    also = list(dict.fromkeys([*origins_of(facts)[1:], scan.origin]))
    write_json(facts_path(study.folder, case_id), {**facts, "also": also})
    study.case_of_origin[scan.origin] = case_id


def _free_name(scan: _Scan, study: _Study) -> str:
    """A case id that no scan of the study has, nor the labels of one whose file is away."""
    for name in scan.names:
        if _scan_path(check_case_id(name), study.folder) is None and not _has_foreign_labels(name, scan, study):
            return name
    listed = "' and '".join(scan.names)
    raise InputError(f"The study has other scans named '{listed}'. Rename the source.")


def _scan_path(case_id: str, study_folder: Path) -> Path | None:
    paths = (study_folder / f"{case_id}{ending}" for ending in IMAGE_EXTENSIONS)
    return next((path for path in paths if path.exists()), None)


def _has_foreign_labels(case_id: str, scan: _Scan, study: _Study) -> bool:
    if scan.origin in origins_of(read_facts(study.folder, case_id)):
        return False
    folders = [path for path in (study.folder / labels_folder(study.folder)).glob("*") if path.is_dir()]
    return any((folder / f"{case_id}{ending}").exists() for folder in folders for ending in LABEL_EXTENSIONS)
