"""Files that appear whole or not at all: written under a temporary name beside the target, then moved over it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from medai.errors import StorageError


@contextlib.contextmanager
def atomic_path(path: Path, *, ending: str = ".part") -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it replaces ``path``, on failure nothing is left behind.

    The temporary name is hidden and does not end like a scan, so that nobody who lists or watches a study takes it for
    one (stock MONAI Label matches ``*.nii.gz`` against hidden names too).

    Args:
        path: the file to be written; its folder must exist.
        ending: of the temporary name, for a library that chooses the format by it.

    Yields:
        The path to write to.

    Raises:
        StorageError: the folder does not exist or the disk refuses.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}{ending}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path.name} could not be written: {error.strerror or error}. Check the folder and the free space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
