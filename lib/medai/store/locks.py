"""One writer at a time, between threads and between processes.

A training runs in a process of its own and an operator may run the command line beside the server: a lock in memory is
not enough. The file lock is the operating system's (``flock``), so a killed process leaves nothing to clean up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock

from medai.errors import StorageError
from medai.volume_io.atomic import disk_words

LOCK_TIMEOUT_S = 30.0
"""A write takes milliseconds; whoever waits longer than this waits for something that hangs."""

POLL_INTERVAL_S = 0.005
"""The library's own 50 ms would be most of the time that saving a label takes when two processes meet."""


class ExclusiveLock:
    """A re-entrant lock between threads and processes, on one file."""

    def __init__(self, path: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._thread_lock = threading.RLock()
        self._file_lock = filelock.FileLock(path, thread_local=False)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            StorageError: another one held it for the whole time-out, or the lock file cannot be made.
        """
        if not self._thread_lock.acquire(timeout=self._timeout_s):
            raise self._waited_too_long()
        try:
            with self._hold_file():
                yield
        finally:
            self._thread_lock.release()

    @contextlib.contextmanager
    def _hold_file(self) -> Iterator[None]:
        try:
            self._file_lock.acquire(timeout=self._timeout_s, poll_interval=POLL_INTERVAL_S)
        except filelock.Timeout as error:
            raise self._waited_too_long() from error
        except OSError as error:
            raise StorageError(f"Cannot lock {self._path}: {disk_words(error)}.") from error
        try:
            yield
        finally:
            self._file_lock.release()

    def _waited_too_long(self) -> StorageError:
        return StorageError(
            f"{self._path} has been locked by another process for more than {self._timeout_s:g} s; "
            "nothing was written. Look for a medai or MONAI Label process that hangs."
        )
