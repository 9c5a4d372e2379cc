"""What of the given files and folders is a scan to import, and what merely lies beside.

Left out and said: the study's own scans and labels where the study lies inside a source, the labels of other studies in
MONAI Label's or nnU-Net's layout, 3D Slicer's segmentations. Scan cache and models are hidden folders, which no source
is searched for.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medai.errors import InputError
from medai.store.names import IMAGE_EXTENSIONS
from medai.volume_io.dicom_headers import is_dicom_index, is_meant_as_dicom, looks_like_dicom
from medai.volume_io.dicom_series import DicomSeries, group_files, group_series, series_at
from medai.volume_io.folder_files import Unreachable, find_files

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_LABEL_FOLDERS = ("labelsTr", "labelsTs", "labelsVal")
"""Of nnU-Net and the Medical Segmentation Decathlon."""

_SHOWN_LINKS = 3
_SHOWN_FILES = 3
_MOST_DAMAGED_LINES = 8

_UNREAD_SCANS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (".hdr", ".img", ".hdr.gz", ".img.gz"),
        "A pair of files (.hdr and .img, Analyze or NIfTI) is not read. Open the .hdr file in 3D Slicer, check left "
        "and right, and save it as .nii.gz.",
    ),
    ((".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"), "NIfTI is read as it is or in gzip. Unpack it."),
    (
        (".mgz", ".mgh", ".mnc", ".vti", ".gipl"),
        "This format is not read. Save the scan as .nii.gz or .nrrd, for example with 3D Slicer.",
    ),
)
"""Scans in forms that are not read, by their endings, with the way out."""

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
_ARCHIVE = "Archives are not looked into: unpack it to import what it holds."


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something that is no scan, or could not be imported.

    Attributes:
        source: what to call it in messages.
        reason: why.
    """

    source: str
    reason: str


@dataclass(slots=True, kw_only=True)
class FoundScans:
    """What was found in the sources.

    Attributes:
        series: DICOM series, of all sources together: one series may lie in several folders.
        files: volume files, each once, sorted by path.
        given: those of them that were named themselves.
        refused: sources that hold no scan or cannot be looked at.
        left_out: what is no scan.
    """

    series: list[DicomSeries] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    given: list[Path] = field(default_factory=list)
    refused: list[LeftOut] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find_scans(sources: Sequence[Path], study_folder: Path) -> FoundScans:
    """Look through the sources.

    Args:
        sources: volume files, DICOM files (their series is taken), and folders, searched through; links are followed.
        study_folder: where they are to go; it may lie inside a source, or be one.
    """
    found = FoundScans()
    beside = _Beside(study_folder)
    dicom_files: dict[Path, None] = {}
    named: list[Path] = []
    for source in sources:
        if source.is_dir():
            dicom_here, files_here = _search(source, beside, found)
            dicom_files |= dict.fromkeys(dicom_here)
            found.files += files_here
            is_empty = not dicom_here and not files_here
        else:
            try:
                is_empty = not _take_file(source, found, named)
            except InputError as error:
                found.refused.append(LeftOut(source=source.name, reason=str(error)))
                continue
        if is_empty:
            _refuse_empty(source, found)
    found.left_out += beside.told()
    found.series += _series(list(dicom_files), named, found)
    found.files = _once(found.files)
    _tell_what_is_beside(found)
    return found


def _search(source: Path, beside: _Beside, found: FoundScans) -> tuple[list[Path], list[Path]]:
    """DICOM and volume files of a folder."""
    below = find_files(source, pass_over=beside)
    found.refused += _unreachable(below.unreachable)
    for index in filter(is_dicom_index, below.files):
        reason = "It is an index; the DICOM files below the folder are looked at themselves."
        found.left_out.append(LeftOut(source=f"{index.parent.name}/{index.name}", reason=reason))
    volumes = [path for path in below.files if path.name.lower().endswith(VOLUME_ENDINGS)]
    others = [path for path in below.files if not path.name.lower().endswith(VOLUME_ENDINGS)]
    dicom_files = [path for path in others if is_meant_as_dicom(path)]
    _tell_unread(set(others) - set(dicom_files), found)
    return dicom_files, [_where_voxels_are(path) for path in volumes]


