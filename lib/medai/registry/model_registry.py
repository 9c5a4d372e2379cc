"""Which model answers for each task, and how a better one takes its place.

On disk, one folder a task::

    <folder>/<task>/versions/<version_id>/{weights.safetensors, card.json, verdict.json}
    <folder>/<task>/champion.json       {"version_id": …, "former": [version ids, latest first]}
    <folder>/<task>/.lock

What holds, whatever dies when:

- A version's folder appears complete (written beside, made durable, renamed), and the pointer ``champion.json`` is
  replaced after it, in one step. A process killed anywhere in between leaves the former champion in place.
- Weights are compared with the sha256 of their card before they are handed out the first time in a process. A champion
  that is missing or damaged is passed over, with a warning in the log: its predecessors follow, last the packaged
  starter.
- Publishing and rolling back hold the task's file lock, so two processes take turns. Reading takes no lock.
- No weights at all is an error, never a network of random weights.

``champion`` costs one read of some hundred bytes while nothing changes, so a server asks it on every request and
answers with a newly published model without a restart. (A file's times and inode would be cheaper by 10 µs but can
repeat when two publishes follow each other within a clock tick.) Threads may share one registry.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medai.errors import ConflictError, InputError, ModelError, StorageError
from medai.evaluation.promotion import Verdict
from medai.registry import version_files
from medai.registry.version_files import STARTER, ModelVersion

logger = logging.getLogger(__name__)

PACKAGED_STARTERS = Path(__file__).parent / "starter"
DEFAULT_KEEP = 5
LOCK_TIMEOUT_S = 120.0
"""A publish copies some tens of megabytes: a lock held longer belongs to a process that hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pointer:
    """The champion's id and those it replaced, latest first."""

    version_id: str = STARTER
    former: tuple[str, ...] = ()


