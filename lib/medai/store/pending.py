"""A note of the label being saved, so that a kill between its two renames loses neither the label nor its info.

A label is a file and an entry in the index; no file system renames both at once. The note is written before the first
rename and deleted after the second. Whoever writes next finds it, sees by the file's identity whether the label was
already in place, and completes the entry or forgets the note.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.store.atomic import sync_file, write_json

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptedSave:
    """A save whose note was left behind.

    Attributes:
        case_id: the case.
        tag: the label's tag.
        extension: of the label's file.
        info: of the label.
        is_published: the label's file is in place; only the index lacks it.
    """

    case_id: str
    tag: str
    extension: str
    info: dict[str, Any]
    is_published: bool


class PendingLabel:
    """The note; callers hold the study's lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "pending_label.json"

    def write(
        self, staged: Path, target: Path, *, case_id: str, tag: str, extension: str, info: dict[str, Any]
    ) -> None:
        """Note that ``staged`` is about to become ``target``."""
        sync_file(staged)
        record = {"case_id": case_id, "tag": tag, "extension": extension, "info": info}
        write_json(self._path, {**record, "target": str(target), "identity": _identity(staged)})

    def read(self) -> InterruptedSave | None:
        """The save that was interrupted, if one was."""
        try:
            record = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            _logger.warning("%s is unreadable and is dropped; no label depends on it", self._path)
            return None
        identity = None
        with contextlib.suppress(OSError):
            identity = _identity(Path(record["target"]))
        return InterruptedSave(
            case_id=record["case_id"],
            tag=record["tag"],
            extension=record["extension"],
            info=record["info"],
            is_published=identity == record["identity"],
        )

    def clear(self) -> None:
        """Forget the note."""
        self._path.unlink(missing_ok=True)


def _identity(path: Path) -> list[int]:
    """A rename keeps all three."""
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]
