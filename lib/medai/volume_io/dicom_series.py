"""CT series in any folder: found by content, offered all, read one at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medai.domain import LabelMap, Volume
from medai.errors import InputError, UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.volume_io.dicom_geometry import StackPlan, plan_stack
from medai.volume_io.dicom_headers import DicomFile, looks_like_dicom, read_dicom_file
from medai.volume_io.dicom_pixels import read_stack
from medai.volume_io.options import ReadBudget, ReadOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomSeries:
    """A series as found in a folder; of any modality, readable or not.

    Attributes:
        series_instance_uid: SeriesInstanceUID.
        modality: for example "CT".
        files: its files, sorted by path.
        header: facts of the acquisition under their DICOM keywords, without identifiers.
        patient_key: hash of the PatientID, "" where there is none.
        damaged_names: files in its folders whose header cannot be read: they may belong to it.
    """

    series_instance_uid: str
    modality: str
    files: tuple[DicomFile, ...]
    header: dict[str, str]
    patient_key: str
    damaged_names: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder of its first file."""
        return self.files[0].path.parent

    @property
    def image_count(self) -> int:
        """Number of images, localisers included; 0 for reports."""
        return sum(len(file.frames) for file in self.files)

    def describe(self) -> str:
        """Modality, number of images, thickness, kernel and the end of the UID; no identifiers."""
        facts = [self.modality or "no modality", f"{self.image_count} images"]
        if thickness := self.header.get("SliceThickness"):
            facts.append(f"{_short_number(thickness)} mm")
        if kernel := self.header.get("ConvolutionKernel"):
            facts.append(f"kernel {kernel}")
        return f"series …{self.series_instance_uid[-12:]} ({', '.join(facts)})"


def find_series(folder: Path) -> list[DicomSeries]:
    """Find every DICOM series below a folder.

    Names and endings do not matter; files that are not DICOM, and DICOMDIR, are ignored.

    Returns:
        The series in the order of their first file.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'. Check the path.")
    return group_series(sorted(path for path in folder.rglob("*") if looks_like_dicom(path)))


def group_series(paths: Iterable[Path]) -> list[DicomSeries]:
    """The series that these DICOM files form."""
    by_uid: dict[str, list[DicomFile]] = {}
    damaged: list[Path] = []
    for path in paths:
        try:
            file = read_dicom_file(path)
        except InputError as error:
            _log.warning("%s", error)
            damaged.append(path)
            continue
        if file.series_instance_uid:
            by_uid.setdefault(file.series_instance_uid, []).append(file)
        else:
            _log.warning("%s has no SeriesInstanceUID: it is damaged or not an image", path.name)
            damaged.append(path)
    return [_series(uid, files, damaged) for uid, files in by_uid.items()]


def read_series(series: DicomSeries, options: ReadOptions = ReadOptions()) -> Volume:  # noqa: B008 - frozen
    """Read a CT series.

    Args:
        series: from ``find_series``.
        options: what to do with irregular or tilted slices.

    Returns:
        The scan in HU; k rises along row direction × column direction.

    Raises:
        InputError: a file is damaged, truncated or has no pixels; it is named.
        UnsupportedScanError: not CT, or its slices form no regular grid; the reason is named.
    """
    plan = plan_series(series, options)
    image_hu = read_stack(plan, series.describe())
    return Volume(geometry=plan.geometry, image_hu=image_hu, header=dict(series.header))


def plan_series(series: DicomSeries, options: ReadOptions) -> StackPlan:
    """Check a series and find its grid from the headers alone; errors as in ``read_series``."""
    name = series.describe()
    if series.modality != "CT":
        raise UnsupportedScanError(f"{name} has the modality '{series.modality}'; medai works on CT only.")
    if series.damaged_names:
        raise InputError(
            f"{name} may be incomplete: {', '.join(series.damaged_names)} beside it cannot be read as DICOM. "
            "Copy the folder again, or remove the damaged files."
        )
    frames = [frame for file in series.files for frame in file.frames]
    kept = [frame for frame in frames if not frame.is_localiser]
    if len(kept) < len(frames):
        _log.info("%s: %d localiser images are left out", name, len(frames) - len(kept))
    if frames and not kept:
        raise UnsupportedScanError(f"{name} holds only localisers, no scan.")
    used = {frame.path for frame in kept}
    for file in series.files:
        if file.problem and (file.path in used or not file.frames):
            raise InputError(f"{name}: {file.path.name} has {file.problem}. Copy or export the series again.")
    plan = plan_stack(kept, options, name)
    options.budget.check(plan.geometry.shape_ijk, 2, name)
    return plan


def _short_number(text: str) -> str:
    """2.500000 as 2.5; a damaged value as it is."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _series(uid: str, files: list[DicomFile], damaged: list[Path]) -> DicomSeries:
    folders = {file.path.parent for file in files}
    return DicomSeries(
        series_instance_uid=uid,
        modality=files[0].modality,
        files=tuple(files),
        header=dict(files[0].header),
        patient_key=files[0].patient_key,
        damaged_names=tuple(path.name for path in damaged if path.parent in folders),
    )


class DicomReader:
    """Reads a folder with one CT series, or the series that a DICOM file belongs to."""

    name = "DICOM (a file or a folder)"

    def can_read(self, path: Path) -> bool:
        """True for folders, and for files with DICOM content whatever their name."""
        return path.is_dir() or looks_like_dicom(path)

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the headers alone."""
        return plan_series(_only_series(path), ReadOptions(budget=budget)).geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan."""
        return read_series(_only_series(path), options)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """Label maps are not kept in DICOM here."""
        raise InputError(f"'{path.name}' is DICOM; label maps are read from NRRD, NIfTI or MetaImage files.")


def _only_series(path: Path) -> DicomSeries:
    if path.is_file():
        return _series_of_file(path)
    found = find_series(path)
    if not found:
        raise InputError(f"The folder '{path.name}' holds no DICOM series.")
    # Reports and contours of the same study lie beside the scan; with one CT there is no question which is meant.
    candidates = [series for series in found if series.modality == "CT" and series.image_count] or found
    if len(candidates) > 1:
        listed = "; ".join(series.describe() for series in candidates)
        raise InputError(f"The folder '{path.name}' holds {len(candidates)} series: {listed}. Name one of its files.")
    return candidates[0]


def _series_of_file(path: Path) -> DicomSeries:
    file = read_dicom_file(path)
    if len(file.frames) > 1:
        return group_series([path])[0]
    beside = group_series(sorted(other for other in path.parent.iterdir() if looks_like_dicom(other)))
    for series in beside:
        if series.series_instance_uid == file.series_instance_uid:
            return series
    raise InputError(f"{path.name} has no SeriesInstanceUID: it is damaged or not an image.")
