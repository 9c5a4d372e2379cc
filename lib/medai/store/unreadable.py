"""Which scans of a study cannot be read, and why: found out once, kept until the file changes.

``.medai/unreadable.json``, shared by the server and the commands. An entry holds for the file as it was (name, size,
times): mended, replaced or made accessible, the scan is a case again. It also holds for one version of medai, since the
next may read what this one cannot.

Threads and processes: any. A study that cannot be written remembers in memory alone.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import medai
from medai.errors import MedaiError
from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock

_logger = logging.getLogger(__name__)

FileState = tuple[str, int, int, int]
"""Name, size, and the times of the last change of content and of permissions, nanoseconds."""

Entry = tuple[FileState, str]
"""The file's state, and why it cannot be read."""


def file_state(path: Path) -> FileState | None:
    """What a file is known by without reading it; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class UnreadableScans:
    """The scans of one study that cannot be read."""

    def __init__(self, studies: Path, *, read_only: bool = False) -> None:
        """Open the record of a study.

        Args:
            studies: the study folder.
            read_only: keep what is found out in memory.
        """
        folder = state_folder(studies)
        self._path = folder / "unreadable.json"
        self._lock_path = folder / "unreadable.lock"
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._read_at: tuple[int, int] | None = None
        self._read_only = read_only

    def entries(self) -> Mapping[str, Entry]:
        """Case to the file's state and the reason, as they were found; the file may have changed since."""
        with self._lock:
            self._look()
            return dict(self._entries)

    def note(self, found: Mapping[str, Entry]) -> None:
        """Remember scans that cannot be read, each with its file's state and the reason in words."""
        if found:
            self._change(lambda entries: {**entries, **found})

    def forget(self, case_ids: set[str]) -> None:
        """Forget what was noted of cases: they are other files now, or gone."""
        if case_ids & self.entries().keys():
            self._change(lambda entries: {key: value for key, value in entries.items() if key not in case_ids})

    def _change(self, change: Callable[[dict[str, Entry]], dict[str, Entry]]) -> None:
        with self._lock:
            if self._read_only:
                self._look()
                self._entries = change(self._entries)
                return
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with ExclusiveLock(self._lock_path).hold():
                    self._look()
                    self._entries = change(self._entries)
                    cases = {case: {"file": state, "reason": why} for case, (state, why) in self._entries.items()}
                    write_json(self._path, {"version": medai.__version__, "cases": cases})
                    self._read_at = _stamp(self._path)
            except (MedaiError, OSError) as error:
                self._entries = change(self._entries)
                _logger.warning("Which scans cannot be read is remembered until this process ends: %s", error)

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._read_at or stamp is None:
            return
        self._read_at = stamp
        try:
            content = json.loads(self._path.read_bytes())
            known = content["cases"] if content["version"] == medai.__version__ else {}
            self._entries = {str(case): (_state(entry["file"]), str(entry["reason"])) for case, entry in known.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is unreadable and is started anew: %s", self._path, error)
            self._entries = {}


def _state(stored: list[str | int]) -> FileState:
    name, size, changed_ns, permitted_ns = stored
    return (str(name), int(size), int(changed_ns), int(permitted_ns))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino)
