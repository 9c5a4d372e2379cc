"""The small file that says which version answers: replaced in one step, read on every request."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medai.errors import InputError, StorageError
from medai.registry import version_files
from medai.registry.history import HistoryEvent
from medai.registry.version_files import STARTER

logger = logging.getLogger(__name__)

POINTER_FILE = "champion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """Which version answers.

    Attributes:
        version_id: the champion.
        former: those it replaced, latest first; bounded.
        event: what made it the champion, without its verdict, which is beside the version; None in files of the first
            releases.
    """

    version_id: str = STARTER
    former: tuple[str, ...] = ()
    event: HistoryEvent | None = None


def pointer_content(path: Path) -> bytes | None:
    """The pointer as it is on disk; None without one.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error}): check its permissions.") from error


def parse_pointer(content: bytes | None, path: Path, newest_first: Callable[[], Sequence[str]]) -> Pointer:
    """The pointer that the content says; without one, the starter.

    Args:
        content: of the file.
        path: of the file, for the log.
        newest_first: the versions on disk, the starter last: they take the place of a damaged pointer.
    """
    if content is None:
        return Pointer()
    try:
        said = json.loads(content)
        ids = (said["version_id"], *said["former"])
        for version_id in ids:
            version_files.version_number(version_id)
        event = said.get("event")
    except (ValueError, TypeError, KeyError, AttributeError, InputError) as error:
        logger.warning("%s is damaged (%s): the latest sound version takes its place", path, error)
        ids, event = tuple(newest_first()), None
    try:
        parsed = HistoryEvent.from_json(event) if event is not None else None
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("The event in %s is damaged (%s) and left out", path, error)
        parsed = None
    return Pointer(version_id=ids[0], former=ids[1:], event=parsed)


def write_pointer(path: Path, pointer: Pointer) -> None:
    """Replace the pointer.

    Raises:
        StorageError: the disk refused; the old one stands.
    """
    event = pointer.event
    content = {
        "version_id": pointer.version_id,
        "former": list(pointer.former),
        "changed_at": event.at if event else "",
        "event": replace(event, verdict={}).to_json() if event else None,
    }
    version_files.replace_json(path, content)
