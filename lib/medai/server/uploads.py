"""What clients send: labels and scans, checked before anything of the study is touched.

A label that is stored is always a ``.nii.gz`` on its scan's own grid, with values 1, 2, … and a name for each; boxes
are stored as Slicer markups. Everything else is refused with a sentence the annotator can act on. Headers are judged
before voxels are decoded, so that a file cannot ask for more memory than its scan justifies.

Threads: pure functions of their arguments; they block (decoding), so the server calls them from its transfer threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError, InputError, UnsupportedScanError
from medai.geometry import IndexBox, VolumeGeometry
from medai.server.detections import detection_tag, read_detections
from medai.server.label_names import SCRIBBLES, distinct_names, name_values, read_label_info, says_nothing_found
from medai.store.names import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, check_case_id, check_tag, split_extension
from medai.volume_io.axes import axes_along, with_axes_of
from medai.volume_io.plausibility import check_chest_ct
from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.regrid import place_label_map
from medai.volume_io.segments import palette_colour, present_values
from medai.volume_io.writers import write_label_map, write_volume

LABEL_UPLOAD_EXTENSIONS = LABEL_EXTENSIONS
IMAGE_UPLOAD_EXTENSIONS = (*IMAGE_EXTENSIONS, ".dcm")
"""A single DICOM file is a scan where it is an enhanced multi-frame one; it is stored as .nii.gz."""

MOST_SEGMENTS = 255
"""Labels are stored as uint8."""

LARGEST_PARAMS_BYTES = 256 << 10
"""What a client says about a label is kept in the study's index, which is read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """How large an upload may be.

    Attributes:
        largest_bytes: of the file as sent.
        most_voxels: after decoding, all layers of a segmentation together. 2^30 is a 1024×1024×1000 scan.
    """

    largest_bytes: int = 2 << 30
    most_voxels: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLabel:
    """A label as it may be stored.

    Attributes:
        path: the file for ``StudyStore.save_label``.
        tag: the tag to store it under; boxes never get that of a segmentation.
        info: for ``label_info``: what the client sent, ``label_info`` and ``label_names`` with the true voxel values.
        label_map: what the file holds; None for boxes.
    """

    path: Path
    tag: str
    info: dict[str, Any]
    label_map: LabelMap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """A scan as it may be stored: for ``StudyStore.add_image``."""

    path: Path
    case_id: str


def check_label_upload(
    path: Path,
    *,
    scan: VolumeGeometry,
    tag: str,
    params: Mapping[str, Any],
    output_folder: Path,
    limits: UploadLimits = UploadLimits(),
) -> CheckedLabel:
    """Check a submitted label and bring it into the form that is stored.

    Args:
        path: the upload, with the ending its sender gave it.
        scan: the grid of the scan it belongs to.
        tag: where the client wants it.
        params: the client's form fields: ``label_info`` (see ``label_names``), ``client_id``, ``no_findings`` …
        output_folder: where the file to store is written; not in the study.
        limits: how large it may be.

    Returns:
        What to store.

    Raises:
        InputError: damaged, too large, no label map, values without names, or no labelled voxel.
        GeometryError: not on the scan's grid.
    """
    check_tag(tag)
    extension = split_extension(path.name, LABEL_UPLOAD_EXTENSIONS)[1].lower()
    _check_size(path, limits)
    if len(json.dumps(params, default=str)) > LARGEST_PARAMS_BYTES:
        raise InputError(f"The parameters of the label are larger than the {LARGEST_PARAMS_BYTES >> 10} KB taken.")
    if extension == ".json":
        document = read_detections(path, scan)
        target = output_folder / "checked.json"
        target.write_text(json.dumps(document))
        info = {**params, "detections": len(document["markups"])}
        return CheckedLabel(path=target, tag=detection_tag(tag), info=info)
    is_segmentation = extension == ".seg.nrrd"
    _check_grid(path, scan, may_be_cropped=is_segmentation, limits=limits)
    label_map = place_label_map(with_axes_of(scan, read_label_map(path)), scan)
    names = _names(label_map, params, by_file=is_segmentation)
    checked = _renumbered(label_map, names)
    target = output_folder / "checked.nii.gz"
    write_label_map(checked, target)
    label_info = [{"name": segment.name, "idx": segment.value} for segment in checked.segments]
    info = {**params, "label_info": label_info, "label_names": checked.label_names, "no_findings": not names}
    return CheckedLabel(path=target, tag=tag, info=info, label_map=checked)


def check_image_upload(
    path: Path,
    *,
    file_name: str,
    case_id: str | None,
    output_folder: Path,
    limits: UploadLimits = UploadLimits(),
) -> CheckedImage:
    """Check an uploaded scan.

    Args:
        path: the upload, with the ending its sender gave it.
        file_name: its name at the sender's; less its ending it is the case id where none is given.
        case_id: the id the client wants.
        output_folder: where a DICOM file is written as .nii.gz; not in the study.
        limits: how large it may be.

    Returns:
        What to store; the upload itself where the study takes its format.

    Raises:
        InputError: damaged, too large, or an id that cannot be used.
        UnsupportedScanError: no CT in Hounsfield units.
    """
    extension = split_extension(path.name, IMAGE_UPLOAD_EXTENSIONS)[1].lower()
    if path.name.lower().endswith(".seg.nrrd"):
        raise UnsupportedScanError(
            f"{file_name[:120]} is a segmentation. Upload the scan, then submit this as its label."
        )
    case_id = check_case_id(case_id or split_extension(Path(file_name).name, IMAGE_UPLOAD_EXTENSIONS)[0])
    _check_size(path, limits)
    _check_voxel_count(read_geometry(path).shape_ijk, limits)
    volume = read_volume(path)
    check_chest_ct(volume)
    if extension in IMAGE_EXTENSIONS:
        return CheckedImage(path=path, case_id=case_id)
    target = output_folder / "checked.nii.gz"
    write_volume(volume, target)
    return CheckedImage(path=target, case_id=case_id)


def _check_size(path: Path, limits: UploadLimits) -> None:
    size = path.stat().st_size
    if size == 0:
        raise InputError("The uploaded file is empty (0 bytes). Save it again and check the disk of the sender.")
    if size > limits.largest_bytes:
        raise InputError(f"The uploaded file has {size >> 20} MB; this server takes {limits.largest_bytes >> 20} MB.")


def _check_voxel_count(sizes: Sequence[int], limits: UploadLimits) -> None:
    count = 1
    for n in sizes:
        count *= int(n)
    if count > limits.most_voxels:
        raise InputError(
            f"The upload has {'×'.join(str(n) for n in sizes)} voxels; this server takes {limits.most_voxels} at most."
        )


def _check_grid(path: Path, scan: VolumeGeometry, *, may_be_cropped: bool, limits: UploadLimits) -> None:
    """Judge a label by its header; Slicer crops and pads segmentations, other formats cover the scan."""
    geometry = read_geometry(path)
    sizes: Sequence[int] = geometry.shape_ijk
    if path.name.lower().endswith(".nrrd"):
        from medai.volume_io.nrrd_file import read_nrrd_header

        sizes = [int(n) for n in read_nrrd_header(path).fields["sizes"]]
    _check_voxel_count(sizes, limits)
    if not may_be_cropped and not axes_along(scan, geometry).geometry.is_same_grid(scan):
        raise GeometryError(
            f"The label is not on its scan's grid. Label: {geometry.describe()}. Scan: {scan.describe()}. "
            "Export it with the scan as reference volume."
        )


def _names(label_map: LabelMap, params: Mapping[str, Any], *, by_file: bool) -> dict[int, str]:
    """Name the values to keep; empty where the annotator said that there is nothing."""
    label_info = read_label_info(params)
    in_file = {segment.value: segment.name for segment in label_map.segments}
    present = present_values(label_map.labels)
    names = name_values(present, label_info) if label_info and not by_file else {v: in_file[v] for v in present}
    names = {value: name for value, name in names.items() if name not in SCRIBBLES}
    if len(names) > MOST_SEGMENTS:
        raise InputError(
            f"The label has {len(names)} different values, more than the {MOST_SEGMENTS} segments taken. "
            "Is it the scan instead of its label?"
        )
    said = [*(entry.name for entry in label_info), *in_file.values()]
    if not names and not says_nothing_found(said, params):
        raise InputError(
            "The label has no labelled voxel; nothing was stored. To say that the scan has no nodule, add an empty "
            "segment named 'no nodules' and submit again."
        )
    return names


def _renumbered(label_map: LabelMap, names: Mapping[int, str]) -> LabelMap:
    """Values 1, 2, … in the order of the old ones; values without a name become background."""
    table = np.zeros(max([0, *present_values(label_map.labels)]) + 1, dtype=np.uint8)
    for new, old in enumerate(sorted(names), start=1):
        table[old] = new
    labels: NDArray[np.generic] = np.zeros(label_map.labels.shape, dtype=np.uint8, order="F")
    box = IndexBox.of_mask(label_map.labels)
    if box is not None:
        labels[box.slices] = table[label_map.labels[box.slices].astype(np.intp)]
    distinct = distinct_names([names[value] for value in sorted(names)])
    segments = tuple(
        Segment(value=value, name=name, colour_rgb=palette_colour(value))
        for value, name in enumerate(distinct, start=1)
    )
    return LabelMap(geometry=label_map.geometry, labels=labels, segments=segments)
