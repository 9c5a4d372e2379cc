"""Where a NIfTI file lies in the patient: as ITK, and so 3D Slicer, decides it, not as nibabel does.

A header has two forms, the qform (a rotation) and the sform (any affine), each with a code, and voxel sizes of its own
(pixdim). nibabel takes the sform wherever its code is set, sizes included. ITK 5.4 (``NiftiImageIO``, checked against
the library by the tests) takes directions and origin of the sform only where its columns are at right angles and no
qform stands against it or its code is 1 (scanner), else those of the qform; sizes are always pixdim. An annotator sees
the scan in 3D Slicer, so that is where it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.axes import file_geometry
from medai.volume_io.gzip_stream import DAMAGED_STREAM_ERRORS, open_stream

_GZIP_START = b"\x1f\x8b"
_HEADER_BYTES = {348: 1, 540: 2}
_SMALLEST_OFFSET = {1: 352, 2: 544}
_ORTHONORMAL_TOLERANCE = 1e-4
_REPORTED_VOXELS = 0.1
# The header stores the unit of length; files without one are in millimetres by custom (ITK and nibabel agree).
_UNIT_BITS = 7
_UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
_STORED_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {
    1: "bits", 32: "complex numbers", 128: "colours (RGB)", 1536: "128-bit numbers", 1792: "complex numbers",
    2048: "complex numbers", 2304: "colours (RGBA)",
}  # fmt: skip
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """What a header says of the voxels.

    Attributes:
        geometry: the grid, where 3D Slicer has it.
        dtype: as stored, with its byte order.
        slope: the value is ``stored * slope + intercept``.
        intercept: see ``slope``.
        offset: bytes of the (inflated) file before the first voxel.
        is_for_slicer: True where 3D Slicer reads it too. ITK opens no NIfTI-2, and begins at byte 348 where the header
            says less than 352, which shifts the image by a few voxels.
        notes: what an annotator should know of the place, in sentences.
    """

    geometry: VolumeGeometry
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    is_for_slicer: bool
    notes: tuple[str, ...]


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read the header alone, without extensions.

    Raises:
        InputError: not NIfTI, damaged, or no scalar image of three axes.
        GeometryError: it has no usable place.
    """
    fields, version = _fields(path)
    name = path.name
    slope, intercept = _scaling(fields, name)
    geometry, notes = _placed(fields, _shape(fields, name), name)
    return NiftiHeader(
        geometry=geometry,
        dtype=_dtype(fields, name),
        slope=slope,
        intercept=intercept,
        offset=_offset(fields, version),
        is_for_slicer=version == 1
        and float(fields["vox_offset"]) >= _SMALLEST_OFFSET[version]
        # It inflates by the name, and reads what is not compressed under either one.
        and (path.name.lower().endswith(".gz") or not is_gzipped(path)),
        notes=notes,
    )


def is_gzipped(path: Path) -> bool:
    """True by the first bytes: names are wrong either way round."""
    with path.open("rb") as stream:
        return stream.read(2) == _GZIP_START


def _fields(path: Path) -> tuple[Any, int]:
    """The header as nibabel names its fields, and 1 or 2 for its version."""
    import nibabel as nib

    try:
        with path.open("rb", buffering=0) as raw:
            if is_gzipped(path):
                # Looking ahead in a small file, isal would stumble over what follows its end.
                with open_stream(raw, "gzip and more") as stream:
                    block = _read_up_to(stream, max(_HEADER_BYTES))
            else:
                block = raw.read(max(_HEADER_BYTES))
    except DAMAGED_STREAM_ERRORS as error:
        raise InputError(f"{path.name} is damaged or truncated ({error}). Copy or export it again.") from error
    if len(block) < min(_HEADER_BYTES):
        raise InputError(
            f"{path.name} is not a readable NIfTI file: it holds {len(block)} bytes and a header has 348. "
            "Copy or export it again."
        )
    for endian in "<>":
        size = struct.unpack_from(f"{endian}i", block)[0]
        if size in _HEADER_BYTES and len(block) >= size:
            version = _HEADER_BYTES[size]
            header: Any = nib.Nifti1Header if version == 1 else nib.Nifti2Header
            fields = header(binaryblock=block[:size], endianness=endian, check=False)
            _check_magic(bytes(fields["magic"])[:4], version, path.name)
            return fields, version
    raise InputError(
        f"{path.name} is not a readable NIfTI file: its header says that it is {struct.unpack_from('<i', block)[0]} "
        "bytes long, not 348 or 540. Export the scan as .nii.gz."
    )


