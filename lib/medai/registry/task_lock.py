"""One writer at a time to a task's models, between threads and processes."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from medai.errors import ConflictError, StorageError
from medai.volume_io.atomic import disk_words

LOCK_TIMEOUT_S = 120.0
"""A publish copies some tens of megabytes: a lock held longer belongs to a process that hangs."""


class TaskLock:
    """The task's lock, with an error in words where it cannot be had."""

    def __init__(self, path: Path, task: str) -> None:
        self._task = task
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The folder of models {path.parent} cannot be made: {disk_words(error)}.") from error
        self._lock = FileLock(path, timeout=LOCK_TIMEOUT_S)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConflictError(
                f"Another process has been publishing a model of '{self._task}' for {LOCK_TIMEOUT_S:.0f} s: try again."
            ) from error
        except OSError as error:
            raise StorageError(f"The models of '{self._task}' cannot be locked: {disk_words(error)}.") from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()