def _tell_unread(paths: Collection[Path], found: FoundScans) -> None:
    """Scans in a form that is not read are refused, archives left out; voxels beside a header of their own are none."""
    by_reason: dict[str, list[str]] = {}
    for path in sorted(paths):
        stem = path.name.split(".")[0]
        if not any(path.with_name(stem + ending).exists() for ending in (".nhdr", ".mhd")) and not (
            path.suffix.lower() == ".img" and path.with_suffix(".hdr").exists()
        ):
            by_reason.setdefault(_why_unread(path), []).append(path.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
        line = LeftOut(source=", ".join(names[:_SHOWN_FILES]) + more, reason=reason)
        if reason:
            (found.left_out if reason == _ARCHIVE else found.refused).append(line)


def _why_unread(path: Path) -> str:
    name = path.name.lower()
    return next(
        (reason for endings, reason in (*_UNREAD_SCANS, (_ARCHIVES, _ARCHIVE)) if name.endswith(endings)),
        "",
    )


def _take_file(source: Path, found: FoundScans, named: list[Path]) -> bool:
    if not source.exists():
        return False
    if is_dicom_index(source):
        found.series += series_at(source)
        return True
    if looks_like_dicom(source):
        named.append(source)
        return True
    is_volume = source.name.lower().endswith(VOLUME_ENDINGS) and not _is_segmentation(source)
    if is_volume:
        found.files.append(_where_voxels_are(source))
        found.given.append(found.files[-1])
    return is_volume


def _refuse_empty(source: Path, found: FoundScans) -> None:
    name = source.name or str(source)
    if not source.exists():
        reason = f"There is no file or folder '{source}'. Check the path."
        if source.is_symlink():
            reason = f"'{source}' is a link to something that is not there. Mend the link, or fetch what it leads to."
    elif source.is_file() and _is_segmentation(source):
        reason = f"'{name}' is a 3D Slicer segmentation, no scan."
    elif source.is_file() and (unread := _why_unread(source)):
        reason = unread
    else:
        reason = f"'{name}' holds no scan: no DICOM series and no file ending in {', '.join(VOLUME_ENDINGS)}."
    found.refused.append(LeftOut(source=name, reason=reason))


def _series(dicom_files: list[Path], named: list[Path], found: FoundScans) -> list[DicomSeries]:
    """The series of the searched folders, and those that single files belong to."""
    grouped = group_files(sorted(dicom_files))
    series = list(grouped.series)
    found.refused += _damaged(grouped.unreadable)
    met = {file.path for each in series for file in each.files}
    for folder in dict.fromkeys(path.parent for path in named if path not in met):
        files_of_folder = sorted(path for path in folder.iterdir() if is_meant_as_dicom(path))
        series += [each for each in group_series(files_of_folder) if any(file.path in named for file in each.files)]
    return series


def _damaged(unreadable: Sequence[tuple[Path, str]]) -> list[LeftOut]:
    """One line a file; where a folder holds many, one line for all, with the reason of the first."""
    by_folder: dict[Path, list[tuple[Path, str]]] = {}
    for path, reason in unreadable:
        by_folder.setdefault(path.parent, []).append((path, reason))
    lines = []
    for folder, files in by_folder.items():
        if len(files) > _MOST_DAMAGED_LINES:
            reason = f"None of them can be read. {files[0][1]}"
            lines.append(LeftOut(source=f"{folder.name}: {len(files)} files", reason=reason))
        else:
            lines += [LeftOut(source=f"{folder.name}/{path.name}", reason=reason) for path, reason in files]
    return lines


def _tell_what_is_beside(found: FoundScans) -> None:
    """What lies beside the slices of a series, and series that are no scan; alone, such a series is refused by name."""
    scans = [series for series in found.series if not series.beside]
    for series in found.series:
        source = f"{series.folder.name}: {series.describe()}"
        if series.beside and (scans or found.files):
            found.left_out.append(LeftOut(source=source, reason=f"It holds no scan: {series.beside}."))
        if series.left_out:
            beside = ", ".join(files.describe() for files in series.left_out)
            found.left_out.append(LeftOut(source=source, reason=f"Beside the slices there: {beside}."))
    if scans or found.files:
        found.series = scans


def _once(paths: Sequence[Path]) -> list[Path]:
    """Each file once, however many sources lead to it, sorted by path."""
    by_place: dict[Path, Path] = {}
    for path in sorted(paths):
        by_place.setdefault(path.resolve(), path)
    return list(by_place.values())


def _where_voxels_are(path: Path) -> Path:
    """A linked header without its voxels beside the link is read where it really lies."""
    if not path.is_symlink() or not path.name.lower().endswith((".nhdr", ".mhd")):
        return path
    stem = path.name.rpartition(".")[0]
    return path if any(other != path for other in path.parent.glob(f"{stem}.*")) else path.resolve()


def _is_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd")


def _unreachable(found: Sequence[Unreachable]) -> list[LeftOut]:
    """One line a thing; where a folder holds many of a kind, one line for all."""
    by_kind: dict[tuple[Path, str], list[Path]] = {}
    for each in found:
        by_kind.setdefault((each.path.parent, each.reason), []).append(each.path)
    lines = []
    for (folder, reason), paths in by_kind.items():
        if len(paths) > _SHOWN_LINKS:
            lines.append(LeftOut(source=f"{folder.name}: {len(paths)} entries, such as {paths[0].name}", reason=reason))
        else:
            lines += [LeftOut(source=path.name, reason=reason) for path in paths]
    return lines


class _Beside:
    """Asked of everything in a source: whether it is passed over. Remembers what to tell."""

    def __init__(self, study_folder: Path) -> None:
        self._study = study_folder.resolve()
        self._own_labels = (self._study / labels_folder(self._study)).resolve()
        self._scans_of_study = 0
        self._segmentations = 0
        self._folders: dict[str, str] = {}
        self._resolved = functools.lru_cache(maxsize=64)(lambda folder: folder.resolve())
        self._labels_of = functools.lru_cache(maxsize=64)(lambda folder: labels_folder(folder, only_known=True))

    def __call__(self, path: Path) -> bool:
        if _is_segmentation(path):
            self._segmentations += 1
            return True
        if path.name.lower().endswith(IMAGE_EXTENSIONS) and self._resolved(path.parent) == self._study:
            self._scans_of_study += 1
            return True
        return path.is_dir() and self._is_label_folder(path)

    def told(self) -> list[LeftOut]:
        """What was passed over, in words."""
        lines = [LeftOut(source=source, reason=reason) for source, reason in self._folders.items()]
        if self._scans_of_study:
            reason = f"{self._scans_of_study} scans are cases of this study already."
            lines.append(LeftOut(source=self._study.name, reason=reason))
        if self._segmentations:
            reason = f"{self._segmentations} files are 3D Slicer segmentations, no scans."
            lines.append(LeftOut(source="*.seg.nrrd", reason=reason))
        return lines

    def _is_label_folder(self, path: Path) -> bool:
        if path.resolve() == self._own_labels:
            reason = "It holds the labels of this study."
        elif path.name in _LABEL_FOLDERS or path.name == self._labels_of(path.parent):
            reason = "It holds label maps, no scans."
        else:
            return False
        self._folders[f"{path.parent.name}/{path.name}"] = reason
        return True


def labels_folder(studies: Path, *, only_known: bool = False) -> str:
    """The name of a study's folder of labels, as MONAI Label's index says.

    Args:
        studies: a folder that may be a study.
        only_known: "" where it does not look like a study with labels.
    """
    try:
        index = json.loads((studies / "datastore_v2.json").read_bytes())
        return str(index.get("labels_dir") or "labels")
    except (OSError, ValueError, AttributeError):
        looks_so = any((studies / "labels" / tag).is_dir() for tag in ("final", "original"))
        return "" if only_known and not looks_so else "labels"
