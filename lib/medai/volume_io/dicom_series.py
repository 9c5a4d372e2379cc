"""CT series in any folder: found by content, told apart, offered all, read one at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medai.domain import LabelMap, Volume
from medai.errors import InputError, UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.volume_io.dicom_beside import LeftOutFiles, without_beside
from medai.volume_io.dicom_geometry import StackPlan, plan_stack
from medai.volume_io.dicom_headers import (
    DicomFile,
    Frame,
    is_dicom_index,
    is_meant_as_dicom,
    looks_like_dicom,
    patient_key_of,
    read_dicom_file,
)
from medai.volume_io.dicom_index import read_index
from medai.volume_io.dicom_kinds import BESIDE_KINDS, document_kind, plural_of
from medai.volume_io.dicom_pixels import read_stack
from medai.volume_io.dicom_scans import ScanPart, divide_scans, is_same_plane
from medai.volume_io.folder_files import find_files
from medai.volume_io.options import ReadBudget, ReadOptions

_log = logging.getLogger(__name__)

_SCATTERED = 3
_NO_UID = (
    "its files have no SeriesInstanceUID (0020,000E), as anonymisers leave them: what belongs together is unknown. "
    "Anonymise the originals again with a new UID instead of none, or give the slices of each scan one (dcmtk: "
    'dcmodify -nb -i "SeriesInstanceUID=2.25.1" and the files)'
)
_SCATTERED_KEYWORDS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomSeries:
    """A series as found in a folder, or one of the scans that share its UID; of any modality, readable or not.

    Attributes:
        series_instance_uid: SeriesInstanceUID.
        modality: for example "CT".
        files: its files, sorted by path.
        frames: its images: the slices of the scan, or all images where it holds none.
        header: facts of the acquisition under their DICOM keywords, without identifiers.
        patient_key: hash of the PatientID, "" where there is none.
        damaged_names: files in its folders whose header cannot be read, or that an index names and that are not there:
            they may belong to it.
        part: what sets this scan apart from others under the same UID, for people; "" where it is the only one.
        part_key: the same for programs.
        left_out: what lies beside the slices and is not part of the scan.
        problem: why it cannot be read, known from the headers; or "".
    """

    series_instance_uid: str
    modality: str
    files: tuple[DicomFile, ...]
    frames: tuple[Frame, ...]
    header: dict[str, str]
    patient_key: str
    damaged_names: tuple[str, ...]
    part: str = ""
    part_key: str = ""
    left_out: tuple[LeftOutFiles, ...] = ()
    problem: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its first file."""
        return self.files[0].path.parent

    @property
    def image_count(self) -> int:
        """Number of images; 0 for reports."""
        return len(self.frames)

    @property
    def beside(self) -> str:
        """Its nature where it holds no scan at all: a report, only localisers or screenshots; "" for all others."""
        document = document_kind(self.modality)
        if document:
            return f"{document} ({self.modality})"
        kinds = {frame.kind for frame in self.frames}
        if kinds and kinds <= set(BESIDE_KINDS):
            return " and ".join(sorted(plural_of(kind) for kind in kinds))
        return ""

    @property
    def origin(self) -> str:
        """SHA-256 that identifies the scan: its series UID, patient, study, and its part of the series."""
        # Some slices may lack an id that the others have; a patient without one is known by the name.
        patient_key = _first(frame.patient_key for frame in self.frames) or patient_key_of(
            _first(frame.traits.get("PatientName", "") for frame in self.frames)
        )
        study_uid = _first(frame.study_uid for frame in self.frames)
        facts = (self.series_instance_uid, patient_key if self.frames else self.patient_key, study_uid, self.part_key)
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def former_origin(self) -> str:
        """SHA-256 of the series UID alone, by which earlier versions knew it; holds for one patient only."""
        return hashlib.sha256(self.series_instance_uid.encode()).hexdigest()

    def describe(self) -> str:
        """Modality, number of images, thickness, kernel, part and the end of the UID; no identifiers."""
        facts = [self.modality or "no modality", f"{self.image_count} images"]
        if thickness := self.header.get("SliceThickness"):
            facts.append(f"{_short_number(thickness)} mm")
        if kernel := self.header.get("ConvolutionKernel"):
            facts.append(f"kernel {kernel}")
        if self.part:
            facts.append(self.part)
        return f"series …{self.series_instance_uid[-12:]} ({', '.join(facts)})"


