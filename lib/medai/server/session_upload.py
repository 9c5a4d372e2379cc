"""What a client sends for a session, brought down to one scan file: a volume file, a DICOM series, or a ZIP of either.

Names of the sender are read for their endings and never used: files lie under numbers. An archive is measured as it is
inflated, whatever it says of itself; archives in it stay closed.

Threads: pure functions of their arguments; they block, so the server calls them from its transfer threads.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from fastapi import UploadFile

from medai.errors import InputError
from medai.server.dicom_worker import convert_series
from medai.server.request_body import COPY_BYTES
from medai.server.strict_json import check_line
from medai.store.names import IMAGE_EXTENSIONS, find_extension
from medai.volume_io.dicom_headers import looks_like_dicom
from medai.volume_io.options import ReadBudget

MOST_FILES = 5000
"""Files of one upload; a chest CT of thin slices has a thousand."""


def gather_scan(
    uploads: Sequence[UploadFile],
    folder: Path,
    *,
    uncompress: bool = False,
    largest_bytes: int = 2 << 30,
    budget: ReadBudget = ReadBudget(),  # noqa: B008 - frozen
) -> Path:
    """Bring an upload down to one scan file in ``folder``.

    Args:
        uploads: one volume file, the slices of a DICOM series, or one ZIP of either.
        folder: an empty folder of ours.
        uncompress: the one file is a ZIP.
        largest_bytes: of all files of an archive together.
        budget: the largest DICOM series that is read.

    Returns:
        The scan: the volume file as it was sent, or the series as ``.nii.gz``.

    Raises:
        InputError: nothing that is one scan, or an archive that cannot be opened or grows too large.
    """
    if not uploads:
        raise InputError("A session takes a scan; this request has no file.")
    if len(uploads) > MOST_FILES:
        raise InputError(f"A session takes at most {MOST_FILES} files at a time, this request has {len(uploads)}.")
    parts = folder / "parts"
    parts.mkdir()
    if uncompress:
        if len(uploads) != 1:
            raise InputError(f"With 'uncompress' a session takes one ZIP file, not {len(uploads)} files.")
        _unpack(uploads[0], parts, largest_bytes)
    else:
        for number, upload in enumerate(uploads):
            name = check_line(upload.filename or "", "the uploaded file's name")
            with (parts / _numbered(number, name)).open("wb") as target:
                shutil.copyfileobj(upload.file, target, COPY_BYTES)
    return _one_scan(parts, folder, budget)


def _unpack(upload: UploadFile, parts: Path, largest_bytes: int) -> None:
    try:
        with zipfile.ZipFile(upload.file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MOST_FILES:
                raise InputError(f"The ZIP file holds {len(entries)} files; at most {MOST_FILES} are taken.")
            left = largest_bytes
            for number, entry in enumerate(entries):
                name = PurePosixPath(entry.filename.replace("\\", "/")).name
                if name.startswith("."):
                    continue
                with archive.open(entry) as source:
                    left = _copy_bounded(source, parts / _numbered(number, name), left)
    # A password is a RuntimeError, a compression that is not known a NotImplementedError.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"The uploaded file is not a ZIP file that can be opened here ({error}). Other archives, and those with a "
            "password, are not taken: send the files themselves."
        ) from error


def _copy_bounded(source: IO[bytes], target: Path, left: int) -> int:
    """Copy what an archive holds; returns how many bytes may still come."""
    with target.open("wb") as stream:
        while block := source.read(COPY_BYTES):
            left -= len(block)
            if left < 0:
                raise InputError(
                    "The files in the ZIP file are larger than what is taken together; --conf max_upload_mb sets it."
                )
            stream.write(block)
    return left


def _numbered(number: int, name: str) -> str:
    """A name of ours with the sender's ending, where it is one that says what the file is."""
    parts = find_extension(PurePosixPath(name.replace("\\", "/")).name, IMAGE_EXTENSIONS)
    return f"{number:05d}{parts[1].lower() if parts else ''}"


def _one_scan(parts: Path, folder: Path, budget: ReadBudget) -> Path:
    """The one scan among the files."""
    files = sorted(path for path in parts.iterdir() if path.stat().st_size)
    volumes = [path for path in files if find_extension(path.name, IMAGE_EXTENSIONS) is not None]
    slices = [path for path in files if path not in volumes and looks_like_dicom(path)]
    if len(volumes) == 1 and not slices:
        ending = volumes[0].name[5:]
        return volumes[0].rename(folder / f"scan{ending}")
    if slices and not volumes:
        target = folder / "scan.nii.gz"
        convert_series(parts, target, budget=budget)
        return target
    formats = ", ".join(IMAGE_EXTENSIONS)
    if len(files) == 1 and zipfile.is_zipfile(files[0]):
        raise InputError(
            "The file is a ZIP file: ask for uncompress=true to have a ZIP of one scan opened; one in another is not."
        )
    raise InputError(
        f"A session takes one scan: a volume file ({formats}) or the slices of one DICOM series. Here are "
        f"{len(volumes)} volume files, {len(slices)} DICOM files and {len(files) - len(volumes) - len(slices)} others."
    )