def _read_up_to(stream: IO[bytes], count: int) -> bytes:
    block = b""
    while len(block) < count and (piece := stream.read(count - len(block))):
        block += piece
    return block


def _check_magic(magic: bytes, version: int, name: str) -> None:
    magic = magic.rstrip(b"\0")
    if magic == b"n+%d" % version:
        return
    if magic == b"ni%d" % version:
        raise InputError(
            f"{name} is the header of a pair: its voxels are in an .img file beside it. Save the scan as one .nii.gz."
        )
    raise InputError(
        f"{name} is not a readable NIfTI file: it is marked {magic.decode('ascii', 'replace')!a} and not 'n+{version}' "
        "(Analyze files have no mark and no place in the patient). Export the scan as .nii.gz."
    )


def _shape(fields: Any, name: str) -> tuple[int, int, int]:
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise InputError(f"{name} has a damaged NIfTI header: it counts {axes} axes. Copy or export it again.")
    shape = [int(n) for n in fields["dim"][1 : axes + 1]]
    while len(shape) > 3 and shape[-1] <= 1:
        shape.pop()
    if len(shape) != 3:
        raise InputError(
            f"{name} has {len(shape)} axes ({'×'.join(map(str, shape))}); a scan has three. Export one volume of it."
        )
    if min(shape) < 1:
        raise InputError(
            f"{name} has a damaged NIfTI header: {'×'.join(map(str, shape))} voxels. Copy or export it again."
        )
    return (shape[0], shape[1], shape[2])


def _dtype(fields: Any, name: str) -> np.dtype[Any]:
    code = int(fields["datatype"])
    if code not in _STORED_TYPES:
        what = _OTHER_TYPES.get(code, "voxels of no known type")
        raise InputError(f"{name} holds {what} (datatype {code}), not Hounsfield units. Export the scan itself.")
    return np.dtype(fields.endianness + _STORED_TYPES[code])


def _scaling(fields: Any, name: str) -> tuple[float, float]:
    """Slope and intercept. The standard ignores the intercept of a slope of 0, ITK adds it: such a file is refused."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if np.isfinite(slope) and slope != 0:
        if not np.isfinite(intercept):
            raise InputError(
                f"{name} has the slope {slope:g} and the intercept {intercept:g}: its values are not known. "
                "Export the scan again."
            )
        return slope, intercept
    if np.isfinite(intercept) and intercept != 0:
        raise InputError(
            f"{name} has the slope {slope:g} with the intercept {intercept:g}: by the NIfTI standard that means no "
            "scaling, 3D Slicer adds the intercept. Write scl_slope 1 for values with it, or scl_inter 0 for values "
            "without it."
        )
    return 1.0, 0.0


def _offset(fields: Any, version: int) -> int:
    """The first voxel's byte; what ITK does: whole bytes, and never inside the header."""
    stated = float(fields["vox_offset"])
    return max(int(stated) if np.isfinite(stated) else 0, _SMALLEST_OFFSET[version])


def _placed(fields: Any, shape: tuple[int, int, int], name: str) -> tuple[VolumeGeometry, tuple[str, ...]]:
    unit_mm = _UNIT_MM.get(int(fields["xyzt_units"]) & _UNIT_BITS, 1.0)
    sizes = fields["pixdim"][1:4].astype(np.float64)
    # As niftilib mends them; a negative size turns its axis round.
    sizes[~np.isfinite(sizes) | (sizes == 0)] = 1.0
    qform = _qform(fields) if int(fields["qform_code"]) > 0 else None
    sform = _sform(fields) if int(fields["sform_code"]) > 0 else None
    if qform is None and sform is None:
        affine = np.eye(4)
        affine[:3, :3] = _RAS_FROM_LPS
        note = f"{name} states no place in the patient (both form codes are 0): taken as 3D Slicer takes it, as LPS."
        return file_geometry(shape, _with_sizes(affine, sizes, unit_mm), name), (note,)
    used = sform if sform is not None and _is_orthonormal(sform) else None
    if used is None or (qform is not None and int(fields["sform_code"]) != 1):
        if used is not None and qform is not None:
            _refuse_mirrored(used, qform, fields["pixdim"][1:4], name)
        used = qform
    if used is None:
        raise GeometryError(_sheared(sform, name))
    geometry = file_geometry(shape, _with_sizes(used, sizes, unit_mm), name)
    others = [("qform", qform), ("sform", sform)]
    notes = [_apart(geometry, form, which, unit_mm, name) for which, form in others if form is not None]
    return geometry, tuple(note for note in notes if note)


