"""What one DICOM file says of itself: its series, and for each image in it where it lies and what its numbers mean.

pydicom reads up to the pixels and no further; the position at which it stops tells whether there are any and whether
the file is whole. Enhanced multi-frame files give one ``Frame`` a frame, from their functional groups.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medai.errors import InputError
from medai.volume_io.dicom_fragments import compressed_problem

HEADER_KEYWORDS = (
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "Manufacturer",
    "ManufacturerModelName",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ConvolutionKernel",
    "KVP",
    "XRayTubeCurrent",
    "Exposure",
    "ReconstructionDiameter",
    "ContrastBolusAgent",
    "PatientPosition",
    "BodyPartExamined",
)
"""Facts of the acquisition that are kept. None of them says who the patient is, when or where."""

_RLE = "1.2.840.10008.1.2.5"

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    NotImplementedError,
    struct.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image of a series, as its header describes it.

    Attributes:
        path: the file; ``index`` is the frame in it, from 0.
        index: see ``path``.
        shape_ij: columns and rows.
        position_lps_mm: centre of the first voxel (ImagePositionPatient), None where absent.
        orientation: direction of i and of j in LPS (ImageOrientationPatient), None where absent.
        spacing_ij_mm: distance of columns and of rows (PixelSpacing names rows first), None where absent.
        slope: HU are ``stored * slope + intercept``.
        intercept: see ``slope``.
        padding: lowest and highest stored value that mark voxels outside the scan, or None.
        image_type: ImageType, or the frame's FrameType.
    """

    path: Path
    index: int
    shape_ij: tuple[int, int]
    position_lps_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_ij_mm: tuple[float, float] | None
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    image_type: tuple[str, ...]

    @property
    def is_localiser(self) -> bool:
        """True for the scout image that scanners put into the series."""
        return "LOCALIZER" in self.image_type


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """One file.

    Attributes:
        path: where it is.
        series_instance_uid: "" where the file is damaged before it.
        modality: for example "CT".
        frames: its images, in the file's order.
        problem: why its pixels cannot be read, or "".
        header: facts under ``HEADER_KEYWORDS``.
        patient_key: see ``patient_key_of``.
        transfer_syntax: its name.
    """

    path: Path
    series_instance_uid: str
    modality: str
    frames: tuple[Frame, ...]
    problem: str
    header: dict[str, str]
    patient_key: str
    transfer_syntax: str


def patient_key_of(patient_id: str) -> str:
    """The first 16 hex digits of the SHA-256 of an id, "" for none: keeps a patient's studies together, namelessly."""
    patient_id = patient_id.strip()
    return hashlib.sha256(patient_id.encode()).hexdigest()[:16] if patient_id else ""


