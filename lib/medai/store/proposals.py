"""What a model has drawn for whom: remembered until the label comes back, so that the correction can be measured.

A proposal is what an annotator's scene holds: the segments of the last whole-scan answer, and over them the segment of
each click. 3D Slicer replaces a segment by the click's answer of the same name; so does ``read_proposal``.

Layout: ``.medai/proposals/<case id>/<client>/``, with ``proposal.json`` naming the files that count. A kill leaves the
former proposal or the new one. Threads and processes: any; each annotator's requests come one after the other, and of
two at once one is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError
from medai.geometry import IndexBox
from medai.store.atomic import write_bytes, write_json
from medai.store.layout import state_folder
from medai.store.names import check_case_id

MOST_CASES = 500
"""Cases whose proposals are remembered, the latest; a proposal is some hundred kilobytes."""

MOST_CLIENTS = 8
"""Annotators remembered a case."""

MOST_CLICKED_SEGMENTS = 100

_INDEX = "proposal.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalPart:
    """One answer of a model.

    Attributes:
        model: the task that answered.
        version: its version; "" where it has none.
        payload: the label map's file, on the whole scan's grid.
        extension: of that file, such as ``.nrrd``.
        label_names: name to value.
        segment: the segment that a click outlined; None for a whole scan's answer.
    """

    model: str
    version: str
    payload: bytes
    extension: str
    label_names: Mapping[str, int]
    segment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedProposal:
    """Where a proposal lies and what it is from.

    Attributes:
        folder: its files.
        model: the tasks that drew it, joined by "+".
        version: their versions, joined by "+".
        since_s: when its first part was answered, seconds since 1970.
    """

    folder: Path
    model: str
    version: str
    since_s: float


class ProposalStore:
    """The proposals of one study."""

    def __init__(self, studies: Path) -> None:
        self.folder = state_folder(studies) / "proposals"

    def remember(self, case_id: str, client_id: str, part: ProposalPart) -> None:
        """Remember an answer: a whole scan's replaces what there was, a click's joins it.

        Raises:
            StorageError: the disk refused; what was remembered stays.
        """
        folder = self._of(case_id, client_id)
        now = time.time()
        index = _read_index(folder)
        kept = [] if index is None or part.segment is None else index["parts"]
        kept = [other for other in kept if other["segment"] is None or other["segment"] != part.segment]
        kept = kept[-MOST_CLICKED_SEGMENTS:]
        file_name = f"{time.time_ns()}{part.extension}"
        write_bytes(folder / file_name, part.payload)
        new = {
            "file": file_name,
            "model": part.model,
            "version": part.version,
            "label_names": dict(part.label_names),
            "segment": part.segment,
        }
        since_s = now if index is None or part.segment is None else index["since_s"]
        parts = [*kept, new]
        write_json(folder / _INDEX, {"since_s": since_s, "parts": parts})
        names = {_INDEX, *(other["file"] for other in parts)}
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)
        _prune(folder.parent, MOST_CLIENTS, keep=folder)
        _prune(self.folder, MOST_CASES, keep=folder.parent)

    def find(self, case_id: str, client_id: str) -> RememberedProposal | None:
        """What this client was last given for a case; None where that is not known."""
        folder = self._of(case_id, client_id)
        index = _read_index(folder)
        if index is None:
            return None
        models = dict.fromkeys(str(part["model"]) for part in index["parts"])
        versions = dict.fromkeys(str(part["version"]) for part in index["parts"])
        return RememberedProposal(
            folder=folder, model="+".join(models), version="+".join(versions), since_s=float(index["since_s"])
        )

    def forget(self, case_id: str) -> None:
        """Drop the proposals of a case; it is gone from the study."""
        shutil.rmtree(self.folder / check_case_id(case_id), ignore_errors=True)

    def _of(self, case_id: str, client_id: str) -> Path:
        # A client's name is free text: its digest is a folder's name.
        return self.folder / check_case_id(case_id) / hashlib.sha256(client_id.encode()).hexdigest()[:16]


def read_proposal(folder: Path) -> LabelMap | None:
    """Put a proposal's parts together as the annotator's scene does; None where nothing is there.

    Raises:
        InputError: a part cannot be read.
        GeometryError: the parts are on different grids.
    """
    from medai.volume_io.readers import read_label_map

    index = _read_index(folder)
    if index is None:
        return None
    geometry = None
    names: dict[str, int] = {}
    labels = np.zeros((0, 0, 0), dtype=np.uint16)
    for part in index["parts"]:
        drawn = read_label_map(folder / part["file"])
        if geometry is None:
            geometry, labels = drawn.geometry, np.zeros(drawn.labels.shape, dtype=np.uint16)
        elif not geometry.is_same_grid(drawn.geometry):
            raise GeometryError(f"The parts of a proposal in {folder} are on different grids; it cannot be compared.")
        former = names.pop(part["segment"], None)
        if former is not None:
            labels[labels == former] = 0
        box = IndexBox.of_mask(drawn.labels)
        for name, value in part["label_names"].items():
            new = max(names.values(), default=0) + 1
            names[name] = new
            if box is not None:
                labels[box.slices][drawn.labels[box.slices] == value] = new
    if geometry is None:
        return None
    segments = tuple(Segment(value=value, name=name) for name, value in names.items())
    return LabelMap(geometry=geometry, labels=labels, segments=segments)


def _read_index(folder: Path) -> dict[str, Any] | None:
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        # What is used of it, so that a damaged one is met here.
        complete = bool(index["parts"]) and all(
            {"file", "model", "version", "label_names", "segment"} <= part.keys() for part in index["parts"]
        )
        return index if complete and float(index["since_s"]) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _logger.warning("A remembered proposal is unreadable and is not compared with: %s", error)
        return None


def _prune(folder: Path, most: int, *, keep: Path) -> None:
    with contextlib.suppress(OSError):
        found = [path for path in folder.iterdir() if path.is_dir() and path != keep]
        for path in sorted(found, key=lambda path: path.stat().st_mtime)[: max(0, len(found) + 1 - most)]:
            shutil.rmtree(path, ignore_errors=True)
