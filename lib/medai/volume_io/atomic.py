"""Files that appear whole or not at all: written under a temporary name beside the target, then moved over it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from medai.errors import StorageError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it replaces ``path``, on failure nothing is left behind.

    The temporary name starts with a dot (directory listings of a study skip it) and keeps the ending, because image
    libraries choose the format by it.

    Args:
        path: the file to be written; its folder must exist.

    Yields:
        The path to write to.

    Raises:
        StorageError: the folder does not exist or the disk refuses.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path.name} could not be written: {error.strerror or error}. Check the folder and the free space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