def looks_like_dicom(path: Path) -> bool:
    """True for a DICOM file by its first bytes, whatever its name; DICOMDIR is an index, not an image."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    # Old files have no preamble and begin with group 0002 or 0008 in little endian.
    return head[128:] == b"DICM" or (head[:2] in (b"\x08\x00", b"\x02\x00") and head[3:4] == b"\x00")


def read_dicom_file(path: Path) -> DicomFile:
    """Read the header of a file that ``looks_like_dicom``.

    Raises:
        InputError: the header is damaged; names the file and nothing from inside it.
    """
    import pydicom

    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            # pydicom warns of each odd value, quoting it; we judge what we use, and quote nothing.
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            syntax = getattr(dataset.file_meta, "TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
            return _describe(path, dataset, syntax, stream)
    except (*_DAMAGE, pydicom.errors.BytesLengthException) as error:
        # The type alone: pydicom's messages quote values of the header.
        raise InputError(f"{path.name} is a damaged DICOM file ({type(error).__name__}). Copy it again.") from error


def _describe(path: Path, dataset: Any, syntax: Any, stream: BinaryIO) -> DicomFile:
    frame_count = int(dataset.get("NumberOfFrames", 1) or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence", None)
    shared = dataset.get("SharedFunctionalGroupsSequence", None)
    header = {}
    for keyword in HEADER_KEYWORDS:
        value = _find(dataset, None, shared[0] if shared else None, keyword)
        if value not in (None, ""):
            header[keyword] = _text(value)
    uid = str(dataset.get("SeriesInstanceUID", ""))
    frames: list[Frame] = []
    if "Rows" in dataset and "Columns" in dataset:
        for index in range(frame_count):
            per_frame = groups[index] if groups and index < len(groups) else None
            frames.append(_frame(path, index, dataset, per_frame, shared[0] if shared else None))
    return DicomFile(
        path=path,
        series_instance_uid=uid,
        modality=str(dataset.get("Modality", "")),
        frames=tuple(frames),
        problem=_pixel_problem(dataset, syntax, stream, frame_count),
        header=header,
        patient_key=patient_key_of(str(dataset.get("PatientID", "") or "")),
        transfer_syntax=str(syntax.name),
    )


def _frame(path: Path, index: int, dataset: Any, per_frame: Any, shared: Any) -> Frame:
    def numbers(keyword: str, count: int) -> tuple[float, ...] | None:
        value = _find(dataset, per_frame, shared, keyword)
        if value is None or isinstance(value, str) or len(value) != count:
            return None
        return tuple(float(v) for v in value)

    def number(keyword: str, default: float) -> float:
        value = _find(dataset, per_frame, shared, keyword)
        return default if value in (None, "") else float(value)

    spacing = numbers("PixelSpacing", 2)
    image_type = _find(dataset, per_frame, shared, "FrameType") or dataset.get("ImageType", ())
    return Frame(
        path=path,
        index=index,
        shape_ij=(int(dataset.Columns), int(dataset.Rows)),
        position_lps_mm=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing_ij_mm=None if spacing is None else (spacing[1], spacing[0]),
        slope=number("RescaleSlope", 1.0),
        intercept=number("RescaleIntercept", 0.0),
        padding=_padding(dataset),
        image_type=(image_type,) if isinstance(image_type, str) else tuple(str(part) for part in image_type),
    )


_GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "ReconstructionDiameter": "CTReconstructionSequence",
    "KVP": "CTXRayDetailsSequence",
}


def _find(dataset: Any, per_frame: Any, shared: Any, keyword: str) -> Any:
    """The value for a frame: its own functional group, then the shared one, then the file's."""
    for group in (per_frame, shared):
        sequence = group.get(_GROUP_OF[keyword], None) if group is not None and keyword in _GROUP_OF else None
        if sequence and sequence[0].get(keyword, None) is not None:
            return sequence[0].get(keyword)
    return dataset.get(keyword, None)


def _padding(dataset: Any) -> tuple[int, int] | None:
    value = dataset.get("PixelPaddingValue", None)
    if value in (None, ""):
        return None
    limit = dataset.get("PixelPaddingRangeLimit", None)
    bits = int(dataset.get("BitsAllocated", 16))
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    ends = sorted(_as_stored(int(v), bits, signed) for v in (value, value if limit in (None, "") else limit))
    return (ends[0], ends[1])


def _as_stored(value: int, bits: int, signed: bool) -> int:
    """Some scanners write −2000 as the unsigned 63536, and the other way round."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(str(v) for v in value)


def _pixel_problem(dataset: Any, syntax: Any, stream: BinaryIO, frame_count: int) -> str:
    """Why the pixels cannot be used, or ""; the stream stands where pydicom stopped."""
    if "Rows" not in dataset or "Columns" not in dataset:
        return "no pixel data"
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        return "colour pixels"
    if "ModalityLUTSequence" in dataset:
        return "a modality lookup table instead of rescale slope and intercept"
    # pydicom inflates a deflated file whole: nothing can be told from the position in it.
    return "" if syntax.is_deflated else _stream_problem(dataset, syntax, stream, frame_count)


def _stream_problem(dataset: Any, syntax: Any, stream: BinaryIO, frame_count: int) -> str:
    start = stream.tell()
    head = stream.read(12)
    order = "<" if syntax.is_little_endian else ">"
    if len(head) < 12 or struct.unpack(f"{order}HH", head[:4]) != (0x7FE0, 0x0010):
        return "no pixel data"
    data_start = start + (8 if syntax.is_implicit_VR else 12)
    shape_ij = (int(dataset.Columns), int(dataset.Rows))
    sample_bytes = int(dataset.BitsAllocated) // 8
    if syntax.is_compressed:
        return compressed_problem(stream, data_start, shape_ij, sample_bytes if syntax == _RLE else 0)
    end = data_start + sample_bytes * shape_ij[0] * shape_ij[1] * frame_count
    return "a truncated image" if end > os.fstat(stream.fileno()).st_size else ""


def patient_words(path: Path) -> set[str]:
    """Words of a file's patient name and ids, lower case: what must not appear in a name we give to the scan."""
    import pydicom

    keywords = ("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName")
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(keywords))
        text = " ".join(str(dataset.get(keyword, "") or "") for keyword in keywords)
    except (*_DAMAGE, pydicom.errors.BytesLengthException):
        return set()
    return {word for word in re.split(r"[\s^=,\\'\"\[\]]+", text.lower()) if len(word) > 1}