def find_series(folder: Path) -> list[DicomSeries]:
    """Find every DICOM series below a folder.

    Names and endings do not matter; links are followed; files that are not DICOM, and DICOMDIR, are ignored.

    Returns:
        The scans in the order of their first file; a series UID that several scans share is there once for each.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'. Check the path.")
    return group_series(path for path in find_files(folder).files if is_meant_as_dicom(path))


def series_at(path: Path) -> list[DicomSeries]:
    """Find the series that a path stands for.

    Args:
        path: a folder (all series below it), a DICOMDIR (the files it names), or a DICOM file (the scan it belongs to,
            with the files beside it).

    Returns:
        The series; none where the path is no DICOM.

    Raises:
        InputError: no such path, or an index that cannot be read.
    """
    if path.is_dir():
        return find_series(path)
    if not path.exists():
        raise InputError(f"There is no file or folder '{path}'. Check the path.")
    if is_dicom_index(path):
        return _series_of_index(path)
    if not looks_like_dicom(path):
        return []
    file = read_dicom_file(path)
    if file.is_index:
        return _series_of_index(path)
    if len(file.frames) > 1:
        return group_series([path])
    beside = group_series(sorted(other for other in path.parent.iterdir() if is_meant_as_dicom(other)))
    return [series for series in beside if any(frame.path == path for frame in series.frames)] or [
        series for series in beside if any(other.path == path for other in series.files)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """What DICOM files form.

    Attributes:
        series: in the order of their first file.
        unreadable: files beside which no series lies that would name them, each with the reason.
    """

    series: tuple[DicomSeries, ...]
    unreadable: tuple[tuple[Path, str], ...]


def group_series(paths: Iterable[Path]) -> list[DicomSeries]:
    """The series that these DICOM files form."""
    return list(group_files(paths).series)


def group_files(paths: Iterable[Path]) -> FoundSeries:
    """The series that these DICOM files form, and the files that cannot be read."""
    by_uid: dict[tuple[str, str], list[DicomFile]] = {}
    damaged: dict[Path, str] = {}
    for path in paths:
        try:
            file = read_dicom_file(path)
        except InputError as error:
            _log.warning("%s", error)
            damaged[path] = str(error)
            continue
        if file.is_index:
            _log.info("%s is an index of DICOM files and is left out", path.name)
        elif file.series_instance_uid or (file.frames and not file.problem):
            by_uid.setdefault((file.series_instance_uid, file.modality), []).append(file)
        else:
            damaged[path] = f"{path.name} has no SeriesInstanceUID: it is damaged or not an image."
            _log.warning("%s", damaged[path])
    found = [series for files in by_uid.values() for series in _scans_of(files, list(damaged))]
    folders = {file.path.parent for series in found for file in series.files}
    return FoundSeries(
        series=tuple(_gather_scattered(found)),
        unreadable=tuple((path, reason) for path, reason in damaged.items() if path.parent not in folders),
    )


def read_series(series: DicomSeries, options: ReadOptions = ReadOptions()) -> Volume:  # noqa: B008 - frozen
    """Read a CT series.

    Args:
        series: from ``find_series``.
        options: what to do with irregular or tilted slices.

    Returns:
        The scan in HU; k rises along row direction × column direction.

    Raises:
        InputError: a file is damaged, truncated or has no pixels; it is named.
        UnsupportedScanError: not CT, not in HU, or its slices form no regular grid; the reason is named.
    """
    plan = plan_series(series, options)
    image_hu = read_stack(plan, series.describe())
    return Volume(geometry=plan.geometry, image_hu=image_hu, header=dict(series.header))


def plan_series(series: DicomSeries, options: ReadOptions) -> StackPlan:
    """Check a series and find its grid from the headers alone; errors as in ``read_series``."""
    name = series.describe()
    if series.modality != "CT":
        raise UnsupportedScanError(f"{name} has the modality '{series.modality}'; medai works on CT only.")
    if series.problem:
        raise UnsupportedScanError(f"{name}: {series.problem}.")
    if series.damaged_names:
        raise InputError(
            f"{name} may be incomplete: {', '.join(series.damaged_names)} beside it cannot be read as DICOM. "
            "Copy the folder again, or remove the damaged files."
        )
    kept = [frame for frame in series.frames if not frame.kind]
    for file in series.files:
        if file.problem and not file.frames:
            raise InputError(f"{name}: {file.path.name} has {file.problem}. Copy or export the series again.")
    for frame in kept or series.frames:
        if frame.problem:
            raise InputError(f"{name}: {frame.path.name} has {frame.problem}. Copy or export the series again.")
    if not kept:
        kinds = " and ".join(sorted({plural_of(frame.kind) for frame in series.frames}))
        raise UnsupportedScanError(
            f"{name} holds only {kinds}, no scan in Hounsfield units. Import the original slices of the study."
        )
    for frame in kept:
        if frame.not_hu:
            raise UnsupportedScanError(f"{name}: {frame.path.name} has {frame.not_hu}.")
    for pixels in {frame.pixels for frame in kept if frame.pixels is not None and frame.pixels.frame_count > 1}:
        # A compressed file is decoded whole, whichever of its frames are wanted.
        options.budget.check((*pixels.shape_ij, pixels.frame_count), pixels.bits_allocated // 8, pixels.path.name)
    plan = plan_stack(kept, options, name)
    options.budget.check(plan.geometry.shape_ijk, 2, name)
    return plan


def _first(texts: Iterable[str]) -> str:
    """The first that is not empty, or ""."""
    return next(filter(None, texts), "")


def _short_number(text: str) -> str:
    """2.500000 as 2.5; a damaged value as it is."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _scans_of(files: Sequence[DicomFile], damaged: Sequence[Path]) -> list[DicomSeries]:
    """The scans under one series UID, in the order of their first file; what is left out is told with the first."""
    frames = [frame for file in files for frame in file.frames]
    slices, left_out = without_beside(frames) if files[0].modality == "CT" else (frames, [])
    if slices:
        left_out += [LeftOutFiles(what=f"file without image ({file.modality})", names=(file.path.name,))
                     for file in files if not file.frames and not file.problem]  # fmt: skip
    parts = divide_scans(slices) if slices and files[0].modality == "CT" else [ScanPart(frames=tuple(slices))]
    for note in left_out:
        _log.info("series …%s: %s left out", files[0].series_instance_uid[-12:], note.describe())
    place = {id(frame): n for n, frame in enumerate(frames)}
    parts.sort(key=lambda part: place[id(part.frames[0])] if part.frames else 0)
    by_path = {file.path: file for file in files}
    scans = []
    for n, part in enumerate(parts):
        own = list(dict.fromkeys(frame.path for frame in part.frames)) if len(parts) > 1 else list(by_path)
        first = by_path[part.frames[0].path] if part.frames else files[0]
        folders = {path.parent for path in own}
        scans.append(
            DicomSeries(
                series_instance_uid=first.series_instance_uid,
                modality=first.modality,
                files=tuple(by_path[path] for path in own),
                frames=part.frames,
                header=dict(first.header),
                patient_key=_first(by_path[path].patient_key for path in own),
                damaged_names=tuple(path.name for path in damaged if path.parent in folders),
                part=part.label,
                part_key=part.key,
                left_out=tuple(left_out) if n == 0 else (),
                problem=part.problem or ("" if first.series_instance_uid else _NO_UID),
            )
        )
    return scans


