"""Writing scans and label maps: atomic, and fast enough to answer a click."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.geometry.frames import affine_ras_to_lps
from medai.volume_io.atomic import atomic_path
from medai.volume_io.gzip_stream import deflate, fortran_bytes, open_deflated
from medai.volume_io.meta_image import write_meta_image
from medai.volume_io.segments import segment_header_fields

_NRRD_TYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "float32": "float"}


def write_label_map(label_map: LabelMap, path: Path) -> None:
    """Write a label map: uint8 where its values allow, else uint16.

    Args:
        label_map: what to write.
        path: ``.nrrd`` or ``.seg.nrrd`` (with the names and colours 3D Slicer shows), ``.nii.gz``, ``.nii``,
            ``.mha``; the folder must exist. An existing file is replaced in one step.

    Raises:
        InputError: another ending.
        StorageError: the disk refuses.
    """
    name = path.name.lower()
    if name.endswith(".nrrd"):
        with atomic_path(path) as temporary:
            temporary.write_bytes(encode_label_map_nrrd(label_map))
        return
    _write(path, _compact_labels(label_map), label_map.geometry)


def write_volume(volume: Volume, path: Path) -> None:
    """Write a scan as ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``; int16 and float32 are kept.

    Raises:
        InputError: another ending.
        StorageError: the disk refuses.
    """
    image_hu = volume.image_hu
    if image_hu.dtype not in (np.int16, np.float32):
        raise InputError(f"A scan is written as int16 or float32, this one is {image_hu.dtype}.")
    _write(path, image_hu, volume.geometry)


def encode_label_map(label_map: LabelMap, extension: str) -> bytes:
    """Encode a label map as the content of a file; nothing touches the disk but for ``.mha``, which ITK writes.

    Args:
        label_map: what to encode.
        extension: as for ``write_label_map``.

    Raises:
        InputError: another ending.
        StorageError: the disk refuses (``.mha``).
    """
    if extension.endswith(".nrrd"):
        return encode_label_map_nrrd(label_map)
    if extension in (".nii", ".nii.gz"):
        labels = _compact_labels(label_map)
        content = b"".join((_nifti_header(labels.dtype, label_map.geometry), fortran_bytes(labels)))
        return content if extension == ".nii" else deflate(memoryview(content))
    with tempfile.TemporaryDirectory(prefix="medai-") as folder:
        path = Path(folder) / f"label{extension}"
        write_label_map(label_map, path)
        return path.read_bytes()


def encode_label_map_nrrd(label_map: LabelMap) -> bytes:
    """The label map as a gzip-compressed .seg.nrrd in memory, in one gzip member: what a click is answered with."""
    labels = _compact_labels(label_map)
    fields = segment_header_fields(label_map.segments, label_map.geometry)
    header = _nrrd_header(label_map.geometry, labels.dtype, fields)
    return header + deflate(fortran_bytes(labels))


def _write(path: Path, voxels: NDArray[np.generic], geometry: VolumeGeometry) -> None:
    name = path.name.lower()
    for suffix, write in _WRITERS.items():
        if name.endswith(suffix):
            # ITK writes one file or two, depending on the ending.
            with atomic_path(path, ending=".mha" if suffix == ".mha" else ".part") as temporary:
                write(temporary, voxels, geometry)
            return
    raise InputError(f"'{path.name}' has an ending medai does not write. It writes {', '.join(_WRITERS)}.")


def _write_nifti(path: Path, voxels: NDArray[np.generic], geometry: VolumeGeometry) -> None:
    with path.open("wb") as stream:
        stream.write(_nifti_header(voxels.dtype, geometry))
        stream.write(fortran_bytes(voxels))


def _write_compressed_nifti(path: Path, voxels: NDArray[np.generic], geometry: VolumeGeometry) -> None:
    with path.open("wb") as raw, open_deflated(raw) as stream:
        stream.write(_nifti_header(voxels.dtype, geometry))
        stream.write(fortran_bytes(voxels))


def _write_nrrd(path: Path, voxels: NDArray[np.generic], geometry: VolumeGeometry) -> None:
    with path.open("wb") as raw:
        raw.write(_nrrd_header(geometry, voxels.dtype, {}))
        with open_deflated(raw) as stream:
            stream.write(fortran_bytes(voxels))


_WRITERS: dict[str, Callable[[Path, NDArray[np.generic], VolumeGeometry], None]] = {
    ".nii.gz": _write_compressed_nifti,
    ".nii": _write_nifti,
    ".nrrd": _write_nrrd,
    ".mha": write_meta_image,
}


def _compact_labels(label_map: LabelMap) -> NDArray[Any]:
    """The labels as Fortran-ordered uint8 or uint16."""
    labels = np.asarray(label_map.labels)
    largest = max([int(labels.max()), *(segment.value for segment in label_map.segments)])
    if largest > np.iinfo(np.uint16).max or (labels.dtype.kind != "u" and int(labels.min()) < 0):
        raise InputError(f"A label map holds values from 0 to 65535, this one goes from {labels.min()} to {largest}.")
    dtype = np.dtype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)
    if labels.dtype == dtype and labels.flags.f_contiguous:
        return labels
    # Copying in another order is slow, and a label map is nearly all zero: copy the part that is not.
    box = IndexBox.of_mask(labels)
    compact: NDArray[Any] = np.zeros(labels.shape, dtype=dtype, order="F")
    if box is not None:
        compact[box.slices] = labels[box.slices]
    return compact


def _nifti_header(dtype: np.dtype[Any], geometry: VolumeGeometry) -> bytes:
    import nibabel as nib

    header: Any = cast("Any", nib.Nifti1Header)(endianness="<")
    header.set_data_shape(geometry.shape_ijk)
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm")
    header.set_sform(geometry.affine_ijk_to_ras_mm, code="scanner")
    header.set_qform(geometry.affine_ijk_to_ras_mm, code="scanner", strip_shears=True)
    header.set_slope_inter(1.0, 0.0)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    # Four zero bytes: no header extension follows.
    return bytes(header.binaryblock) + b"\0\0\0\0"


def _nrrd_header(geometry: VolumeGeometry, dtype: np.dtype[Any], fields: dict[str, str]) -> bytes:
    affine_lps = affine_ras_to_lps(geometry.affine_ijk_to_ras_mm)
    lines = [
        "NRRD0005",
        f"type: {_NRRD_TYPES[dtype.name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in geometry.shape_ijk)}",
        f"space directions: {' '.join(_vector(affine_lps[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(affine_lps[:3, 3])}",
        *(f"{key}:={value}" for key, value in fields.items()),
    ]
    return ("\n".join(lines) + "\n\n").encode("utf-8")


def _vector(values: NDArray[np.float64]) -> str:
    """A vector with every digit a float64 has, and no negative zeros."""
    return f"({','.join(repr(float(v)) if not math.isclose(v, 0, abs_tol=1e-300) else '0' for v in values)})"
