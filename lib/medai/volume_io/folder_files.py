"""The files below a folder, links followed: data servers and DataLad hand out folders of links to patients' folders.

Each folder and each file is met once, however many links lead to it, so that a link back to a folder above ends the
way there and two links to one scan are one scan. Hidden files and folders are passed over. What cannot be looked at (a
link to nothing, a folder without permission) is told, never silently missing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """Something that could not be looked at.

    Attributes:
        path: where it lies.
        reason: why, and what to do.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFiles:
    """What lies below a folder.

    Attributes:
        files: in the order of their paths.
        unreachable: in the order of their paths.
    """

    files: tuple[Path, ...]
    unreachable: tuple[Unreachable, ...]


def find_files(folder: Path, *, pass_over: Callable[[Path], bool] = lambda path: False) -> FolderFiles:
    """Find the files below a folder.

    Args:
        folder: where to begin; a link to a folder is followed.
        pass_over: asked of each folder and file; where it says so, it is as if it were not there.
    """
    files: list[Path] = []
    unreachable: list[Unreachable] = []
    met: set[tuple[int, int] | str] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            if not _is_new(here, met):
                continue
            with os.scandir(here) as entries:
                # What lies here comes before what is linked here, which then is named by where it really lies.
                found = sorted((e.is_symlink(), e.name) for e in entries if not e.name.startswith("."))
        except OSError as error:
            unreachable.append(Unreachable(path=here, reason=_why(here, error)))
            continue
        folders: list[Path] = []
        for path in (here / name for _, name in found):
            if pass_over(path):
                continue
            try:
                if stat.S_ISDIR(path.stat().st_mode):
                    folders.append(path)
                elif path.is_file() and _is_new(path, met):
                    files.append(path)
            except OSError as error:
                unreachable.append(Unreachable(path=path, reason=_why(path, error)))
        waiting += reversed(folders)
    return FolderFiles(files=tuple(sorted(files)), unreachable=tuple(sorted(unreachable, key=lambda each: each.path)))


def _is_new(path: Path, met: set[tuple[int, int] | str]) -> bool:
    status = path.stat()
    # Some network file systems number nothing.
    key = (status.st_dev, status.st_ino) if status.st_ino else str(path.resolve())
    if key in met:
        return False
    met.add(key)
    return True


def _why(path: Path, error: OSError) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return (
            "It is a link to something that is not there. Where DataLad or git-annex made it, fetch its content "
            "('datalad get', 'git annex get'); else mend the link."
        )
    if path.is_symlink():
        return f"It is a link that leads nowhere ({error.strerror}). Mend the link."
    return f"It cannot be looked at ({error.strerror}). Check its permissions."