def _gather_scattered(found: Sequence[DicomSeries]) -> list[DicomSeries]:
    """Put slices of which each has a series UID of its own together as one series that says so."""
    heaps: list[list[DicomSeries]] = []
    for series in found:
        if series.modality != "CT" or len(series.frames) != 1 or series.frames[0].kind or series.part:
            continue
        frame = series.frames[0]
        if frame.has_place:
            home = next(
                (heap for heap in heaps if heap[0].folder == series.folder and is_same_plane(heap[0].frames[0], frame)),
                None,
            )
            if home is None:
                heaps.append([series])
            else:
                home.append(series)
    scattered = {id(heap[0]): heap for heap in heaps if len(heap) >= _SCATTERED}
    gone = {id(series) for heap in scattered.values() for series in heap[1:]}
    return [
        _gathered(scattered[id(series)]) if id(series) in scattered else series
        for series in found
        if id(series) not in gone
    ]


def _gathered(heap: Sequence[DicomSeries]) -> DicomSeries:
    frames = tuple(frame for series in heap for frame in series.frames)
    values = {
        "PatientID": {frame.patient_key for frame in frames},
        "StudyInstanceUID": {frame.study_uid for frame in frames},
        "SeriesInstanceUID": {series.series_instance_uid for series in heap},
        "FrameOfReferenceUID": {frame.traits.get("FrameOfReferenceUID", "") for frame in frames},
    }
    apart = [keyword for keyword in _SCATTERED_KEYWORDS if len(values[keyword]) > 1]
    changes = " ".join(f'-m "{keyword}={"P1" if keyword == "PatientID" else f"2.25.{n}"}"'
                       for n, keyword in enumerate(apart, start=1))  # fmt: skip
    problem = (
        f"{len(frames)} slices, each of which has its own {' and '.join(apart)}, as anonymisers make them that replace "
        "ids file by file. Anonymise the originals again in one run, with one new id for each old one. If all files in "
        f"the folder are one scan of one patient, dcmtk can join them: dcmodify -nb {changes} (other numbers for each "
        f"scan) and the files"
    )
    return replace(
        heap[0],
        files=tuple(file for series in heap for file in series.files),
        frames=frames,
        left_out=tuple(note for series in heap for note in series.left_out),
        problem=problem,
    )


