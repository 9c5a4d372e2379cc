"""What lies in a folder, listed again only when the folder changed.

A study may hold thousands of scans and is looked at on every request. A folder's modification time moves when a name
comes or goes, so one ``stat`` usually says that nothing happened.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SETTLED_AFTER_S = 2.0
"""A change within the clock tick of the last listing leaves the same modification time; ticks are up to 10 ms on local
disks and up to 2 s on FAT ones. A folder that changed more recently than this is therefore listed again (2 ms for 2,000
names)."""

FINE_TICK_S = 0.1
"""Enough where stamps have fractions of a second: a listing made so long after a stamp was first met has all that bears
this stamp, whatever the clock of the disk says. While labels come in the folder changes again and again."""


class FolderListing:
    """The names of the files in one folder; not thread-safe by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: frozenset[str] = frozenset()
        self._folders: frozenset[str] = frozenset()
        self._listed: tuple[int, int] | None = None
        self._met: tuple[int, int] | None = None
        self._met_s = 0.0

    def files(self) -> frozenset[str]:
        """Names of files and links to files, hidden ones left out; the same object while nothing changed."""
        self._look()
        return self._names

    def folders(self) -> frozenset[str]:
        """Names of sub-folders, hidden ones left out."""
        self._look()
        return self._folders

    def _look(self) -> None:
        try:
            status = self.folder.stat()
        except OSError:
            self._names = self._folders = frozenset()
            self._listed = None
            return
        state = (status.st_mtime_ns, status.st_ino)
        if state == self._listed:
            return
        met_s = time.monotonic()
        if state != self._met:
            self._met, self._met_s = state, met_s
        names, folders = _list(self.folder)
        # Equal sets stay the same object, so that callers may compare by identity.
        self._names = self._names if names == self._names else names
        self._folders = self._folders if folders == self._folders else folders
        has_fine_stamps = status.st_mtime_ns % 1_000_000_000 != 0
        settled = time.time() - status.st_mtime > SETTLED_AFTER_S or met_s - self._met_s > (
            FINE_TICK_S if has_fine_stamps else SETTLED_AFTER_S
        )
        self._listed = state if settled else None


def _list(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    names, folders = set(), set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                names.add(entry.name)
            elif entry.is_dir():
                folders.add(entry.name)
    return frozenset(names), frozenset(folders)