def _with_sizes(affine: NDArray[np.float64], sizes: NDArray[np.float64], unit_mm: float) -> NDArray[np.float64]:
    """The affine with columns as long as the sizes; as it is where they are so already, to the last digit stored."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    placed = affine.copy()
    if not np.allclose(lengths, sizes, rtol=1e-6, atol=0.0):
        placed[:3, :3] *= sizes / lengths
    placed[:3] *= unit_mm
    return placed


def _qform(fields: Any) -> NDArray[np.float64]:
    """The rotation of the quaternion, its axis k reversed where qfac is negative, and the origin; no sizes."""
    b, c, d = (float(fields[f"quatern_{letter}"]) for letter in "bcd")
    square = 1.0 - (b * b + c * c + d * d)
    if square < 1e-7:
        length = float(np.sqrt(b * b + c * c + d * d))
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = float(np.sqrt(square))
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ]
    if float(fields["pixdim"][0]) < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = [float(fields[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _sform(fields: Any) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3] = [fields[f"srow_{axis}"] for axis in "xyz"]
    return affine


def _is_orthonormal(affine: NDArray[np.float64]) -> bool:
    """ITK's question, in its single precision: are the columns, each of length 1, at right angles?"""
    matrix = affine[:3, :3].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(lengths).all() or not lengths.all():
        return False
    unit = matrix / lengths
    return bool(np.max(np.abs(unit @ unit.T - np.eye(3, dtype=np.float32))) <= _ORTHONORMAL_TOLERANCE)


def _refuse_mirrored(sform: NDArray[np.float64], qform: NDArray[np.float64], pixdim: NDArray[Any], name: str) -> None:
    """Refuse forms that differ by reversed axes alone.

    ITK compares two forms by one side of their singular value decomposition: whether it calls these alike, and takes
    the sform, hangs on the rounding. Forms that are alike indeed are within 1e-4 of each other, whichever is taken.
    """
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    cosines = np.sum(sform[:3, :3] / lengths * qform[:3, :3], axis=0)
    apart = [
        np.abs(lengths - np.where(pixdim > 0, pixdim, 1.0)),
        np.abs(sform[:3, 3] - qform[:3, 3]),
        1 - np.abs(cosines),
    ]
    if np.max(apart) <= 2 * _ORTHONORMAL_TOLERANCE and np.min(cosines) < 0:
        raise GeometryError(
            f"{name} has an sform and a qform that are mirror images of each other ({np.count_nonzero(cosines < 0)} of "
            "three axes run the other way); it is not known which one is right. Convert the DICOM series again, or "
            "remove the wrong form (set its code to 0)."
        )


def _sheared(sform: NDArray[np.float64] | None, name: str) -> str:
    rows = np.round(sform[:3, :3], 5).tolist() if sform is not None else []
    return (
        f"{name} has an sform whose axes are not at right angles ({rows}) and no qform; 3D Slicer does not open it "
        "either. Convert the DICOM series again ('medai import' reads it), or resample the scan to axes at right "
        "angles with the program that wrote it."
    )


def _apart(geometry: VolumeGeometry, form: NDArray[np.float64], which: str, unit_mm: float, name: str) -> str:
    """A sentence where a form puts some voxel elsewhere than 3D Slicer has it, else ""."""
    affine = form.copy()
    if which == "qform":
        affine[:3, :3] *= geometry.spacing_mm
        affine[:3, 3] *= unit_mm
    else:
        affine[:3] *= unit_mm
    shape = np.asarray(geometry.shape_ijk)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    offset_mm = corners @ affine[:3, :3].T + affine[:3, 3] - geometry.ijk_to_ras(corners)
    if np.isfinite(offset_mm).all():
        off_voxels = float(np.max(np.abs(np.linalg.solve(geometry.affine_ijk_to_ras_mm[:3, :3], offset_mm.T))))
        if off_voxels <= _REPORTED_VOXELS:
            return ""
        off = f"up to {np.max(np.linalg.norm(offset_mm, axis=1)):.1f} mm away ({off_voxels:.1f} voxels)"
    else:
        off = "nowhere (it holds no numbers)"
    return (
        f"{name} is placed where 3D Slicer places it; its {which} has it {off}. Programs that go by the {which} "
        "(nibabel takes the sform) show it there."
    )
