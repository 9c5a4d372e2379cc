"""Files that appear whole or not at all: written under a temporary name beside the target, then moved over it."""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Iterator
from pathlib import Path

from medai.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.ENODEV,
    }
)
"""What the system says when it, a disk or a network share is at fault."""


def is_full(error: OSError) -> bool:
    """Whether the disk, or what this user may have of it, is full."""
    return error.errno in _FULL


def own_fault(error: BaseException) -> OSError | None:
    """The error of this machine, and not of what was read, that another was raised from; None where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (seen.errno in _FULL or seen.errno in _OURS):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def disk_words(error: OSError) -> str:
    """What the disk said, and what to do about it, in a sentence or two without a full stop at the end."""
    said = error.strerror or str(error)
    if is_full(error):
        return f"{said}. Free space on that disk and try again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{said}. Check its permissions"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{said}. Close what holds files open, or raise the limit (ulimit -n)"
    return f"{said}. Check the disk"


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
            f"{path.name} could not be written in {path.parent}: {disk_words(error)}; what was there is unchanged."
        ) from error
    finally:
        # A read-only disk refuses to remove even what is not there.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
