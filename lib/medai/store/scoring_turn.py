"""Who scores a study just now: one at a time, so that no case is scored twice at once.

A server scores in the background, and somebody may start ``medai score`` beside it to have more machines at it. The
lock is the operating system's: a killed process gives its turn back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from medai.errors import ConflictError, StorageError
from medai.store.layout import state_folder

POLL_S = 0.2


class ScoringTurn:
    """The right to score a study; not for several threads at once."""

    def __init__(self, studies: Path) -> None:
        folder = state_folder(studies)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"Cannot write in {folder}: {error.strerror}. Check its permissions.") from error
        self._lock = filelock.FileLock(folder / "scoring.lock", thread_local=False)

    def take(self) -> bool:
        """Take the turn if nobody else has it; True where it is ours now."""
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except OSError as error:
            raise StorageError(f"Cannot lock {self._lock.lock_file}: {error.strerror}.") from error
        return True

    def give_back(self) -> None:
        """Let others score."""
        self._lock.release()

    @contextlib.contextmanager
    def taken(self, *, wait_s: float, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Have the turn.

        Args:
            wait_s: how long to wait for it.
            on_wait: called once where somebody else has it.

        Raises:
            ConflictError: somebody else had it for the whole time.
        """
        until = time.monotonic() + wait_s
        waits = False
        while not self.take():
            if not waits:
                on_wait()
                waits = True
            if time.monotonic() > until:
                raise ConflictError(
                    f"Another 'medai score' has been scoring this study for more than {wait_s:.0f} s. What it has "
                    "scored need not be scored again; wait for it, or stop it."
                )
            time.sleep(POLL_S)
        try:
            yield
        finally:
            self.give_back()
