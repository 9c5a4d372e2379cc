"""The trainings that wait or run, on disk, so that they outlive the server that was to run them.

``<study>/.medai/training/queue.json`` holds what was asked for and has not ended, and how many labels came in since a
training was last asked for. Each server holds a lock file of its own while it lives; the operating system lets go of it
however the server dies. What belongs to a dead server is taken over by the next one that starts, once: a training that
was running when its server died twice is reported and not tried a third time, it may be what kills the server.

Threads and processes may share the file. Lock order: this module's lock is the last one taken.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medai.errors import StorageError
from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock
from medai.workflows.training_runs import TRAINING_FOLDER

logger = logging.getLogger(__name__)

QUEUE_FILE = "queue.json"
MOST_STARTS = 2
"""Once as asked for, and once more after the server has died under it."""
_OWNER_LOCK = ".server-{}.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTraining:
    """A training that was asked for and has not ended.

    Attributes:
        task_id: of the server's record.
        job: what the training process is told.
        request: what the client asked.
        asked_at_s: seconds since 1970.
        owner: the server that is to run it.
        starts: how often it was begun.
    """

    task_id: str
    job: dict[str, Any]
    request: dict[str, Any]
    asked_at_s: float
    owner: str
    starts: int = 0


class TrainingQueue:
    """One server's view of a study's queue.

    Args:
        study_folder: the study.
    """

    def __init__(self, study_folder: Path) -> None:
        self._folder = state_folder(Path(study_folder)) / TRAINING_FOLDER
        self._path = self._folder / QUEUE_FILE
        self._owner = uuid.uuid4().hex
        self._alive: FileLock | None = None
        self._lock = ExclusiveLock(self._folder / ".queue.lock")

    def add(self, task_id: str, job: dict[str, Any], request: dict[str, Any]) -> None:
        """Note a training before it begins; the labels counted so far are its own.

        Raises:
            StorageError: the disk refused; nothing is queued.
        """
        with self._edit() as state:
            entry = QueuedTraining(task_id=task_id, job=job, request=request, asked_at_s=time.time(), owner=self._owner)
            state["trainings"].append(asdict(entry))
            state["labels_since"] = 0
            state["asked_at_s"] = entry.asked_at_s

    def begun(self, task_id: str) -> None:
        """Note that a training runs now."""
        with self._edit() as state:
            for entry in state["trainings"]:
                if entry["task_id"] == task_id:
                    entry["starts"] += 1

    def ended(self, *task_ids: str) -> None:
        """Forget trainings: they have ended, in whatever way, or were stopped."""
        with self._edit() as state:
            state["trainings"] = [entry for entry in state["trainings"] if entry["task_id"] not in task_ids]

    def label_submitted(self) -> int:
        """Count a label; returns how many there are since a training was last asked for."""
        with self._edit() as state:
            state["labels_since"] += 1
            return int(state["labels_since"])

    def labels_since(self) -> int:
        """Labels submitted since a training was last asked for."""
        return int(self._read()["labels_since"])

    def asked_at_s(self) -> float | None:
        """When a training was last asked for, seconds since 1970; None where none ever was."""
        asked = self._read()["asked_at_s"]
        return None if asked is None else float(asked)

    def adopt(self) -> tuple[list[QueuedTraining], list[QueuedTraining]]:
        """Take over what dead servers have left.

        Returns:
            Trainings to begin again, now of this server, in the order in which they were asked for; and those that are
            given up because their server has died under them before. The latter are forgotten.
        """
        again: list[QueuedTraining] = []
        given_up: list[QueuedTraining] = []
        if not self._read()["trainings"]:
            return again, given_up
        with self._edit() as state:
            kept = []
            alive: dict[str, bool] = {self._owner: True}
            for stored in state["trainings"]:
                entry = QueuedTraining(**stored)
                if not alive.setdefault(entry.owner, self._is_alive(entry.owner)):
                    if entry.starts >= MOST_STARTS:
                        given_up.append(entry)
                        continue
                    entry = replace(entry, owner=self._owner)
                    again.append(entry)
                kept.append(asdict(entry))
            state["trainings"] = kept
        return again, given_up

    def close(self) -> None:
        """Leave this server's trainings to the next one that starts. A server that closes did not die of them."""
        if self._alive is None:
            return
        with self._edit() as state:
            for entry in state["trainings"]:
                if entry["owner"] == self._owner:
                    entry["starts"] = 0
        self._alive.release()
        self._alive = None
        self._owner_path(self._owner).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _edit(self) -> Iterator[dict[str, Any]]:
        """Change the file under its lock; this server is known to live from the first change on."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be made ({error}): check its permissions.") from error
        with self._lock.hold():
            if self._alive is None:
                # thread_local=False: whichever thread closes may let go of it.
                self._alive = FileLock(self._owner_path(self._owner), timeout=0, thread_local=False)
                self._alive.acquire()
            state = self._read()
            yield state
            write_json(self._path, state)

    def _is_alive(self, owner: str) -> bool:
        path = self._owner_path(owner)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False

    def _owner_path(self, owner: str) -> Path:
        return self._folder / _OWNER_LOCK.format(owner)

    def _read(self) -> dict[str, Any]:
        """The file's content; one that is damaged is begun anew, no label or model depends on it."""
        empty: dict[str, Any] = {"version": 1, "trainings": [], "labels_since": 0, "asked_at_s": None}
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            for entry in state["trainings"]:
                QueuedTraining(**entry)
            return {**empty, **state}
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%s) and is begun anew; trainings that waited are lost.", self._path, error)
            return empty
