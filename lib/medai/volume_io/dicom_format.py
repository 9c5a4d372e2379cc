"""How the pixels of a DICOM file are stored, checked from the header and the file's size before anything is decoded.

Decoders are not asked what the numbers mean: ITK's GDCM inverts MONOCHROME1, applies palettes and rescales; it does not
move left-justified samples. What is stored where follows from BitsAllocated, BitsStored, HighBit and
PixelRepresentation alone (PS3.5 section 8), and a pixel is worth stored value × slope + intercept whatever the
photometric interpretation says: that tells a screen what to paint white.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medai.volume_io.dicom_fragments import walk_fragments
from medai.volume_io.dicom_values import HeaderValues

RLE = "1.2.840.10008.1.2.5"

_PIXEL_DATA = (0x7FE0, 0x0010)
_FLOAT_PIXEL_DATA = ((0x7FE0, 0x0008), (0x7FE0, 0x0009))
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ALLOCATED = (8, 16, 32)
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """Where the pixels of a file are and how a sample is written.

    Attributes:
        path: the file.
        syntax_uid: its transfer syntax.
        is_compressed: pixels are in fragments (JPEG, RLE …).
        is_deflated: the data set is deflated; ``start`` counts in what it inflates to.
        is_little_endian: byte order of uncompressed samples.
        start: of the first pixel, or of the first fragment.
        size: bytes of pixels, or of all fragments.
        frame_count: images in the file.
        shape_ij: columns and rows.
        bits_allocated: of a cell.
        bits_stored: of the sample in it.
        high_bit: where the sample's highest bit is.
        is_signed: two's complement.
        overlay_mask: bits of a cell that the header gives to overlay planes.
        padding: lowest and highest stored value that mark voxels outside the scan, or None.
    """

    path: Path
    syntax_uid: str
    is_compressed: bool
    is_deflated: bool
    is_little_endian: bool
    start: int
    size: int
    frame_count: int
    shape_ij: tuple[int, int]
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    overlay_mask: int
    padding: tuple[int, int] | None

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that a sample can have."""
        if self.is_signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one image, decoded."""
        return self.shape_ij[0] * self.shape_ij[1] * (self.bits_allocated // 8)


def read_format(path: Path, dataset: Any, syntax: Any, stream: BinaryIO, *, is_deflated: bool) -> PixelFormat | str:
    """Find the pixels of a file.

    Args:
        path: the file.
        dataset: its header.
        syntax: transfer syntax of ``stream``.
        stream: stands where the header ends.
        is_deflated: ``stream`` is what the file inflates to.

    Returns:
        The format, or why the pixels cannot be used.
    """
    if "Rows" not in dataset or "Columns" not in dataset:
        return "no pixel data"
    values = HeaderValues(dataset=dataset)
    shape_ij = (values.whole("Columns", 0), values.whole("Rows", 0))
    allocated = values.whole("BitsAllocated", 16)
    stored = values.whole("BitsStored", allocated)
    high = values.whole("HighBit", stored - 1)
    frame_count = values.whole("NumberOfFrames", 1) or 1
    representation = values.whole("PixelRepresentation", 0)
    problem = (
        _meaning_problem(values)
        or "; ".join(values.problems)
        or _layout_problem(shape_ij, (allocated, stored, high), frame_count)
    )
    if not problem and representation not in (0, 1):
        problem = f"PixelRepresentation {representation}, which is neither 0 (unsigned) nor 1 (signed)"
    if not problem and syntax.is_compressed and str(syntax) != RLE and high != stored - 1:
        problem = (
            f"HighBit {high} with BitsStored {stored} in {syntax.name}: where its samples lie in the compressed "
            "numbers cannot be told"
        )
    if problem:
        return problem
    padding = _padding(values, allocated, representation == 1)
    found = "; ".join(values.problems) or _find_pixels(stream, syntax, shape_ij, allocated // 8, frame_count)
    if isinstance(found, str):
        return found
    start, size = found
    return PixelFormat(
        path=path,
        syntax_uid=str(syntax),
        is_compressed=bool(syntax.is_compressed),
        is_deflated=is_deflated,
        is_little_endian=bool(syntax.is_little_endian),
        start=start,
        size=size,
        frame_count=frame_count,
        shape_ij=shape_ij,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        is_signed=representation == 1,
        overlay_mask=_overlay_mask(dataset, allocated, stored, high),
        padding=padding,
    )


def _meaning_problem(values: HeaderValues) -> str:
    """Why the pixels are no grey values with slope and intercept, or ""."""
    if values.whole("SamplesPerPixel", 1) != 1:
        return "colour pixels"
    photometric = values.text("PhotometricInterpretation").upper()
    if photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        return f"colour pixels or a palette (PhotometricInterpretation {photometric[:16]})"
    if "ModalityLUTSequence" in values.dataset:
        return "a modality lookup table instead of rescale slope and intercept"
    return ""


def _layout_problem(shape_ij: tuple[int, int], bits: tuple[int, int, int], frame_count: int) -> str:
    allocated, stored, high = bits
    if min(shape_ij) < 1:
        return f"{shape_ij[0]} columns and {shape_ij[1]} rows"
    if frame_count < 1:
        return f"NumberOfFrames {frame_count}"
    if allocated not in _ALLOCATED:
        return f"BitsAllocated {allocated}; medai reads samples of 8, 16 and 32 bits"
    if not 1 <= stored <= allocated:
        return f"BitsStored {stored} with BitsAllocated {allocated}"
    if not stored - 1 <= high < allocated:
        return f"HighBit {high} with BitsStored {stored} and BitsAllocated {allocated}, which contradict each other"
    return ""


def _find_pixels(
    stream: BinaryIO, syntax: Any, shape_ij: tuple[int, int], sample_bytes: int, frame_count: int
) -> tuple[int, int] | str:
    """Start and size of the pixels, or why they cannot be read."""
    start = stream.tell()
    file_size = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    head = stream.read(12)
    order = "<" if syntax.is_little_endian else ">"
    tag = struct.unpack(f"{order}HH", head[:4]) if len(head) == 12 else None
    if tag != _PIXEL_DATA:
        return "floating-point pixels" if tag in _FLOAT_PIXEL_DATA else "no pixel data"
    if not syntax.is_implicit_VR and head[4:6] not in (b"OB", b"OW", b"UN"):
        return "a damaged image"
    header_size = 8 if syntax.is_implicit_VR else 12
    (length,) = struct.unpack(f"{order}I", head[header_size - 4 : header_size])
    data_start = start + header_size
    if syntax.is_compressed:
        return walk_fragments(
            stream,
            data_start,
            shape_ij=shape_ij,
            rle_bytes=sample_bytes if str(syntax) == RLE else 0,
            frame_count=frame_count,
        )
    size = sample_bytes * shape_ij[0] * shape_ij[1] * frame_count
    problem = ""
    if length == _UNDEFINED_LENGTH:
        problem = f"compressed pixels under the transfer syntax {syntax.name}"
    elif sample_bytes == 1 and order == ">":
        problem = "8-bit pixels in big-endian words"
    elif data_start + size > file_size:
        problem = "a truncated image"
    elif length < size:
        problem = f"a truncated image: {length} bytes of pixels instead of {size}"
    elif length >= size + size // frame_count:
        problem = (
            f"{length} bytes of pixels where {frame_count} frames of {shape_ij[0]}×{shape_ij[1]} pixels of "
            f"{8 * sample_bytes} bits have {size}"
        )
    return problem or (data_start, size)


def _overlay_mask(dataset: Any, allocated: int, stored: int, high: int) -> int:
    """Bits outside the sample that hold overlay planes, as files from before 2004 have them (PS3.5-2003)."""
    mask = 0
    for group in _OVERLAY_GROUPS:
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            bit = int(dataset[group, 0x0102].value or 0)
            if 0 <= bit < allocated and not high - stored < bit <= high:
                mask |= 1 << bit
    return mask


def _padding(values: HeaderValues, bits: int, is_signed: bool) -> tuple[int, int] | None:
    value = values.number("PixelPaddingValue")
    if value is None:
        return None
    limit = values.number("PixelPaddingRangeLimit")
    ends = sorted(_as_stored(int(v), bits, is_signed) for v in (value, value if limit is None else limit))
    return (ends[0], ends[1])


def _as_stored(value: int, bits: int, is_signed: bool) -> int:
    """Some scanners write −2000 as the unsigned 63536, and the other way round."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if is_signed and value >= 1 << (bits - 1) else value
