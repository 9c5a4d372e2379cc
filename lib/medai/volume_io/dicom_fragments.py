"""Compressed pixels, looked at before a decoder is let loose on them.

GDCM's JPEG and RLE decoders end the process (they do not raise) when a damaged stream names an impossible sample depth
or offset, so what a stream says of itself is compared with the DICOM header first. Seen with ITK 5.4.7.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_ITEM = (0xFFFE, 0xE000)
_DELIMITER = (0xFFFE, 0xE0DD)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_JPEG_START = b"\xff\xd8"
_JPEG_2000_START = b"\xff\x4f"
_JPEG_2000_SIZE = b"\xff\x51"
_DEEPEST = 32
_START_OF_SCAN = 0xDA
# Frame headers of JPEG (C4, C8 and CC are tables and extensions) and of JPEG-LS.
_FRAME_HEADERS = (set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}


def walk_fragments(
    stream: BinaryIO, position: int, *, shape_ij: tuple[int, int], rle_bytes: int, frame_count: int
) -> tuple[int, int] | str:
    """Walk the encapsulated fragments of a file.

    Args:
        stream: the file.
        position: of the first item, the offset table.
        shape_ij: columns and rows that the header promises.
        rle_bytes: bytes a sample, where the stream is run-length coded; else 0.
        frame_count: images that the header promises; each has one fragment or more.

    Returns:
        Start and size of all items, without the delimiter; or why the pixels cannot be decoded.
    """
    start = position
    size = stream.seek(0, os.SEEK_END)
    fragment_count, picture_count = -1, 0
    while position + 8 <= size:
        stream.seek(position)
        group, element, length = struct.unpack("<HHI", stream.read(8))
        if (group, element) == _DELIMITER:
            found = fragment_count if rle_bytes else picture_count
            return _wrong_count(fragment_count, found, frame_count) or (start, position - start)
        if (group, element) != _ITEM or length == _UNDEFINED_LENGTH:
            return "a truncated image"
        fragment_count += 1
        if fragment_count:
            if rle_bytes and not _is_sound_rle(stream, length, rle_bytes):
                return "a damaged image"
            if not rle_bytes and not _is_sound_picture(stream, length, shape_ij):
                return "a damaged image"
            picture_count += _begins_picture(stream, position + 8)
        position += 8 + length
    return "a truncated image"


def _wrong_count(fragment_count: int, found: int, frame_count: int) -> str:
    if fragment_count < frame_count:
        return f"a truncated image: {max(0, fragment_count)} of its {frame_count} frames"
    if found > frame_count:
        return f"{found} compressed frames where its header counts {frame_count} (NumberOfFrames)"
    return ""


def _begins_picture(stream: BinaryIO, position: int) -> bool:
    """True where a fragment is the first of a picture: neither mark can occur within one."""
    stream.seek(position)
    return stream.read(2) in (_JPEG_START, _JPEG_2000_START)


def _is_sound_picture(stream: BinaryIO, length: int, shape_ij: tuple[int, int]) -> bool:
    """False where the stream is JPEG, JPEG-LS or JPEG 2000 and contradicts the DICOM header."""
    head = stream.read(2)
    if head == _JPEG_START:
        return _is_sound_jpeg(stream, length - 2, shape_ij)
    if head == _JPEG_2000_START:
        return _is_sound_jpeg_2000(stream.read(46), shape_ij)
    return True


def _is_sound_jpeg_2000(header: bytes, shape_ij: tuple[int, int]) -> bool:
    """True where the size marker comes first, as it must, and agrees with the DICOM header."""
    if len(header) < 41 or header[:2] != _JPEG_2000_SIZE:
        return False
    right, bottom, left, top = struct.unpack(">IIII", header[6:22])
    components, depth = struct.unpack(">HB", header[38:41])
    return (right - left, bottom - top) == shape_ij and components == 1 and (depth & 0x7F) < _DEEPEST


def _is_sound_jpeg(stream: BinaryIO, length: int, shape_ij: tuple[int, int]) -> bool:
    """True where the frame header is found before the pixels and agrees with the DICOM header."""
    found = False
    while length >= 4:
        lead, marker, segment_length = struct.unpack(">BBH", stream.read(4).ljust(4, b"\0"))
        if lead != 0xFF or segment_length < 2 or segment_length > length:
            return False
        if marker == _START_OF_SCAN:
            return found
        segment = stream.read(segment_length - 2)
        if marker in _FRAME_HEADERS:
            if len(segment) < 6:
                return False
            depth, rows, columns, components = struct.unpack(">BHHB", segment[:6])
            found = 2 <= depth <= 16 and (columns, rows) == shape_ij and components == 1
            if not found:
                return False
        length -= 2 + segment_length
    return False


def _is_sound_rle(stream: BinaryIO, length: int, rle_bytes: int) -> bool:
    """True where the header names one segment a byte of a sample, in order and inside the fragment (PS3.5 annex G)."""
    header = stream.read(64)
    if len(header) < 64 or length < 64:
        return False
    count, *offsets = struct.unpack("<16I", header)
    used = offsets[:rle_bytes]
    return bool(count == rle_bytes and used[0] == 64 and used == sorted(set(used)) and used[-1] < length)
