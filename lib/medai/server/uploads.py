"""What clients send: labels and scans, checked before anything of the study is touched.

A label that is stored is always a ``.nii.gz`` on its scan's own grid, with values 1, 2, … and a name for each; boxes
are stored as Slicer markups. Everything else is refused with a sentence the annotator can act on. Headers are judged
before voxels are decoded, so that a file cannot ask for more memory than its scan justifies.

Threads: pure functions of their arguments; they block (decoding), so the server calls them from its transfer threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.domain import LabelMap
from medai.errors import InputError, UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.server.detections import detection_tag, read_detections
from medai.store.names import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, check_case_id, check_tag, split_extension
from medai.volume_io.plausibility import check_chest_ct
from medai.volume_io.readers import ReadBudget, ReadOptions, read_geometry, read_volume
from medai.volume_io.scan_labels import LABEL_BUDGET, read_scan_label
from medai.volume_io.writers import write_label_map, write_volume

LABEL_UPLOAD_EXTENSIONS = LABEL_EXTENSIONS
IMAGE_UPLOAD_EXTENSIONS = (*IMAGE_EXTENSIONS, ".dcm")
"""A single DICOM file is a scan where it is an enhanced multi-frame one; it is stored as .nii.gz."""

LARGEST_PARAMS_BYTES = 256 << 10
"""What a client says about a label is kept in the study's index, which is read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """How large an upload may be.

    Attributes:
        largest_bytes: of the file as sent.
        budget: what is decoded of it, asked of its header; of a label all layers of a segmentation together.
    """

    largest_bytes: int = 2 << 30
    budget: ReadBudget = LABEL_BUDGET


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
        params: the client's form fields: ``label_info`` (see ``volume_io.label_names``), ``client_id`` …
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
    label = read_scan_label(path, scan, params, budget=limits.budget)
    if label.is_unfinished:
        raise InputError(
            "The label has no labelled voxel; nothing was stored. To say that the scan has no nodule, add an empty "
            "segment named 'no nodules' and submit again."
        )
    checked = label.label_map
    target = output_folder / "checked.nii.gz"
    write_label_map(checked, target)
    label_info = [{"name": segment.name, "idx": segment.value} for segment in checked.segments]
    info = {**params, "label_info": label_info, "label_names": checked.label_names}
    info["no_findings"] = label.says_nothing_found
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
    if file_name.lower().endswith(".seg.nrrd"):
        raise UnsupportedScanError(
            f"{file_name[:120]} is a segmentation. Upload the scan, then submit this as its label."
        )
    case_id = check_case_id(case_id or split_extension(Path(file_name).name, IMAGE_UPLOAD_EXTENSIONS)[0])
    _check_size(path, limits)
    read_geometry(path, budget=limits.budget)
    volume = read_volume(path, options=ReadOptions(budget=limits.budget))
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