class ModelRegistry:
    """The versions of every task's model in one folder.

    Args:
        folder: where versions are kept; made at the first publish. A study keeps its own in ``.medai/models``.
        starter_folder: weights that serve until something better is published.
        keep: number of versions kept on disk a task, at least 2. The champion and its predecessor always stay.
    """

    def __init__(self, folder: Path, *, starter_folder: Path = PACKAGED_STARTERS, keep: int = DEFAULT_KEEP) -> None:
        if keep < 2:
            raise InputError(
                f"A registry keeps the champion and its predecessor: 'keep' is {keep}, it must be 2 or more."
            )
        self.folder = Path(folder)
        self._starter_folder = Path(starter_folder)
        self._keep = keep
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[bytes | None, ModelVersion]] = {}
        self._sound: set[tuple[str, str]] = set()

    def champion(self, task: str) -> ModelVersion:
        """The model that answers for a task now.

        Raises:
            InputError: not a task's name.
            ModelError: there are no sound weights for the task, neither published nor packaged.
        """
        version_files.check_task(task)
        content = self._pointer_content(task)
        cached = self._cached.get(task)
        if cached and cached[0] == content:
            return cached[1]
        with self._lock:
            version = self._first_sound(task, self._parse_pointer(task, content))
            self._cached[task] = (content, version)
        return version

    def versions(self, task: str) -> tuple[ModelVersion, ...]:
        """All versions on disk that can be read, oldest first, the packaged starter before them."""
        version_files.check_task(task)
        found = []
        for version_id in (STARTER, *self._published_ids(task)):
            try:
                found.append(self._read(task, version_id))
            except ModelError as error:
                if version_id != STARTER:
                    logger.warning("A version is left out of the list: %s", error)
        return tuple(found)

    def publish(
        self,
        task: str,
        weights_path: Path,
        card: Mapping[str, Any],
        verdict: Verdict,
        *,
        judged_against: str | None = None,
    ) -> ModelVersion:
        """Make a model the champion of its task.

        Args:
            task: the task.
            weights_path: the trained network (safetensors); copied.
            card: facts of the model; JSON values.
            verdict: the gate's decision; a refused model is not published.
            judged_against: version id of the champion that the verdict compares with; where another one has been
                published since, the verdict says nothing about it and the publish is refused. None: not checked.

        Returns:
            The new champion.

        Raises:
            ConflictError: the verdict refused the model, or the champion has changed since.
            ModelError: no weights at that path.
            StorageError: the disk refused; the former champion stays.
        """
        version_files.check_task(task)
        if not verdict.publish:
            raise ConflictError(f"A model that the gate refused is not published. {verdict.reason}")
        with self._exclusive(task):
            pointer = self._read_pointer(task)
            current = self._first_sound_or_none(task, pointer)
            current_id = current.version_id if current else STARTER
            if judged_against is not None and judged_against != current_id:
                raise ConflictError(
                    f"The new model of '{task}' was judged against {judged_against}, but {current_id} has been "
                    "published since: train again, from that one."
                )
            self._remove_unfinished(task)
            version = version_files.write_version(
                self._versions_folder(task),
                task=task,
                number=1 + max((version_files.version_number(v) for v in self._published_ids(task)), default=0),
                weights_path=Path(weights_path),
                card={**card, "predecessor": current_id, "published_at": _now()},
                verdict=verdict.to_json(),
            )
            former = (current_id, *(v for v in pointer.former if v != current_id))
            self._write_pointer(task, _Pointer(version_id=version.version_id, former=former[: self._keep]))
            self._prune(task)
        logger.info("Published %s of '%s', in place of %s", version.version_id, task, current_id)
        return version

    def rollback(self, task: str) -> ModelVersion:
        """Make the champion's predecessor the champion again; the version left stays on disk.

        Returns:
            The champion now.

        Raises:
            ConflictError: there is no sound predecessor.
        """
        version_files.check_task(task)
        with self._exclusive(task):
            pointer = self._read_pointer(task)
            # The list of formers is bounded, so the starter may have dropped off its end.
            former = tuple(v for v in dict.fromkeys((*pointer.former, STARTER)) if v != pointer.version_id)
            for place, version_id in enumerate(former):
                try:
                    version = self._check(task, version_id)
                except ModelError as error:
                    logger.warning("Rolling back past %s of '%s': %s", version_id, task, error)
                    continue
                self._write_pointer(task, _Pointer(version_id=version_id, former=former[place + 1 :]))
                logger.info("Rolled '%s' back from %s to %s", task, pointer.version_id, version_id)
                return version
        raise ConflictError(
            f"There is nothing to go back to: {pointer.version_id} is the first model of '{task}' that is still there."
        )

    def _first_sound(self, task: str, pointer: _Pointer) -> ModelVersion:
        version = self._first_sound_or_none(task, pointer)
        if version is None:
            raise ModelError(
                f"There are no weights for task '{task}': none published under {self.folder / task} and none packaged "
                f"at {self._starter_folder / task}. Install medai again, or name a folder of models that has them."
            )
        return version

    def _first_sound_or_none(self, task: str, pointer: _Pointer) -> ModelVersion | None:
        """The champion or, where it is damaged, the nearest predecessor; last the starter."""
        for version_id in dict.fromkeys((pointer.version_id, *pointer.former, STARTER)):
            try:
                version = self._check(task, version_id)
            except ModelError as error:
                if version_id != STARTER or (self._starter_folder / task).exists():
                    logger.warning("Version %s of '%s' is passed over: %s", version_id, task, error)
                continue
            if version_id != pointer.version_id:
                logger.warning("Serving %s of '%s' in place of %s", version_id, task, pointer.version_id)
            return version
        return None

    def _check(self, task: str, version_id: str) -> ModelVersion:
        """Read a version and, once in a process, compare its weights with its card."""
        version = self._read(task, version_id)
        if (task, version_id) not in self._sound:
            version_files.check_weights(version)
            self._sound.add((task, version_id))
        return version

    def _read(self, task: str, version_id: str) -> ModelVersion:
        is_starter = version_id == STARTER
        folder = self._starter_folder / task if is_starter else self._versions_folder(task) / version_id
        return version_files.read_version(folder, task=task, version_id=version_id)

    def _read_pointer(self, task: str) -> _Pointer:
        return self._parse_pointer(task, self._pointer_content(task))

    def _pointer_content(self, task: str) -> bytes | None:
        """The pointer as it is on disk; None without one."""
        try:
            return self._pointer_path(task).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"{self._pointer_path(task)} cannot be read ({error}): check its permissions."
            ) from error

    def _parse_pointer(self, task: str, content: bytes | None) -> _Pointer:
        """The pointer; without one, the starter; for a damaged one, all versions on disk, latest first."""
        if content is None:
            return _Pointer()
        try:
            pointer = json.loads(content)
            ids = (pointer["version_id"], *pointer["former"])
            for version_id in ids:
                version_files.version_number(version_id)
        except (ValueError, TypeError, KeyError, InputError) as error:
            path = self._pointer_path(task)
            logger.warning("%s is damaged (%s): the latest sound version takes its place", path, error)
            ids = tuple(reversed((STARTER, *self._published_ids(task))))
        return _Pointer(version_id=ids[0], former=ids[1:])

    def _write_pointer(self, task: str, pointer: _Pointer) -> None:
        content = {"version_id": pointer.version_id, "former": list(pointer.former), "changed_at": _now()}
        version_files.replace_json(self._pointer_path(task), content)

    def _prune(self, task: str) -> None:
        """Remove the oldest versions beyond ``keep``; the champion and its predecessor never."""
        pointer = self._read_pointer(task)
        protected = {pointer.version_id, *pointer.former[:1]}
        published = self._published_ids(task)
        removable = [version_id for version_id in published if version_id not in protected]
        for version_id in removable[: max(0, len(published) - self._keep)]:
            shutil.rmtree(self._versions_folder(task) / version_id, ignore_errors=True)

    def _remove_unfinished(self, task: str) -> None:
        """Remove what a killed process left; called with the lock held, so nobody is writing."""
        for leftover in self._versions_folder(task).glob(f"{version_files.INCOMING_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in (self.folder / task).glob(".champion.json.*"):
            leftover.unlink(missing_ok=True)

    def _published_ids(self, task: str) -> list[str]:
        """Ids of the version folders on disk, oldest first."""
        folder = self._versions_folder(task)
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(filter(version_files.is_version_id, names), key=version_files.version_number)

    def _exclusive(self, task: str) -> _TaskLock:
        return _TaskLock(self.folder / task / ".lock", task)

    def _versions_folder(self, task: str) -> Path:
        return self.folder / task / "versions"

    def _pointer_path(self, task: str) -> Path:
        return self.folder / task / "champion.json"


class _TaskLock:
    """The task's lock between processes, with an error in words where it cannot be had."""

    def __init__(self, path: Path, task: str) -> None:
        self._task = task
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The folder of models {path.parent} cannot be made ({error}).") from error
        self._lock = FileLock(path, timeout=LOCK_TIMEOUT_S)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConflictError(
                f"Another process has been publishing a model of '{self._task}' for {LOCK_TIMEOUT_S:.0f} s: try again."
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
