"""How the files of the history are named: the id of a label says when it was submitted, and sorts by it."""

from __future__ import annotations

import contextlib
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

from medai.errors import StorageError

ABOUT_SUFFIX = ".about.json"
PROPOSAL_SUFFIX = ".proposal"

_ID = re.compile(r"(\d{8}T\d{12})-[0-9a-f]{6}(?=\.)")
_TIME_FORMAT = "%Y%m%dT%H%M%S%f"


def annotation_id_of(path: Path) -> str:
    """The annotation a file belongs to; "" where it is none of ours."""
    found = _ID.match(path.name)
    return found.group() if found else ""


def time_of_id(annotation_id: str) -> float:
    """When an annotation was submitted, seconds since 1970; 0 where its id does not say."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(annotation_id.partition("-")[0], _TIME_FORMAT).replace(tzinfo=UTC).timestamp()
    return 0.0


def label_files(case_folder: Path) -> list[Path]:
    """The kept labels of a case, oldest first."""
    found = [path for path in case_folder.iterdir() if annotation_id_of(path) and path.is_file()]
    return sorted(path for path in found if not path.name.endswith(ABOUT_SUFFIX))


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
