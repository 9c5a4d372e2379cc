"""One way to read any scan or label map, whatever its format.

``READERS`` is asked in order; the first that recognises the path reads it. A new format is a new line there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from medai.domain import LabelMap, Volume
from medai.errors import InputError, StorageError
from medai.geometry import VolumeGeometry
from medai.volume_io.atomic import disk_words, own_fault
from medai.volume_io.dicom_series import DicomReader
from medai.volume_io.meta_image import MetaImageReader
from medai.volume_io.nifti import NiftiReader
from medai.volume_io.nrrd_file import NrrdReader
from medai.volume_io.options import ReadBudget, ReadOptions

__all__ = [
    "READERS",
    "ReadBudget",
    "ReadOptions",
    "VolumeReader",
    "is_for_slicer",
    "read_geometry",
    "read_label_map",
    "read_volume",
]


class VolumeReader(Protocol):
    """A file format."""

    @property
    def name(self) -> str:
        """The format and its endings, for messages."""

    def can_read(self, path: Path) -> bool:
        """True where this reader is the one for the path; it must not read the voxels to find out."""

    def is_for_slicer(self, path: Path) -> bool:
        """True where 3D Slicer, given this file alone, shows the same voxels; asked of files that were read."""

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine, from the header alone."""

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan in Hounsfield units."""

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The label map."""


READERS: tuple[VolumeReader, ...] = (NiftiReader(), NrrdReader(), MetaImageReader(), DicomReader())


def read_volume(path: Path, *, options: ReadOptions = ReadOptions()) -> Volume:  # noqa: B008 - frozen
    """Read a scan.

    Args:
        path: an NRRD, NIfTI or MetaImage file, a DICOM file, or a folder that holds exactly one DICOM CT series.
        options: what to do with irregular or tilted series, and the largest image that is read.

    Returns:
        The scan; int16 where every voxel is a whole number of Hounsfield units, else float32. Indexed [i, j, k] with
        i fastest in memory.

    Raises:
        InputError: no such file, unknown format, damaged, not finite, not three-dimensional, larger than the
            budget, or several series.
        UnsupportedScanError: a readable series that is not a CT on a regular right-angled grid.
        GeometryError: the header describes no usable grid.
        StorageError: the disk or the system refuses to give it; the file may be good.
    """
    with _own_faults(path):
        return _reader_for(path).read_volume(path, options)


def read_geometry(path: Path, *, budget: ReadBudget = ReadBudget()) -> VolumeGeometry:  # noqa: B008 - frozen
    """Read shape and affine from the headers alone; see ``read_volume`` for paths and errors.

    Args:
        path: as for ``read_volume``.
        budget: the largest image that is not refused.
    """
    with _own_faults(path):
        return _reader_for(path).read_geometry(path, budget)


def is_for_slicer(path: Path) -> bool:
    """True where 3D Slicer, given this file alone, shows the voxels that ``read_volume`` reads.

    It opens no NIfTI-2, no bzip2 and no header without the file of its voxels, and misreads a few optional forms.
    """
    return _reader_for(path).is_for_slicer(path)


def read_label_map(path: Path, *, budget: ReadBudget = ReadBudget()) -> LabelMap:  # noqa: B008 - frozen
    """Read a label map (uint8, or uint16 where a value is above 255).

    Args:
        path: an NRRD (a 3D Slicer segmentation keeps its names and colours), NIfTI or MetaImage file.
        budget: the largest image that is read.

    Raises:
        InputError: no such file, unknown format, damaged, larger than the budget, or values that are not whole numbers
            from 0 to 65535.
    """
    with _own_faults(path):
        return _reader_for(path).read_label_map(path, budget)


@contextlib.contextmanager
def _own_faults(path: Path) -> Iterator[None]:
    """Tell a disk that refuses from a file that is damaged: libraries raise OSError for both."""
    try:
        yield
    except InputError as error:
        cause = own_fault(error)
        if cause is None:
            raise
        raise StorageError(f"{path.name} cannot be read: {disk_words(cause)}.") from cause
    except OSError as error:
        if own_fault(error) is None:
            raise
        raise StorageError(f"{path.name} cannot be read: {disk_words(error)}.") from error


def _refuse_placeholder(path: Path) -> None:
    """Refuse what stands for a file that was never fetched, whatever its name promises."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        head = stream.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"'{path.name}' is a Git LFS pointer: it names the scan, which has not been fetched. Fetch it with "
            "'git lfs pull'."
        )
    if head.startswith((b"<!doctype html", b"<html")):
        raise InputError(
            f"'{path.name}' is a web page, such as a server sends instead of a file that is not there or needs a "
            "login. Download the scan again."
        )


def _reader_for(path: Path) -> VolumeReader:
    if not path.exists():
        raise InputError(f"There is no file or folder '{path}'. Check the path.")
    _refuse_placeholder(path)
    for reader in READERS:
        if reader.can_read(path):
            return reader
    if path.name.lower().removesuffix(".gz").endswith((".hdr", ".img")):
        raise InputError(
            f"'{path.name}' is one file of a pair (.hdr and .img, Analyze or NIfTI), which medai does not read. Open "
            "the .hdr file in 3D Slicer, check left and right, and save it as .nii.gz."
        )
    formats = ", ".join(reader.name for reader in READERS)
    raise InputError(f"'{path.name}' is not in a format medai reads. It reads {formats}.")
