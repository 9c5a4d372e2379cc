"""One folder for everything the server holds for a moment: uploads on their way in, answers, archives on their way out.

It lies in the study (``.medai/tmp``), on the disk that uploads end on, and only the owner may look into it: uploads are
scans of patients. Each server has a folder of its own in it and holds a lock while it lives; what a killed one has left
is removed by the next.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import filelock

from medai.errors import StorageError
from medai.volume_io.atomic import disk_words

logger = logging.getLogger(__name__)

_LOCK_SUFFIX = ".lock"


class TemporaryFolder:
    """The folder of one server; every library of this process makes its temporary files there until it is closed.

    Args:
        parent: the folder of all servers of the study; made where it is missing.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.path = parent / name
        self._lock = filelock.FileLock(parent / f"{name}{_LOCK_SUFFIX}", thread_local=False)
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            parent.chmod(0o700)
            _remove_left(parent)
            self._lock.acquire(timeout=0)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise StorageError(f"Cannot make a temporary folder in {parent}: {disk_words(error)}.") from error
        # Starlette stores uploads where Python's tempfile says; so does all that a library makes for a moment.
        self._before = tempfile.tempdir
        tempfile.tempdir = str(self.path)

    def close(self) -> None:
        """Remove the folder; temporary files are made where they were before."""
        # Several in one process, as tests have them, may close in any order.
        if tempfile.tempdir == str(self.path):
            tempfile.tempdir = self._before if self._before and Path(self._before).is_dir() else None
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def _remove_left(parent: Path) -> None:
    """Remove the folders whose server no longer lives."""
    names = {path.name.removesuffix(_LOCK_SUFFIX) for path in parent.iterdir()}
    for name in sorted(names):
        lock = filelock.FileLock(parent / f"{name}{_LOCK_SUFFIX}", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        try:
            if (parent / name).is_dir():
                logger.info("Removing what a server left in %s", name)
                shutil.rmtree(parent / name, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
        finally:
            lock.release()
