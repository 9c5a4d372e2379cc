"""The files of the history: what their names say, and what is known of a label that has lost its row.

The id of a label says when it was submitted, and sorts by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain.annotation import Annotation
from medai.errors import MedaiError, StorageError
from medai.store.atomic import plain_json

ABOUT_SUFFIX = ".about.json"
PROPOSAL_SUFFIX = ".proposal"

FINAL = "final"
"""MONAI Label's tag of an accepted label."""

_ID = re.compile(r"(\d{8}T\d{12})-[0-9a-f]{6}(?=\.)")
_TIME_FORMAT = "%Y%m%dT%H%M%S%f"

_KEPT = (
    "tag",
    "annotator",
    "submitted_at_s",
    "seconds_spent",
    "proposal_model",
    "proposal_version",
    "sha256",
    "nodules",
    "volume_ml",
    "quarantine_reason",
)
"""What an about-file holds of an annotation."""

_logger = logging.getLogger(__name__)


def annotation_id_of(path: Path) -> str:
    """The annotation a file belongs to; "" where it is none of ours."""
    found = _ID.match(path.name)
    return found.group() if found else ""


def time_of_id(annotation_id: str) -> float:
    """When an annotation was submitted, seconds since 1970; 0 where its id does not say."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(annotation_id.partition("-")[0], _TIME_FORMAT).replace(tzinfo=UTC).timestamp()
    return 0.0


def label_files(case_folder: Path) -> list[Path]:
    """The kept labels of a case, oldest first."""
    found = [path for path in case_folder.iterdir() if annotation_id_of(path) and path.is_file()]
    return sorted(path for path in found if not path.name.endswith(ABOUT_SUFFIX))


def has_label(about_path: Path) -> bool:
    """Whether the label of an about-file was kept."""
    wanted = annotation_id_of(about_path)
    return any(annotation_id_of(path) == wanted for path in label_files(about_path.parent))


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error


def about_of(annotation: Annotation, info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an about-file: what a row says, and what is kept with the study's own label."""
    known = {name: getattr(annotation, name) for name in _KEPT}
    about: dict[str, Any] = plain_json({**known, "info": dict(info)})
    return about


def named_segments(info: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """Voxel value and name of each segment in what is kept with a label (``label_info``); entries without are left out.

    Args:
        info: of the label, as the server has checked it: ``idx`` is the voxel value.
    """
    entries = info.get("label_info")
    return tuple(
        (entry["idx"], str(entry["name"]))
        for entry in (entries if isinstance(entries, list | tuple) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("idx"), int) and entry.get("name")
    )


def read_about(path: Path) -> dict[str, Any]:
    """An about-file's content; empty where there is none or it cannot be read.

    What is no text in it is mended: a client once sent half a character as its name, the row could not be written, and
    taking the label up again failed at every opening.
    """
    try:
        about = plain_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def orphan_of(path: Path, about: Mapping[str, Any]) -> Annotation:
    """The annotation of a file without a row; without its about-file little is known but the label itself."""
    annotation_id = annotation_id_of(path)
    info = about.get("info")
    known = {name: about[name] for name in _KEPT if name in about}
    if len(known) < len(_KEPT):
        nodules, volume_ml = _measured(path)
        known = {
            "tag": "detection" if path.suffix == ".json" else FINAL,
            "annotator": "",
            "submitted_at_s": time_of_id(annotation_id),
            "seconds_spent": None,
            "proposal_model": None,
            "proposal_version": None,
            "sha256": sha256_of_file(path),
            "nodules": nodules,
            "volume_ml": volume_ml,
            "quarantine_reason": "",
            **known,
        }
    return Annotation(
        annotation_id=annotation_id,
        case_id=path.parent.name,
        file_name=f"{path.parent.name}/{path.name}",
        correction=None,
        segment_names=named_segments(info if isinstance(info, Mapping) else {}),
        **known,
    )


def _measured(path: Path) -> tuple[int, float]:
    """Segments and volume (ml) of a kept label; boxes, and what cannot be read, count as none."""
    if path.suffix == ".json":
        return 0, 0.0
    from medai.volume_io.readers import read_label_map

    try:
        label_map = read_label_map(path)
    except MedaiError as error:
        _logger.warning("A kept label cannot be read: %s", error)
        return 0, 0.0
    voxels = int(np.count_nonzero(label_map.labels))
    return len(label_map.segments), voxels * label_map.geometry.voxel_volume_mm3 / 1000.0


def link_or_copy(source: str, target: str) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
