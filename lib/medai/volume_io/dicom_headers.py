"""What one DICOM file says of itself: its series, and for each image in it where it lies and what its numbers mean.

pydicom reads up to the pixels and no further; the position at which it stops tells whether there are any and whether
the file is whole. Enhanced multi-frame files give one ``Frame`` a frame, from their functional groups.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from medai.errors import InputError
from medai.volume_io.dicom_format import PixelFormat, read_format
from medai.volume_io.dicom_kinds import SCREENSHOT, image_kind
from medai.volume_io.dicom_rescale import read_rescale
from medai.volume_io.dicom_values import HeaderValues

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

SHOWN_TRAITS = (
    "ConvolutionKernel",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "ImageType",
    "MonoenergeticEnergyEquivalent",
    "KVP",
    "SeriesNumber",
    "EchoTime",
    "StackID",
    "FilterType",
    "ReconstructionAlgorithm",
    "ReconstructionDiameter",
    "SliceThickness",
    "SpiralPitchFactor",
)
"""What may tell the scans apart that share a series UID, with values that cannot say who the patient is or when."""

TRAIT_KEYWORDS = (
    *SHOWN_TRAITS,
    "PatientSex",
    "PatientBirthDate",
    "PatientName",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "ProtocolName",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
    "IrradiationEventUID",
    "ContrastBolusAgent",
    "ScanOptions",
    "ReconstructionTargetCenterPatient",
    "ImageComments",
    "DerivationDescription",
    "ContentTime",
    "StationName",
    "ManufacturerModelName",
)
"""All that may; the values of the others are compared and never shown."""

FILE_OF_FRAMES = "SOPInstanceUID"
"""A trait of the frames of multi-frame files alone: a file holds the frames of one pass."""

_INDEX_CLASS = "1.2.840.10008.1.3.10"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_INFLATED = 1 << 31

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

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
        pixels: how they are stored; None where they cannot be used, see the file's problem.
        image_type: ImageType, or the frame's FrameType.
        kind: what it shows, "" for a slice of a scan (``image_kind``).
        problem: what in its header cannot be understood, or "".
        not_hu: why its numbers give no Hounsfield units, or "".
        traits: values under ``TRAIT_KEYWORDS``, where there are any.
        instance_uid: SOPInstanceUID.
        instance_number: InstanceNumber, None where there is none; of a multi-frame file, the frame's place in it.
        patient_key: see ``patient_key_of``.
        study_uid: StudyInstanceUID.
    """

    path: Path
    index: int
    shape_ij: tuple[int, int]
    position_lps_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_ij_mm: tuple[float, float] | None
    slope: float
    intercept: float
    pixels: PixelFormat | None
    image_type: tuple[str, ...]
    kind: str
    problem: str
    not_hu: str
    traits: dict[str, str] = field(repr=False)
    instance_uid: str
    instance_number: float | None
    patient_key: str
    study_uid: str = field(repr=False)

    @property
    def has_place(self) -> bool:
        """True where the header says where the image lies."""
        return None not in (self.position_lps_mm, self.orientation, self.spacing_ij_mm)


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
        is_index: a DICOMDIR, whatever its name.
    """

    path: Path
    series_instance_uid: str
    modality: str
    frames: tuple[Frame, ...]
    problem: str
    header: dict[str, str]
    patient_key: str
    transfer_syntax: str
    is_index: bool = False


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


def is_meant_as_dicom(path: Path) -> bool:
    """True for a DICOM file, and for what is called one: a slice that was copied empty is missed, not passed over."""
    is_called_so = path.suffix.lower() in _DICOM_SUFFIXES and not path.name.startswith(".") and path.is_file()
    return is_called_so or looks_like_dicom(path)


def is_dicom_index(path: Path) -> bool:
    """True for a DICOMDIR, by its name and first bytes."""
    if path.name.upper() != "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


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
            is_deflated = _DEFLATED in stream.read(1024)
            stream.seek(0)
            source: BinaryIO = io.BytesIO(inflate(path)) if is_deflated else stream
            dataset = pydicom.dcmread(source, stop_before_pixels=True, force=True)
            plain = pydicom.uid.ExplicitVRLittleEndian if is_deflated else pydicom.uid.ImplicitVRLittleEndian
            syntax = getattr(dataset.file_meta, "TransferSyntaxUID", plain)
            return _describe(path, dataset, syntax, source, is_deflated=is_deflated)
    except (*_DAMAGE, pydicom.errors.BytesLengthException) as error:
        # The type alone: pydicom's messages quote values of the header.
        raise InputError(f"{path.name} is a damaged DICOM file ({type(error).__name__}). Copy it again.") from error


def inflate(path: Path) -> bytes:
    """The data set of a file in the deflated transfer syntax, as explicit little endian without file meta group.

    Raises:
        InputError: damaged, or larger than any scan.
    """
    with path.open("rb") as stream:
        head = stream.read(144)
        # The first element of the meta group says how long it is (PS3.10 7.1).
        if head[128:138] != b"DICM\x02\x00\x00\x00UL":
            raise InputError(f"{path.name} is a damaged DICOM file (no file meta group). Copy it again.")
        stream.seek(144 + struct.unpack("<I", head[140:144])[0])
        packed = stream.read()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = inflater.decompress(packed, _LARGEST_INFLATED)
    except zlib.error as error:
        raise InputError(f"{path.name} is a damaged DICOM file ({error}). Copy it again.") from error
    if inflater.unconsumed_tail:
        raise InputError(f"{path.name} inflates to more than {_LARGEST_INFLATED >> 30} GB, which no scan needs.")
    if not inflater.eof:
        raise InputError(f"{path.name} is truncated: its deflated data end early. Copy it again.")
    return whole


def _describe(path: Path, dataset: Any, syntax: Any, stream: BinaryIO, *, is_deflated: bool) -> DicomFile:
    groups = dataset.get("PerFrameFunctionalGroupsSequence", None)
    shared_groups = dataset.get("SharedFunctionalGroupsSequence", None)
    shared = shared_groups[0] if shared_groups else None
    values = HeaderValues(dataset=dataset, shared=shared)
    header = {keyword: text for keyword in HEADER_KEYWORDS if (text := values.shown(keyword))}
    pixels = read_format(path, dataset, syntax, stream, is_deflated=is_deflated)
    problem = pixels if isinstance(pixels, str) else ""
    if groups and not problem and len(groups) > values.whole("NumberOfFrames", 1):
        problem = f"{len(groups)} descriptions of frames where its header counts {values.text('NumberOfFrames')}"
    found = None if isinstance(pixels, str) or problem else pixels
    patient_key = patient_key_of(str(dataset.get("PatientID", "") or ""))
    frames: list[Frame] = []
    if "Rows" in dataset and "Columns" in dataset:
        # A count that the pixels do not bear out is a problem already; it is not counted up to.
        for index in range(found.frame_count if found else 1):
            per_frame = groups[index] if groups and index < len(groups) else None
            frame_values = HeaderValues(dataset=dataset, per_frame=per_frame, shared=shared)
            frames.append(_frame(path, index, frame_values, found, problem, patient_key))
    return DicomFile(
        path=path,
        series_instance_uid=values.text("SeriesInstanceUID"),
        modality=values.text("Modality"),
        frames=tuple(frames),
        problem=problem,
        header=header,
        patient_key=patient_key,
        transfer_syntax=str(syntax.name),
        is_index="DirectoryRecordSequence" in dataset
        or str(getattr(dataset.file_meta, "MediaStorageSOPClassUID", "")) == _INDEX_CLASS,
    )


def _frame(
    path: Path, index: int, values: HeaderValues, pixels: PixelFormat | None, file_problem: str, patient_key: str
) -> Frame:
    image_type = tuple(part.strip() for part in (values.text("FrameType") or values.text("ImageType")).split("\\"))
    spacing = values.numbers("PixelSpacing", 2)
    position, orientation = values.numbers("ImagePositionPatient", 3), values.numbers("ImageOrientationPatient", 6)
    slope, intercept, not_hu = read_rescale(values, pixels)
    kind = SCREENSHOT if "colour" in file_problem else image_kind(values, image_type)
    instance_number = float(index) if values.per_frame is not None else values.number_or_none("InstanceNumber")
    return Frame(
        path=path,
        index=index,
        shape_ij=(values.whole("Columns", 0), values.whole("Rows", 0)),
        position_lps_mm=position,
        orientation=orientation,
        spacing_ij_mm=None if spacing is None else (spacing[1], spacing[0]),
        slope=slope,
        intercept=intercept,
        pixels=pixels,
        image_type=image_type,
        kind=kind,
        problem=file_problem or "; ".join(dict.fromkeys(values.problems)),
        not_hu=not_hu,
        traits=_traits(values),
        instance_uid=values.text("SOPInstanceUID"),
        instance_number=instance_number,
        patient_key=patient_key,
        study_uid=values.text("StudyInstanceUID"),
    )


def _traits(values: HeaderValues) -> dict[str, str]:
    """What may tell scans apart; of frames of one file also which file it is."""
    found = {keyword: text for keyword in TRAIT_KEYWORDS if (text := values.text(keyword))}
    if not found.get("PatientName", "").isascii():
        # Files of one scan may be in different character sets.
        found["PatientName"] = values.shown("PatientName")
    if values.per_frame is not None:
        found[FILE_OF_FRAMES] = values.text("SOPInstanceUID")
    return found


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
