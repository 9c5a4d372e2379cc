"""Which model answers for each task, and how a better one takes its place.

On disk, one folder a task::

    <folder>/<task>/versions/<version_id>/{weights.safetensors, card.json, verdict.json}
    <folder>/<task>/champion.json       {"version_id": …, "former": [version ids, latest first], "event": …}
    <folder>/<task>/history.jsonl       what was decided, the refused ones too (``registry.history``)
    <folder>/<task>/pinned.json         {"version_ids": [what is never removed]}
    <folder>/<task>/.lock

What holds, whatever dies when:

- A version's folder appears complete (written beside, made durable, renamed), and the pointer ``champion.json`` is
  replaced after it, in one step. A process killed anywhere in between leaves the former champion in place.
- Weights are compared with the sha256 of their card before they are handed out the first time in a process. A champion
  that is missing or damaged is passed over, with a warning in the log: its predecessors follow, last the packaged
  starter.
- Whatever changes something holds the task's file lock, so two processes take turns. Reading takes no lock.
- A rollback and a promotion by hand are publishes of a version on disk: the pointer names it, nothing is copied.
- Disk use is bounded (``registry.keep_policy``); the champion, its predecessor and what is pinned are never removed.
- No weights at all is an error, never a network of random weights.

``champion`` costs one read of some hundred bytes while nothing changes, so a server asks it on every request and
answers with a newly published model without a restart. (A file's times and inode would be cheaper by 10 µs but can
repeat when two publishes follow each other within a clock tick.) Threads may share one registry.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medai.errors import ConflictError, InputError, ModelError, NotFoundError, StorageError
from medai.evaluation.promotion import Verdict
from medai.registry import version_files
from medai.registry.champion_pointer import (
    POINTER_FILE,
    Pointer,
    parse_pointer,
    pointer_content,
    write_pointer,
)
from medai.registry.history import HISTORY_FILE, EventKind, HistoryEvent, append_event, read_events
from medai.registry.keep_policy import DEFAULT_KEEP, REMOVING_PREFIX, KeepPolicy, prune
from medai.registry.task_lock import TaskLock
from medai.registry.version_files import STARTER, ModelVersion

logger = logging.getLogger(__name__)

PACKAGED_STARTERS = Path(__file__).parent / "starter"
PINNED_FILE = "pinned.json"


class ModelRegistry:
    """The versions of every task's model in one folder.

    Args:
        folder: where versions are kept; made at the first publish. A study keeps its own in ``.medai/models``.
        starter_folder: weights that serve until something better is published.
        keep: number of versions kept on disk a task, at least 2. The champion, its predecessor and what is pinned stay.
        keep_mb: megabytes they may take together a task; None: no limit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        starter_folder: Path = PACKAGED_STARTERS,
        keep: int = DEFAULT_KEEP,
        keep_mb: float | None = None,
    ) -> None:
        self._policy = KeepPolicy(count=keep, limit_mb=keep_mb)
        self.folder = Path(folder)
        self._starter_folder = Path(starter_folder)
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
        content = pointer_content(self._pointer_path(task))
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
        run_id: str = "",
    ) -> ModelVersion:
        """Make a model the champion of its task.

        Args:
            task: the task.
            weights_path: the trained network (safetensors); copied.
            card: facts of the model; JSON values.
            verdict: the gate's decision; a refused model is not published.
            judged_against: version id of the champion that the verdict compares with; where another one has been
                published since, the verdict says nothing about it and the publish is refused. None: not checked.
            run_id: the training run it comes from, for the history.

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
            # Before as well as after: publishes killed in between, one after the other, would leave one more each.
            self._prune(task)
            version = version_files.write_version(
                self._versions_folder(task),
                task=task,
                number=1 + max((version_files.version_number(v) for v in self._published_ids(task)), default=0),
                weights_path=Path(weights_path),
                card={**card, "predecessor": current_id, "published_at": _now()},
                verdict=verdict.to_json(),
            )
            event = HistoryEvent(
                kind=EventKind.PUBLISHED,
                version_id=version.version_id,
                former=current_id,
                reason=verdict.reason,
                run_id=run_id,
                verdict=verdict.to_json(),
            )
            self._make_champion(task, pointer, event, former=(current_id, *pointer.former))
            self._prune(task)
        logger.info("Published %s of '%s', in place of %s", version.version_id, task, current_id)
        return version

    def record_refusal(self, task: str, verdict: Verdict, *, judged_against: str, run_id: str = "") -> None:
        """Keep the verdict on a challenger that was refused; nothing else changes.

        Args:
            task: the task.
            verdict: the gate's decision.
            judged_against: version id of the champion that stays.
            run_id: the training run.

        Raises:
            InputError: the verdict is no refusal.
            StorageError: the disk refused.
        """
        version_files.check_task(task)
        if verdict.publish:
            raise InputError(f"A challenger that was promoted is published, not recorded as refused: {verdict.reason}")
        event = HistoryEvent(
            kind=EventKind.REFUSED,
            version_id="",
            former=judged_against,
            reason=verdict.reason,
            run_id=run_id,
            verdict=verdict.to_json(),
        )
        with self._exclusive(task):
            self._catch_up(task, self._read_pointer(task))
            append_event(self._history_path(task), event)

    def promote(self, task: str, version_id: str, *, who: str, reason: str) -> ModelVersion:
        """Make a version that is on disk the champion, by hand and without a judgement.

        Args:
            task: the task.
            version_id: the version; "starter" is one.
            who: who asks for it, for the history.
            reason: why, for the history.

        Returns:
            The champion now.

        Raises:
            InputError: nobody or no reason is named, or that is no version's id.
            ConflictError: it is the champion already.
            ModelError: it is not on disk, or is damaged; the champion stays.
        """
        version_files.check_task(task)
        version_files.version_number(version_id)
        if not who.strip() or not reason.strip():
            raise InputError(f"A promotion by hand is recorded: say who asks for it ('{who}') and why ('{reason}').")
        with self._exclusive(task):
            pointer = self._read_pointer(task)
            current = self._first_sound_or_none(task, pointer)
            current_id = current.version_id if current else STARTER
            if version_id == current_id == pointer.version_id:
                raise ConflictError(f"{version_id} of '{task}' answers already.")
            version = self._check_anew(task, version_id)
            event = HistoryEvent(
                kind=EventKind.PROMOTED, version_id=version_id, former=current_id, reason=reason, who=who
            )
            self._make_champion(task, pointer, event, former=(current_id, *pointer.former))
        logger.info("Promoted %s of '%s' by hand, in place of %s", version_id, task, current_id)
        return version

    def rollback(self, task: str, *, who: str = "", reason: str = "") -> ModelVersion:
        """Make the champion's predecessor the champion again; the version left stays on disk.

        Args:
            task: the task.
            who: who asks for it, for the history.
            reason: why, for the history.

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
                    version = self._check_anew(task, version_id)
                except ModelError as error:
                    logger.warning("Version %s of '%s' is passed over: %s", version_id, task, error)
                    continue
                event = HistoryEvent(
                    kind=EventKind.ROLLED_BACK,
                    version_id=version_id,
                    former=pointer.version_id,
                    reason=reason or f"Back from {pointer.version_id}.",
                    who=who,
                )
                self._make_champion(task, pointer, event, former=former[place + 1 :])
                logger.info("Rolled '%s' back from %s to %s", task, pointer.version_id, version_id)
                return version
        raise ConflictError(
            f"There is nothing to go back to: {pointer.version_id} is the first model of '{task}' that is still there."
        )

    def history(self, task: str) -> tuple[HistoryEvent, ...]:
        """Everything that was decided about a task's models, oldest first.

        Raises:
            StorageError: the history cannot be read.
        """
        version_files.check_task(task)
        pointer = self._read_pointer(task)
        return self._with_latest(task, pointer, read_events(self._history_path(task)))[0]

    def pin(self, task: str, version_id: str) -> None:
        """Keep a version on disk until it is unpinned.

        Raises:
            ModelError: it is not on disk.
        """
        version_files.check_task(task)
        version_files.version_number(version_id)
        with self._exclusive(task):
            self._read(task, version_id)
            self._write_pinned(task, {*self.pinned(task), version_id})

    def unpin(self, task: str, version_id: str) -> None:
        """Let the keep policy have a version again; it is removed by a later publish.

        Raises:
            NotFoundError: it is not pinned.
        """
        version_files.check_task(task)
        with self._exclusive(task):
            pinned = set(self.pinned(task))
            if version_id not in pinned:
                raise NotFoundError(
                    f"{version_id} of '{task}' is not pinned. Pinned: {', '.join(sorted(pinned)) or 'none'}."
                )
            self._write_pinned(task, pinned - {version_id})

    def pinned(self, task: str) -> tuple[str, ...]:
        """The versions that are never removed, in their order.

        Raises:
            StorageError: the list is damaged; nothing is removed then.
        """
        version_files.check_task(task)
        path = self.folder / task / PINNED_FILE
        try:
            ids = json.loads(path.read_bytes())["version_ids"]
            return tuple(sorted(ids, key=version_files.version_number))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError, InputError) as error:
            raise StorageError(f"{path} is damaged ({error}): remove it and pin again what is to stay.") from error

    def _first_sound(self, task: str, pointer: Pointer) -> ModelVersion:
        version = self._first_sound_or_none(task, pointer)
        if version is None:
            raise ModelError(
                f"There are no weights for task '{task}': none published under {self.folder / task} and none packaged "
                f"at {self._starter_folder / task}. Install medai again, or name a folder of models that has them."
            )
        return version

    def _first_sound_or_none(self, task: str, pointer: Pointer) -> ModelVersion | None:
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

    def _check_anew(self, task: str, version_id: str) -> ModelVersion:
        """The same with the weights read again: what is to answer from now on may have been damaged since."""
        self._sound.discard((task, version_id))
        return self._check(task, version_id)

    def _read(self, task: str, version_id: str) -> ModelVersion:
        is_starter = version_id == STARTER
        folder = self._starter_folder / task if is_starter else self._versions_folder(task) / version_id
        return version_files.read_version(folder, task=task, version_id=version_id)

    def _read_pointer(self, task: str) -> Pointer:
        return self._parse_pointer(task, pointer_content(self._pointer_path(task)))

    def _parse_pointer(self, task: str, content: bytes | None) -> Pointer:
        return parse_pointer(
            content, self._pointer_path(task), lambda: tuple(reversed((STARTER, *self._published_ids(task))))
        )

    def _make_champion(self, task: str, before: Pointer, event: HistoryEvent, *, former: Sequence[str]) -> None:
        """Replace the pointer, which is the moment of the change, and append its event to the history."""
        self._catch_up(task, before)
        others = [version_id for version_id in dict.fromkeys(former) if version_id != event.version_id]
        pointer = Pointer(version_id=event.version_id, former=tuple(others[: self._policy.count]), event=event)
        write_pointer(self._pointer_path(task), pointer)
        try:
            append_event(self._history_path(task), event)
        except StorageError as error:
            # The pointer holds the event: the next change appends it.
            logger.warning("The history of '%s' waits for space: %s", task, error)

    def _catch_up(self, task: str, pointer: Pointer) -> None:
        """Append the pointer's event where the process that wrote it did not come to it."""
        for event in self._with_latest(task, pointer, read_events(self._history_path(task)))[1]:
            append_event(self._history_path(task), event)

    def _with_latest(
        self, task: str, pointer: Pointer, events: tuple[HistoryEvent, ...]
    ) -> tuple[tuple[HistoryEvent, ...], tuple[HistoryEvent, ...]]:
        """The events with the pointer's own, and those of them that are not in the history file."""
        latest = pointer.event
        if latest is None or any(event.event_id == latest.event_id for event in events):
            return events, ()
        if latest.kind is EventKind.PUBLISHED:
            with contextlib.suppress(ModelError):
                latest = replace(latest, verdict=self._read(task, latest.version_id).verdict)
        return (*events, latest), (latest,)

    def _prune(self, task: str) -> None:
        """Remove what the keep policy does not hold; the champion, its predecessor and what is pinned never."""
        pointer = self._read_pointer(task)
        try:
            protected = {pointer.version_id, *pointer.former[:1], *self.pinned(task)}
        except StorageError as error:
            logger.warning("No version of '%s' is removed: %s", task, error)
            return
        prune(self._versions_folder(task), self._published_ids(task), self._policy, protected)

    def _write_pinned(self, task: str, version_ids: Iterable[str]) -> None:
        version_files.replace_json(self.folder / task / PINNED_FILE, {"version_ids": sorted(version_ids)})

    def _remove_unfinished(self, task: str) -> None:
        """Remove what a killed process left; called with the lock held, so nobody is writing."""
        for prefix in (version_files.INCOMING_PREFIX, REMOVING_PREFIX):
            for leftover in self._versions_folder(task).glob(f"{prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        for name in (POINTER_FILE, PINNED_FILE):
            for leftover in (self.folder / task).glob(f".{name}.*"):
                leftover.unlink(missing_ok=True)

    def _published_ids(self, task: str) -> list[str]:
        """Ids of the version folders on disk, oldest first."""
        folder = self._versions_folder(task)
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(filter(version_files.is_version_id, names), key=version_files.version_number)

    def _exclusive(self, task: str) -> TaskLock:
        return TaskLock(self.folder / task / ".lock", task)

    def _versions_folder(self, task: str) -> Path:
        return self.folder / task / "versions"

    def _history_path(self, task: str) -> Path:
        return self.folder / task / HISTORY_FILE

    def _pointer_path(self, task: str) -> Path:
        return self.folder / task / POINTER_FILE


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
