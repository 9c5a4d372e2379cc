"""Stored values of DICOM images: uncompressed ones read as they lie in the file, compressed ones decoded by ITK's GDCM.

GDCM gets a copy that holds the compressed fragments and nothing of the header but size and depth: what it would do with
the rest (invert MONOCHROME1, rescale, apply palettes and overlays) cannot happen, whatever its version does.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError
from medai.volume_io.dicom_format import PixelFormat
from medai.volume_io.dicom_headers import inflate

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MULTI_FRAME_CAPTURES = {8: "1.2.840.10008.5.1.4.1.1.7.2", 16: "1.2.840.10008.5.1.4.1.1.7.3"}
_INSTANCE = "2.25.1"


class StoredValues:
    """Reads stored values frame by frame; keeps what it decoded of the last file that has to be decoded whole."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._cells: NDArray[Any] = np.empty((0, 0, 0), dtype=np.uint16)

    def frame(self, pixels: PixelFormat, index: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """One image.

        Returns:
            Stored values indexed [i, j], and a mask of those that are padding, None where there are none.

        Raises:
            InputError: the file cannot be decoded, or holds more than its header says.
        """
        if pixels.is_compressed or pixels.is_deflated:
            if pixels.path != self._path:
                self._cells = _decoded(pixels) if pixels.is_compressed else _inflated(pixels)
                self._path = pixels.path
            cells = self._cells[index]
        else:
            cells = _uncompressed(pixels, index)
        return _samples(cells.T, pixels)


def _cell_type(pixels: PixelFormat) -> np.dtype[Any]:
    order = "<" if pixels.is_little_endian else ">"
    return np.dtype(f"{order}u{pixels.bits_allocated // 8}")


def _uncompressed(pixels: PixelFormat, index: int) -> NDArray[Any]:
    columns, rows = pixels.shape_ij
    try:
        cells = np.fromfile(
            pixels.path,
            dtype=_cell_type(pixels),
            count=columns * rows,
            offset=pixels.start + index * pixels.frame_bytes,
        )
    except OSError as error:
        raise InputError(f"{pixels.path.name} cannot be read: {error.strerror}.") from error
    if cells.size < columns * rows:
        raise InputError(f"{pixels.path.name} has a truncated image. Copy or export the series again.")
    return cells.reshape(rows, columns)


def _inflated(pixels: PixelFormat) -> NDArray[Any]:
    columns, rows = pixels.shape_ij
    whole = inflate(pixels.path)
    cells = np.frombuffer(whole, dtype=_cell_type(pixels), count=pixels.size // (pixels.bits_allocated // 8),
                          offset=pixels.start)  # fmt: skip
    return cells.reshape(pixels.frame_count, rows, columns)


def _samples(cells: NDArray[Any], pixels: PixelFormat) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Take the samples out of their cells (PS3.5 section 8.1.1), and find the padding."""
    signed_cells = cells.view(np.dtype(f"{cells.dtype.byteorder}i{cells.dtype.itemsize}"))
    if pixels.bits_stored == pixels.bits_allocated:
        stored = signed_cells if pixels.is_signed else cells
        return stored, _padding_mask(stored, pixels)
    shift = pixels.high_bit + 1 - pixels.bits_stored
    mask = (1 << pixels.bits_stored) - 1
    samples = ((cells >> shift) & mask if shift else cells & mask).astype(np.int32)
    if pixels.is_signed:
        samples -= (samples >> (pixels.bits_stored - 1)) << pixels.bits_stored
    padding = _padding_mask(samples, pixels)
    # Padding may be a value that the sample's bits cannot hold: −2000 written into 16 bits of which 12 count.
    in_cells = _padding_mask(signed_cells if pixels.is_signed else cells, pixels) if shift == 0 else None
    if in_cells is not None:
        padding = in_cells if padding is None else padding | in_cells
    _check_outside(cells, samples, shift, padding, pixels)
    return samples, padding


def _check_outside(
    cells: NDArray[Any], samples: NDArray[Any], shift: int, padding: NDArray[np.bool_] | None, pixels: PixelFormat
) -> None:
    """Refuse bits outside the sample that are no overlay, no sign and no padding: the header is wrong about them."""
    all_bits = (1 << pixels.bits_allocated) - 1
    outside = all_bits & ~(((1 << pixels.bits_stored) - 1) << shift) & ~pixels.overlay_mask
    odd = (cells & np.array(outside, dtype=cells.dtype)) != 0
    if padding is not None:
        odd &= ~padding
    if not odd.any():
        return
    if pixels.is_signed:
        extended = (samples.astype(np.int64) << shift) & all_bits & outside
        odd &= (cells & np.array(outside, dtype=cells.dtype)).astype(np.int64) != extended
        if not odd.any():
            return
    raise InputError(
        f"{pixels.path.name} has {int(odd.sum())} pixels with bits outside the {pixels.bits_stored} that its header "
        f"gives them (BitsStored {pixels.bits_stored}, HighBit {pixels.high_bit}), and no overlay has those bits: the "
        "numbers cannot be trusted. Export the series again from where it came."
    )


def _padding_mask(stored: NDArray[Any], pixels: PixelFormat) -> NDArray[np.bool_] | None:
    if pixels.padding is None:
        return None
    low, high = pixels.padding
    mask = stored == low if low == high else (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _decoded(pixels: PixelFormat) -> NDArray[Any]:
    """Cells [frame, row, column] of a compressed file."""
    import itk

    with tempfile.TemporaryDirectory(prefix="medai-dicom-") as folder:
        bare = Path(folder) / "pixels.dcm"
        _write_bare(pixels, bare)
        image_io = itk.GDCMImageIO.New()
        image_io.SetFileName(str(bare))
        try:
            image_io.ReadImageInformation()
            reader = itk.ImageFileReader[itk.Image[_pixel_type(image_io), 3]].New()
            reader.SetImageIO(image_io)
            reader.SetFileName(str(bare))
            reader.Update()
        except RuntimeError as error:
            raise InputError(
                f"The pixels of {pixels.path.name} cannot be decoded: it is damaged or in a compression GDCM does not "
                "know."
            ) from error
        frames: NDArray[Any] = itk.array_from_image(reader.GetOutput())
    columns, rows = pixels.shape_ij
    if frames.shape != (pixels.frame_count, rows, columns):
        raise InputError(
            f"{pixels.path.name} decodes to {frames.shape[2]}×{frames.shape[1]} pixels and {len(frames)} frames, its "
            f"header says {columns}×{rows} and {pixels.frame_count}. Export the series again."
        )
    cell_type = np.dtype(f"u{pixels.bits_allocated // 8}")
    lowest, highest = int(frames.min()), int(frames.max())
    if not -(1 << (pixels.bits_allocated - 1)) <= lowest <= highest < 1 << pixels.bits_allocated:
        raise InputError(
            f"{pixels.path.name} decodes to values from {lowest} to {highest}, more than BitsAllocated "
            f"{pixels.bits_allocated} holds. Export the series again."
        )
    return frames.astype(cell_type, copy=False)


def _pixel_type(image_io: Any) -> Any:
    import itk

    kinds = itk.CommonEnums
    return {
        kinds.IOComponent_UCHAR: itk.US,
        kinds.IOComponent_CHAR: itk.SS,
        kinds.IOComponent_USHORT: itk.US,
        kinds.IOComponent_SHORT: itk.SS,
    }.get(image_io.GetComponentType(), itk.D)


def _write_bare(pixels: PixelFormat, bare: Path) -> None:
    """A DICOM file of the compressed fragments alone; its samples fill the cells, ``_samples`` takes them out."""
    with pixels.path.open("rb") as stream:
        stream.seek(pixels.start)
        fragments = stream.read(pixels.size)
    capture = _SECONDARY_CAPTURE
    if pixels.frame_count > 1:
        capture = _MULTI_FRAME_CAPTURES.get(pixels.bits_allocated, _SECONDARY_CAPTURE)
    meta = (
        _element(0x0002, 0x0001, b"OB", b"\0\1")
        + _element(0x0002, 0x0002, b"UI", capture.encode())
        + _element(0x0002, 0x0003, b"UI", _INSTANCE.encode())
        + _element(0x0002, 0x0010, b"UI", pixels.syntax_uid.encode())
    )
    columns, rows = pixels.shape_ij
    allocated = pixels.bits_allocated
    body = (
        _element(0x0008, 0x0016, b"UI", capture.encode())
        + _element(0x0008, 0x0018, b"UI", _INSTANCE.encode())
        + _element(0x0028, 0x0002, b"US", struct.pack("<H", 1))
        + _element(0x0028, 0x0004, b"CS", b"MONOCHROME2")
        + (_element(0x0028, 0x0008, b"IS", str(pixels.frame_count).encode()) if pixels.frame_count > 1 else b"")
        + _element(0x0028, 0x0010, b"US", struct.pack("<H", rows))
        + _element(0x0028, 0x0011, b"US", struct.pack("<H", columns))
        + _element(0x0028, 0x0100, b"US", struct.pack("<H", allocated))
        + _element(0x0028, 0x0101, b"US", struct.pack("<H", allocated))
        + _element(0x0028, 0x0102, b"US", struct.pack("<H", allocated - 1))
        + _element(0x0028, 0x0103, b"US", struct.pack("<H", 0))
    )
    with bare.open("wb") as stream:
        stream.write(bytes(128) + b"DICM" + _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta))) + meta + body)
        stream.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
        stream.write(fragments)
        stream.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))


def _element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value += b"" if len(value) % 2 == 0 else b"\0" if vr in (b"UI", b"OB") else b" "
    if vr == b"OB":
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value
