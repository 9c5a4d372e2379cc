"""Files that are either the old ones or the new ones, never something in between.

Everything medai keeps in a study is replaced through a temporary file in the same folder, flushed to the disk before
its rename. A kill or a power cut at any moment leaves the last good file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medai.errors import StorageError
from medai.volume_io.atomic import disk_words

TEMPORARY_PREFIX = ".medai-tmp-"
"""Leads the name of every file that is not published yet; such files are never cases or labels."""

ABANDONED_AFTER_S = 3600.0
"""No copy of a label or a scan takes an hour."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``.

    Raises:
        StorageError: the disk refused; ``path`` is unchanged.
    """
    with staged_file(path) as staged:
        staged.write_bytes(content)
        publish(staged, path)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON, without NaN, which no other reader accepts."""
    write_bytes(path, json.dumps(value, allow_nan=False).encode())


def plain_json(value: Any) -> Any:
    """A deep copy that anything can keep: no NaN, no infinity, no half characters, and text for unknown types."""
    if isinstance(value, dict):
        return {whole_text(str(key)): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else whole_text(str(value))


def whole_text(text: str) -> str:
    """The text with every lone surrogate, which no file, database or log takes, replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Give a temporary file beside ``target``, for ``publish``; it is removed where it was not published.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=target.parent)
        # mkstemp makes files for the owner alone; a study is often shared through its group.
        os.fchmod(handle, 0o666 & ~_umask())
        os.close(handle)
    except OSError as error:
        raise StorageError(f"Cannot write in {target.parent}: {disk_words(error)}.") from error
    staged = Path(name)
    try:
        yield staged
    except OSError as error:
        raise StorageError(f"Cannot write {target}: {disk_words(error)}; what was there is unchanged.") from error
    finally:
        staged.unlink(missing_ok=True)


def publish(staged: Path, target: Path) -> None:
    """Flush a staged file to the disk and rename it to ``target``, which it replaces."""
    sync_file(staged)
    staged.replace(target)
    _sync_folder(target.parent)


def copy_into(source: Path, staged: Path) -> None:
    """Copy the bytes of ``source`` into a staged file."""
    with source.open("rb") as read, staged.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)


def delete(path: Path) -> None:
    """Delete a file; one that is not there is no error.

    Raises:
        StorageError: the disk refused.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot delete {path}: {error.strerror}. Check its permissions.") from error


def sweep(folder: Path) -> None:
    """Delete temporary files that a killed writer left in ``folder``; younger ones may belong to a living writer."""
    with contextlib.suppress(OSError):
        for leftover in folder.glob(TEMPORARY_PREFIX + "*"):
            if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER_S:
                leftover.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the content of ``path`` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk; some network file systems cannot, and that is no error."""
    with contextlib.suppress(OSError):
        sync_file(folder)


def _umask() -> int:
    # Only settable, not readable, through os; Linux shows it here without touching it (threads share it).
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