def _series_of_index(path: Path) -> list[DicomSeries]:
    """The series of the files that a DICOMDIR names; what it names and is not there makes its series incomplete."""
    index = read_index(path)
    if not index.paths:
        raise InputError(
            f"{path.name} names {len(index.missing)} files and none of them is there. Give the folder that the DICOM "
            "files are in, or copy the whole medium again."
        )
    return [
        replace(
            series,
            damaged_names=series.damaged_names + tuple(
                name for name, uid in index.missing if uid in ("", series.series_instance_uid)
            ),
        )
        for series in group_series(index.paths)
    ]  # fmt: skip


class DicomReader:
    """Reads a folder with one CT series, or the series that a DICOM file or a DICOMDIR stands for."""

    name = "DICOM (a file or a folder)"

    def can_read(self, path: Path) -> bool:
        """True for folders, and for files with DICOM content whatever their name."""
        return path.is_dir() or looks_like_dicom(path) or is_dicom_index(path)

    def is_for_slicer(self, path: Path) -> bool:
        """See ``readers.is_for_slicer``."""
        return True

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the headers alone."""
        return plan_series(_only_series(path), ReadOptions(budget=budget)).geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan."""
        return read_series(_only_series(path), options)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """Label maps are not kept in DICOM here."""
        raise InputError(f"'{path.name}' is DICOM; label maps are read from NRRD, NIfTI or MetaImage files.")


def scans_among(found: Sequence[DicomSeries]) -> list[DicomSeries]:
    """The series that may be meant by a folder: reports and contours of the same study lie beside a CT."""
    candidates = [series for series in found if series.modality == "CT" and series.image_count] or list(found)
    return [series for series in candidates if not series.beside] or candidates


def _only_series(path: Path) -> DicomSeries:
    found = series_at(path)
    if not found and path.is_file():
        raise InputError(f"{path.name} has no SeriesInstanceUID: it is damaged or not an image.")
    if not found:
        raise InputError(f"The folder '{path.name}' holds no DICOM series.")
    candidates = scans_among(found)
    if len(candidates) > 1:
        listed = "; ".join(series.describe() for series in candidates)
        where = f"The folder '{path.name}'" if path.is_dir() else f"'{path.name}'"
        raise InputError(f"{where} holds {len(candidates)} series: {listed}. Name one of its files.")
    return candidates[0]
