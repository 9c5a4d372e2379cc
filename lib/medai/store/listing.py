"""What lies in a folder, listed again only when the folder changed.

A study may hold thousands of scans and is looked at on every request. A folder's modification time moves when a name
comes or goes, so one ``stat`` usually says that nothing happened.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SETTLED_AFTER_S = 2.0
"""A change within the clock tick of the last listing leaves the same modification time; ticks are 4 ms on local disks
and up to 2 s on network and FAT ones. A folder that changed more recently than this is therefore listed again (2 ms for
2,000 names)."""


class FolderListing:
    """The names of the files in one folder; not thread-safe by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: frozenset[str] = frozenset()
        self._folders: frozenset[str] = frozenset()
        self._listed: tuple[int, int] | None = None

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
        names, folders = _list(self.folder)
        # Equal sets stay the same object, so that callers may compare by identity.
        self._names = self._names if names == self._names else names
        self._folders = self._folders if folders == self._folders else folders
        settled = time.time() - status.st_mtime > SETTLED_AFTER_S
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
