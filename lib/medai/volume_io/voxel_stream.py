"""From the bytes of a file to voxels, slab by slab: one pass, one copy of the image in memory.

The common case, int16 without scaling, is inflated straight into the result. Everything else goes through a
``VoxelBuilder``: slabs of a few megabytes are scaled, checked and stored in the smallest type that holds them, and the
type grows only when a slab does not fit. A float file of whole Hounsfield units thus becomes int16 without a float copy
of the scan ever existing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError
from medai.volume_io.gzip_stream import (
    DAMAGED_STREAM_ERRORS,
    check_end_of_stream,
    fortran_bytes,
    inflated_size,
    is_followed,
    open_stream,
)
from medai.volume_io.options import ReadBudget

HU_TYPES: tuple[type[np.generic], ...] = (np.int16, np.float32)
"""What an image may become, smallest first: whole Hounsfield units are int16, anything else float32."""

LABEL_TYPES: tuple[type[np.generic], ...] = (np.uint8, np.uint16)
"""What a label map may become, smallest first."""

_SLAB_BYTES = 8 << 20
# Reading a compressed stream in pieces that stay in the cache is a fifth faster than in one go (measured, 157 MB).
_INFLATE_BYTES = 256 << 10
# Deflate cannot do better than 1032:1 (two bits for a run of 258 bytes), so a header that promises more lies.
_LARGEST_INFLATION = 1040
# What may lie before the voxels in a compressed stream (NIfTI extensions, an NRRD byte skip): it must be inflated.
_LARGEST_SKIP_BYTES = 64 << 20
_LONGEST_NUMBER_BYTES = 1 << 10

# A label's value that is this close to a whole number was one.
_NEARLY_WHOLE = 1e-3

Encoding = Literal["raw", "gzip", "zlib", "bzip2", "text", "hex"]
"""How voxels are stored; compressed streams may have several members."""

_REPORT_BYTES = 4 << 20

ReadInto = Callable[[memoryview], int]
OnVoxels = Callable[[NDArray[np.generic], int], None]
"""Told of the array that is being filled, and how many indices along its last axis are complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelLayout:
    """How voxels lie in a stream.

    Attributes:
        shape: number of samples along each axis, fastest first.
        dtype: as stored, with its byte order.
        slope: the value is ``stored * slope + intercept``.
        intercept: see ``slope``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def byte_count(self) -> int:
        """Size of all voxels in the stream."""
        count = self.dtype.itemsize
        for n in self.shape:
            count *= n
        return count

    @property
    def is_scaled(self) -> bool:
        """True where stored values are not the values themselves."""
        return self.slope != 1.0 or self.intercept != 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelSource:
    """Where a stream of voxels is.

    Attributes:
        path: the file that holds the voxels.
        encoding: how they are stored there.
        name: for messages; of the header's file where the voxels have one of their own.
        start: byte of the file at which the stream begins (an NRRD header lies before its compressed voxels).
        skip: bytes of the inflated stream before the first voxel (a NIfTI header is compressed with its voxels); None
            where the voxels are the last of the stream.
    """

    path: Path
    encoding: Encoding
    name: str
    start: int = 0
    skip: int | None = 0


class VoxelBuilder:
    """Collects slabs along the last axis into one Fortran-ordered array of the smallest type that holds them all."""

    def __init__(self, shape: Sequence[int], types: tuple[type[np.generic], ...], file_name: str) -> None:
        self._types = list(types)
        self._limits = types
        self._file_name = file_name
        self._voxels: NDArray[Any] = np.empty(tuple(shape), dtype=self._types[0], order="F")
        self._filled = 0

    def add(self, slab: NDArray[Any]) -> None:
        """Append values of shape (..., n); they may be of any real type.

        Raises:
            InputError: a value is not finite, or no allowed type holds it.
        """
        if slab.dtype.kind == "f":
            check_finite(slab, self._file_name)
            if self._limits == LABEL_TYPES:
                slab = _rounded(slab)
        while not _fits(slab, np.dtype(self._types[0])):
            self._types.pop(0)
            if not self._types:
                raise InputError(_unfitting(slab, self._limits, self._file_name))
            grown = np.empty(self._voxels.shape, dtype=self._types[0], order="F")
            grown[..., : self._filled] = self._voxels[..., : self._filled]
            self._voxels = grown
        stop = self._filled + slab.shape[-1]
        self._voxels[..., self._filled : stop] = slab
        self._filled = stop

    def finish(self) -> NDArray[np.generic]:
        """The finished array; every slab must have been added."""
        if self._filled != self._voxels.shape[-1]:
            raise InputError(f"{self._file_name} has {self._filled} of {self._voxels.shape[-1]} slices.")
        return cast("NDArray[np.generic]", self._voxels)


def build_voxels(values: NDArray[Any], types: tuple[type[np.generic], ...], file_name: str) -> NDArray[np.generic]:
    """Turn an array that a library has read whole into the smallest of ``types``, slab by slab."""
    builder = VoxelBuilder(values.shape, types, file_name)
    step = _slab_length(values.shape, values.dtype.itemsize)
    for start in range(0, values.shape[-1], step):
        builder.add(values[..., start : start + step])
    return builder.finish()


def check_finite(values: NDArray[Any], file_name: str) -> None:
    """Refuse NaN and infinity."""
    if not np.isfinite(values).all():
        count = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise InputError(
            f"{file_name} holds {count} voxels that are not numbers (NaN or infinity). Export the scan again."
        )


def check_promise(source: VoxelSource, layout: VoxelLayout, budget: ReadBudget) -> None:
    """Hold what a header promises against the size of its file and the budget, before anything is read.

    Raises:
        InputError: the file cannot hold so many voxels, or they are more than the budget.
    """
    size = source.path.stat().st_size - source.start
    skip = source.skip or 0
    fewest = skip + layout.byte_count
    if source.encoding in ("gzip", "zlib"):
        fewest = -(-fewest // _LARGEST_INFLATION)
    elif source.encoding == "bzip2":
        fewest = 1
    elif source.encoding == "hex":
        fewest = 2 * layout.byte_count
    elif source.encoding == "text":
        fewest = 2 * math.prod(layout.shape) - 1
    beyond = ""
    try:
        budget.check(layout.shape, layout.dtype.itemsize, source.name)
    except InputError as error:
        beyond = str(error)
    if skip < 0 or fewest > size:
        # Most headers that promise too much are damaged ones: both is said.
        raise InputError(" ".join(filter(None, (_truncated(source.name, layout.byte_count), beyond))))
    if beyond:
        raise InputError(beyond)
    if source.encoding != "raw" and skip > _LARGEST_SKIP_BYTES:
        raise InputError(
            f"{source.name} has a damaged header: its voxels begin {skip} bytes after the start of the stream. "
            "Export it again."
        )


def read_voxels(
    source: VoxelSource,
    layout: VoxelLayout,
    types: tuple[type[np.generic], ...],
    *,
    budget: ReadBudget,
    on_voxels: OnVoxels | None = None,
) -> NDArray[np.generic]:
    """Read the voxels of a file.

    Args:
        source: where they are.
        layout: shape, type and scaling.
        types: allowed result types, smallest first.
        budget: the largest image that is read.
        on_voxels: called every few megabytes where the voxels are inflated straight into the result, else never.

    Returns:
        Fortran-ordered array of ``layout.shape``.

    Raises:
        InputError: the file is truncated, damaged, larger than the budget, or holds a value that no type fits.
    """
    check_promise(source, layout, budget)
    try:
        if source.encoding in ("text", "hex"):
            return build_voxels(_from_text(source, layout), types, source.name)
        skip = _length(source, budget) - layout.byte_count if source.skip is None else source.skip
        if skip < 0:
            raise InputError(_truncated(source.name, layout.byte_count))
        try:
            return _from_stream(source, source.encoding, skip, layout, types, on_voxels)
        except DAMAGED_STREAM_ERRORS as error:
            if source.encoding != "gzip" or not is_followed(error):
                raise
            return _from_stream(source, "gzip and more", skip, layout, types, on_voxels)
    except DAMAGED_STREAM_ERRORS as error:
        raise InputError(f"{source.name} is damaged or truncated ({error}). Copy or export it again.") from error


def _from_stream(
    source: VoxelSource,
    encoding: str,
    skip: int,
    layout: VoxelLayout,
    types: tuple[type[np.generic], ...],
    on_voxels: OnVoxels | None,
) -> NDArray[np.generic]:
    with source.path.open("rb", buffering=0) as raw:
        raw.seek(source.start)
        with open_stream(raw, encoding) as stream:
            if encoding == "raw":
                stream.seek(skip, os.SEEK_CUR)
            else:
                _skip(stream, skip)
            voxels = _collect(cast("Any", stream).readinto, layout, types, source.name, on_voxels)
            if encoding == "gzip and more":
                # To the end: not all that isal met before it gave up was verified.
                inflated_size(stream, _LARGEST_SKIP_BYTES)
            elif encoding != "raw":
                check_end_of_stream(stream)
            return voxels


def _length(source: VoxelSource, budget: ReadBudget) -> int:
    """Bytes of the stream once inflated."""
    with source.path.open("rb", buffering=0) as raw:
        if source.encoding == "raw":
            return raw.seek(0, os.SEEK_END) - source.start
        raw.seek(source.start)
        with open_stream(raw, source.encoding) as stream:
            return inflated_size(stream, budget.largest_bytes + _LARGEST_SKIP_BYTES)


def _from_text(source: VoxelSource, layout: VoxelLayout) -> NDArray[Any]:
    """Voxels written as numbers, or as hexadecimal digits of their bytes; whatever follows them is left alone."""
    is_hex = source.encoding == "hex"
    values = np.empty(layout.byte_count, np.uint8) if is_hex else np.empty(math.prod(layout.shape), np.float64)
    filled = 0
    with source.path.open("rb") as stream:
        stream.seek(source.start)
        try:
            for piece in _digits(stream) if is_hex else _numbers(stream):
                count = min(piece.size, values.size - filled)
                values[filled : filled + count] = piece[:count]
                filled += count
                if filled == values.size:
                    break
        except ValueError as error:
            raise InputError(f"{source.name} is damaged: its voxels are no {source.encoding} ({error}).") from error
    if filled < values.size:
        raise InputError(_truncated(source.name, layout.byte_count))
    stored = values.view(layout.dtype) if is_hex else values
    return stored.reshape(layout.shape, order="F")


def _digits(stream: IO[bytes]) -> Iterator[NDArray[Any]]:
    """The bytes that pairs of hexadecimal digits stand for, piece by piece."""
    rest = b""
    while piece := stream.read(_INFLATE_BYTES):
        digits = rest + b"".join(piece.split())
        even = len(digits) // 2 * 2
        rest = digits[even:]
        yield np.frombuffer(bytes.fromhex(digits[:even].decode("ascii")), dtype=np.uint8)


def _numbers(stream: IO[bytes]) -> Iterator[NDArray[Any]]:
    """The numbers of a text, piece by piece."""
    rest = b""
    while piece := stream.read(_INFLATE_BYTES):
        words = (rest + piece).split()
        rest = words.pop() if words and not piece[-1:].isspace() else b""
        if len(rest) > _LONGEST_NUMBER_BYTES:
            raise ValueError("a number of more than a thousand digits")
        yield np.array(words, dtype=np.float64)
    yield np.array([rest] if rest else [], dtype=np.float64)


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        piece = stream.read(min(count, _INFLATE_BYTES))
        if not piece:
            raise EOFError("it ends inside the header")
        count -= len(piece)


def _collect(
    read_into: ReadInto,
    layout: VoxelLayout,
    types: tuple[type[np.generic], ...],
    file_name: str,
    on_voxels: OnVoxels | None,
) -> NDArray[np.generic]:
    if not layout.is_scaled and layout.dtype.newbyteorder("=") in [np.dtype(t) for t in types if t is not np.float32]:
        voxels = np.empty(layout.shape, dtype=layout.dtype, order="F")
        # Swapping the bytes of the whole at the end would change what was told of before.
        _fill(read_into, voxels, layout, file_name, on_voxels if layout.dtype.isnative else None)
        if not layout.dtype.isnative:
            voxels = voxels.byteswap(inplace=True).view(layout.dtype.newbyteorder("="))
        return voxels
    builder = VoxelBuilder(layout.shape, types, file_name)
    for slab in _slabs(read_into, layout, file_name):
        builder.add(slab)
    return builder.finish()


def _slabs(read_into: ReadInto, layout: VoxelLayout, file_name: str) -> Iterator[NDArray[Any]]:
    step = _slab_length(layout.shape, layout.dtype.itemsize)
    for start in range(0, layout.shape[-1], step):
        length = min(step, layout.shape[-1] - start)
        stored = np.empty((*layout.shape[:-1], length), dtype=layout.dtype, order="F")
        _fill(read_into, stored, layout, file_name)
        if not layout.is_scaled:
            yield stored
        else:
            yield stored * np.float64(layout.slope) + np.float64(layout.intercept)


def _fill(
    read_into: ReadInto,
    voxels: NDArray[Any],
    layout: VoxelLayout,
    file_name: str,
    on_voxels: OnVoxels | None = None,
) -> None:
    view = fortran_bytes(voxels)
    slice_bytes = max(1, len(view) // max(1, voxels.shape[-1]))
    done = reported = 0
    while done < len(view):
        count = read_into(view[done : done + _INFLATE_BYTES])
        if not count:
            raise InputError(_truncated(file_name, layout.byte_count))
        done += count
        if on_voxels is not None and done - reported >= _REPORT_BYTES:
            on_voxels(voxels, done // slice_bytes)
            reported = done


def _slab_length(shape: Sequence[int], itemsize: int) -> int:
    plane = itemsize
    for n in shape[:-1]:
        plane *= n
    return max(1, _SLAB_BYTES // max(1, plane))


def _fits(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return True
    if values.size == 0:
        return True
    limits = np.iinfo(dtype)
    if values.min() < limits.min or values.max() > limits.max:
        return False
    return values.dtype.kind in "iub" or bool((np.rint(values) == values).all())


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    """The values as whole numbers where each is one but for a rounding error (of a resampling or a scaling)."""
    whole = np.rint(values)
    return whole if bool((np.abs(whole - values) <= _NEARLY_WHOLE).all()) else values


def _unfitting(values: NDArray[Any], types: tuple[type[np.generic], ...], file_name: str) -> str:
    limits = np.iinfo(cast("Any", types[-1]))
    wrong = (values < 0) | (values > limits.max) | (np.abs(np.rint(values) - values) > _NEARLY_WHOLE)
    value = values[wrong].flat[0]
    # With every digit it has: a rounded 0.998 would be called no whole number as "1".
    text = np.format_float_positional(value, trim="-") if values.dtype.kind == "f" else str(value)
    return (
        f"{file_name} holds the voxel value {text}; a label map holds whole numbers from 0 to {limits.max}. "
        "Is this the scan instead of its labels?"
    )


def _truncated(file_name: str, needed: int) -> str:
    return (
        f"{file_name} is truncated: its header promises {needed} bytes of voxels and the file holds fewer. "
        "Copy or export it again."
    )
