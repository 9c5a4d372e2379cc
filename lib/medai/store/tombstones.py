"""Scans that are gone for good: what of a study's history belonged to them.

``.medai/deleted/<case id>.json`` says when the scan of that id was deleted, or found replaced by another one. Labels
of the history that were submitted before stay readable and count for nothing: they are of voxels that are not there.
Labels that were set aside because their scan was replaced lie beside it, in ``<case id>.<time>/<tag>/``.

A tombstone is put before anything is deleted, and says so until all is: a kill in between is completed at the next
opening.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.names import check_case_id

_logger = logging.getLogger(__name__)

_SETTLED_AFTER_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """What is remembered of a scan that is gone.

    Attributes:
        case_id: its id, which another scan may have now.
        deleted_at_s: when, seconds since 1970; what was submitted until then was its.
        reason: "deleted" or "replaced".
        file_name: of the scan.
        is_pending: its deletion has begun and may not have ended.
    """

    case_id: str
    deleted_at_s: float
    reason: str
    file_name: str
    is_pending: bool = False


class Tombstones:
    """The tombstones of one study; any thread, any process that holds the study's lock to put one."""

    def __init__(self, studies: Path) -> None:
        self.folder = state_folder(studies) / "deleted"
        self._lock = threading.Lock()
        self._known: dict[str, Tombstone] = {}
        self._read_at_ns: int | None = None

    def put(self, tombstone: Tombstone) -> None:
        """Put or change one.

        Raises:
            StorageError: the disk refused.
        """
        write_json(self.folder / f"{check_case_id(tombstone.case_id)}.json", asdict(tombstone))
        with self._lock:
            self._read_at_ns = None

    def all(self) -> Mapping[str, Tombstone]:
        """Case id to its latest tombstone; one ``stat`` while nothing changes."""
        with self._lock:
            try:
                changed_ns = self.folder.stat().st_mtime_ns
            except OSError:
                return {}
            if changed_ns != self._read_at_ns:
                self._known = {
                    each.case_id: each for path in sorted(self.folder.glob("*.json")) if (each := _read(path))
                }
                is_settled = time.time_ns() - changed_ns > _SETTLED_AFTER_NS
                self._read_at_ns = changed_ns if is_settled else None
            return self._known

    def label_folder(self, case_id: str, deleted_at_s: float) -> Path:
        """Where the labels of a replaced scan are set aside."""
        return self.folder / f"{case_id}.{deleted_at_s:.0f}"


def _read(path: Path) -> Tombstone | None:
    try:
        content = json.loads(path.read_bytes())
        return Tombstone(
            case_id=str(content["case_id"]),
            deleted_at_s=float(content["deleted_at_s"]),
            reason=str(content["reason"]),
            file_name=str(content["file_name"]),
            is_pending=bool(content["is_pending"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        _logger.warning("%s is unreadable: %s", path, error)
        return None
