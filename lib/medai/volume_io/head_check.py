"""Can a scan be read? Asked before it is handed to anybody, and of thousands at a start: only its first and last bytes.

What a checkout, a download or a copy leaves where a scan should be (nothing at all, a pointer of Git LFS, a web page)
is told for certain. A file that was cut off is only doubted, by its length or by the length that gzip writes at a
stream's end: whoever doubts decodes it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, cast

from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.readers import read_geometry

_HEAD_BYTES = 1024
_GZIP = b"\x1f\x8b"
_VOXEL_BYTES = (1, 2, 4, 8)
_LONGEST_HEADER_BYTES = 1 << 16
_COMPRESSED_SIZE = re.compile(rb"CompressedDataSize\s*=\s*(\d+)")
_VOXELS_FOLLOW = re.compile(rb"ElementDataFile\s*=\s*LOCAL\s*?\r?\n")
_NRRD_ENCODING = re.compile(rb"\nencoding: *(raw|gz|gzip) *\r?\n")
_NRRD_HEADER_END = re.compile(rb"\r?\n\r?\n")


def check_first_bytes(path: Path) -> None:
    """Refuse what is no scan by its first bytes; some ten microseconds.

    Raises:
        InputError: the file is empty, a pointer to a file that was not fetched, a web page, or lacks its format's mark.
        OSError: the disk or the machine failed, which says nothing of the file.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path.name} is a link to a file that is not there. Fetch it, or mend the link.") from error
    except PermissionError as error:
        raise InputError(f"{path.name} cannot be opened ({error.strerror}). Check its permissions.") from error
    name = path.name.lower()
    if not head:
        raise InputError(f"{path.name} is empty (0 bytes): a copy that was cut off. Copy it again.")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path.name} is a pointer of Git LFS, not the scan itself. 'git lfs pull' fetches it.")
    if head.startswith(b"/annex/objects/"):
        raise InputError(f"{path.name} is a pointer of git-annex, not the scan itself. 'git annex get' fetches it.")
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise InputError(f"{path.name} is a web page: a download that failed. Download the scan again.")
    if name.endswith(".gz") and not head.startswith(_GZIP):
        # A name that ends in .gz by mistake is read by nobody.
        raise InputError(f"{path.name} is not gzip-compressed, as its name says. Copy or export it again.")
    if name.endswith(".nrrd") and not head.startswith(b"NRRD"):
        raise InputError(f"{path.name} is not an NRRD file: it does not start with 'NRRD'. Copy or export it again.")
    if name.endswith(".mha") and b"=" not in head:
        raise InputError(f"{path.name} is not a MetaImage: it has no header. Copy or export it again.")
    if not head.strip(b"\0"):
        raise InputError(f"{path.name} begins with zeros only: a copy that was cut off. Copy it again.")


def check_head(path: Path) -> VolumeGeometry:
    """Refuse what cannot be read by its header; a millisecond.

    Raises:
        InputError: see ``check_first_bytes``, or the header is damaged or describes no scan.
        GeometryError: the header describes no usable grid.
    """
    check_first_bytes(path)
    return read_geometry(path)


def may_be_cut_off(path: Path, geometry: VolumeGeometry) -> bool:
    """Whether a file looks as if its end were missing. A rare whole one looks so too: only decoding it tells.

    Args:
        path: a scan whose head is good.
        geometry: its grid.
    """
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER_BYTES)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 4))
        length = int.from_bytes(stream.read(4), "little")
    if head.startswith(b"NRRD"):
        return _is_nrrd_cut_off(head, size, length, math.prod(geometry.shape_ijk))
    if found := _COMPRESSED_SIZE.search(head):
        start = _VOXELS_FOLLOW.search(head)
        return start is not None and size < start.end() + int(found.group(1))
    expected = _nifti_bytes(path)
    if expected is None:
        return False
    # Blocks of the kind that bgzip writes end with an empty one, whose length is none.
    return length not in (0, expected % (1 << 32)) if head.startswith(_GZIP) else size < expected


def _is_nrrd_cut_off(head: bytes, size: int, length: int, voxels: int) -> bool:
    encoding = _NRRD_ENCODING.search(head)
    header_end = _NRRD_HEADER_END.search(head)
    if encoding is None or header_end is None:
        return False
    if encoding.group(1) == b"raw":
        return size - header_end.end() not in {voxels * each for each in _VOXEL_BYTES}
    return length not in {0, *(voxels * each % (1 << 32) for each in _VOXEL_BYTES)}


def _nifti_bytes(path: Path) -> int | None:
    """Size of a NIfTI file, uncompressed, as its header has it; None where it is none."""
    import nibabel as nib

    try:
        proxy: Any = cast("Any", nib.load(path)).dataobj
        expected: int = int(proxy.offset) + math.prod(proxy.shape) * int(proxy.dtype.itemsize)
        return expected
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, OSError, EOFError, ValueError):
        return None
