"""DICOMDIR: the index of a CD or folder of DICOM files (PS3.10 chapter 8), followed to the images it names."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

from medai.errors import InputError
from medai.volume_io.dicom_headers import looks_like_dicom
from medai.volume_io.dicom_values import element_text

_DAMAGE = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, struct.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomIndex:
    """The files of an index.

    Attributes:
        paths: those that are there and are DICOM, sorted.
        missing: names of the others, each with the UID of its series, "" where that is not told.
    """

    paths: tuple[Path, ...]
    missing: tuple[tuple[str, str], ...]


def read_index(path: Path) -> DicomIndex:
    """Read a DICOMDIR.

    File names in it are upper case, and media are often copied with lower-case ones: case does not matter. A name that
    leads out of the index's folder is none of its files.

    Raises:
        InputError: the index is damaged.
    """
    import pydicom

    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(stream, force=True)
            records = [
                (
                    element_text(record, "DirectoryRecordType"),
                    element_text(record, "SeriesInstanceUID"),
                    element_text(record, "ReferencedFileID"),
                )
                for record in dataset.get("DirectoryRecordSequence", None) or []
            ]
    except (*_DAMAGE, pydicom.errors.BytesLengthException) as error:
        raise InputError(
            f"{path.name} is a damaged index ({type(error).__name__}). Give the folder that the DICOM files are in."
        ) from error
    paths: set[Path] = set()
    missing: list[tuple[str, str]] = []
    listings: dict[Path, dict[str, Path]] = {}
    series_uid = ""
    for kind, uid, file_id in records:
        # Records stand in the order of the tree: the images of a series follow it.
        if kind in ("PATIENT", "STUDY", "SERIES"):
            series_uid = uid
        if file_id:
            found = _find(path.parent, file_id.split("\\"), listings)
            if found is not None and looks_like_dicom(found):
                paths.add(found)
            else:
                missing.append((file_id.replace("\\", "/"), series_uid))
    return DicomIndex(paths=tuple(sorted(paths)), missing=tuple(missing))


def _find(folder: Path, parts: list[str], listings: dict[Path, dict[str, Path]]) -> Path | None:
    here = folder
    for part in parts:
        if here not in listings:
            listings[here] = {}
            if here.is_dir():
                # The exact name wins over one that differs in case.
                for entry in sorted(here.iterdir()):
                    listings[here].setdefault(entry.name.upper(), entry)
        exact = here / part
        if part in ("", ".", "..") or "/" in part:
            return None
        found = exact if exact.exists() else listings[here].get(part.upper())
        if found is None:
            return None
        here = found
    return here
