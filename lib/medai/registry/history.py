"""What was decided about each task's models, one line an event, oldest first.

``<folder>/<task>/history.jsonl``: promoted, refused, rolled back, chosen by hand; each with its reason and, where a
gate judged, the whole verdict. Lines are only ever appended, with the task's lock held, and are durable when the call
returns. A line cut off by a kill is left out when read and closed by the next one.

A change of champion is written into the pointer first, event included, and to this file after it; what a process killed
in between did not append, ``ModelRegistry.history`` takes from the pointer.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from medai.errors import StorageError
from medai.registry.version_files import sync_folder
from medai.volume_io.atomic import disk_words

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.jsonl"


class EventKind(StrEnum):
    """What happened to a task's models."""

    PUBLISHED = "published"
    REFUSED = "refused"
    PROMOTED = "promoted by hand"
    ROLLED_BACK = "rolled back"

    @property
    def is_publish(self) -> bool:
        """Whether another version answers since: a promotion by hand and a rollback are publishes too."""
        return self is not EventKind.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One event.

    Attributes:
        event_id: unique.
        at: UTC, ISO 8601.
        kind: what happened.
        version_id: the version that answers since; "" for a refused challenger, which is no version.
        former: the champion before, which a challenger was judged against.
        reason: why, a sentence; of a gate's decision the verdict's.
        who: who asked for it; "" for the gate.
        run_id: the training run behind it, "" without one.
        verdict: the gate's decision with its numbers; empty where a person decided.
    """

    kind: EventKind
    version_id: str
    former: str
    reason: str
    who: str = ""
    run_id: str = ""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_json(self) -> dict[str, Any]:
        """Plain values: a line of the file."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("kind", "verdict")} | {
            "kind": str(self.kind),
            "is_publish": self.kind.is_publish,
            "verdict": dict(self.verdict),
        }

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The event that ``to_json`` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        words = {
            name: str(content[name]) for name in ("version_id", "former", "reason", "who", "run_id", "at", "event_id")
        }
        return cls(kind=EventKind(content["kind"]), verdict=dict(content["verdict"]), **words)


def append_event(path: Path, event: HistoryEvent) -> None:
    """Add a line and wait until it is on the disk; called with the task's lock held.

    Raises:
        StorageError: the disk refused.
    """
    line = json.dumps(event.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file.fileno(), file.tell()):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {disk_words(error)}.") from error


def read_events(path: Path) -> tuple[HistoryEvent, ...]:
    """The events of a file, oldest first; none without one. A damaged line is left out, with a warning.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error}): check its permissions.") from error
    events: dict[str, HistoryEvent] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = HistoryEvent.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("Line %d of %s is damaged (%s) and left out", number, path, error)
            continue
        events[event.event_id] = event
    return tuple(events.values())


def _ends_with_newline(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"
