"""Who read, downloaded and wrote what of a study: JSON lines in ``.medai/audit``, for years if need be.

``audit.jsonl`` is the newest file; one that is full becomes ``audit.jsonl.1``, what was there ``.2``, and so on, and
the last falls away. Folder and files are their owner's alone. Case ids that look like a person's name are replaced
(``pseudonyms``) by a key that lies beside them: copy the lines without it to hand them on.

A line is given to a thread of its own and written at once; nobody waits for it. Where the disk refuses, lines are held
in memory (``MOST_WAITING``) and tried again; what has to be dropped is counted, and a line says so afterwards.

Threads: ``write`` from any; one thread writes. Between processes a file lock is held while a batch is written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medai.errors import NotFoundError, StorageError
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock
from medai.store.pseudonyms import looks_like_a_name, pseudonym
from medai.volume_io.atomic import disk_words

logger = logging.getLogger(__name__)

FILE = "audit.jsonl"
KEY_FILE = "key"
KEY_BYTES = 32
MOST_WAITING = 20_000
"""Lines kept in memory while the disk refuses, a few megabytes."""

RETRY_S = 2.0
_BATCH = 500
_OWNER_FILE, _OWNER_FOLDER = 0o600, 0o700


class AuditLog:
    """The audit log of one study, open for writing."""

    def __init__(self, studies: Path, *, largest_bytes: int, files: int) -> None:
        """Open the log and start its thread.

        Args:
            studies: the study folder.
            largest_bytes: of one file.
            files: kept beside the newest.
        """
        self._folder = audit_folder(studies)
        self._largest_bytes = largest_bytes
        self._files = files
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._counting = threading.Lock()
        self._lost = 0
        self._problem = ""
        self._key: bytes | None = None
        self._lock: ExclusiveLock | None = None
        self._thread = threading.Thread(target=self._work, name="medai-audit", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why lines cannot be written now; "" where they can."""
        return self._problem

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line; returns at once."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._count_lost(1)

    def warnings(self) -> list[str]:
        """What an operator should hear of."""
        if not self._problem:
            return []
        waiting = f"{self._waiting.qsize()} lines wait" + (f", {self._lost} are lost" if self._lost else "")
        return [f"The audit log cannot be written: {self._problem}; {waiting}."]

    def flush(self, *, timeout_s: float = 5.0) -> bool:
        """Wait until everything given so far is written; False where that took too long."""
        deadline = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._waiting.unfinished_tasks

    def close(self) -> None:
        """Write what waits and end the thread; what a disk that refuses has not taken by then is counted in the log."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=1.0)
        self._thread.join(timeout=10.0)
        if self._waiting.unfinished_tasks or self._lost:
            logger.error("%d lines of the audit log are lost", self._waiting.unfinished_tasks + self._lost)

    def _count_lost(self, lines: int) -> None:
        with self._counting:
            self._lost += lines

    # -- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = [self._waiting.get()]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            is_open = None not in batch
            self._write_until_taken([record for record in batch if record is not None], insists=is_open)
            for _ in batch:
                self._waiting.task_done()

    def _write_until_taken(self, records: Sequence[Mapping[str, Any]], *, insists: bool) -> None:
        while records:
            try:
                self._write_batch(records)
            except (OSError, StorageError) as error:
                problem = disk_words(error) if isinstance(error, OSError) else str(error)
                if not self._problem:
                    logger.warning("The audit log in %s cannot be written: %s", self._folder, problem)
                self._problem = problem
                if not insists or self._is_closing():
                    self._count_lost(len(records))
                    return
                time.sleep(RETRY_S)
                continue
            if self._problem:
                logger.warning("The audit log is written again")
            self._problem = ""
            return

    def _is_closing(self) -> bool:
        with self._waiting.mutex:
            return None in self._waiting.queue

    def _write_batch(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._prepare()
        lost = self._lost
        lines = [*([{"time": timestamp(), "event": "lost", "lines": lost}] if lost else []), *records]
        block = b"".join(self._encode(record) for record in lines)
        lock = self._lock or ExclusiveLock(self._folder / "lock")
        self._lock = lock
        with lock.hold():
            path = self._folder / FILE
            if path.is_file() and path.stat().st_size + len(block) > self._largest_bytes:
                self._rotate()
            _append(path, block)
        self._count_lost(-lost)

    def _prepare(self) -> None:
        self._folder.mkdir(mode=_OWNER_FOLDER, parents=True, exist_ok=True)
        if self._key is None:
            self._folder.chmod(_OWNER_FOLDER)
            self._key = _make_key(self._folder / KEY_FILE)

    def _encode(self, record: Mapping[str, Any]) -> bytes:
        case_id = record.get("case")
        if isinstance(case_id, str) and case_id and self._key is not None:
            record = {**record, "case": shown_case(case_id, self._key)}
        return json.dumps(record, separators=(",", ":"), default=str).encode() + b"\n"

    def _rotate(self) -> None:
        oldest = self._folder / f"{FILE}.{self._files}"
        oldest.unlink(missing_ok=True)
        for number in range(self._files - 1, 0, -1):
            path = self._folder / f"{FILE}.{number}"
            if path.exists():
                path.rename(self._folder / f"{FILE}.{number + 1}")
        (self._folder / FILE).rename(self._folder / f"{FILE}.1")


def audit_folder(studies: Path) -> Path:
    """Where the audit log of a study lies."""
    return state_folder(studies) / "audit"


def timestamp(at_s: float | None = None) -> str:
    """A time as the log has it: UTC, milliseconds."""
    moment = datetime.fromtimestamp(time.time() if at_s is None else at_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown_case(case_id: str, key: bytes) -> str:
    """A case id as the log has it."""
    return pseudonym(case_id, key) if looks_like_a_name(case_id) else case_id


def read_audit(studies: Path, *, user: str | None = None, case: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a study's audit log, oldest first; a damaged line is passed over.

    Args:
        studies: the study folder.
        user: only lines of this user: the login, or the name before an "@address".
        case: only lines of this case; a name is found by its pseudonym.

    Raises:
        NotFoundError: the study has no audit log.
        StorageError: it cannot be read by who asks.
    """
    folder = audit_folder(studies)
    try:
        files = [path for path in folder.iterdir() if path.name == FILE or _number(path) is not None]
        key = _read_key(folder / KEY_FILE)
    except FileNotFoundError:
        files = []
    except OSError as error:
        raise StorageError(f"The audit log in {folder} cannot be read: {disk_words(error)}.") from error
    if not files:
        raise NotFoundError(f"There is no audit log in {folder}: a server writes it (medai serve {studies}).")
    wanted = {case, shown_case(case, key) if case and key else case}
    for path in sorted(files, key=lambda path: _number(path) or 0, reverse=True):
        for record in _records(path):
            name = str(record.get("user") or "")
            if user is not None and user not in (name, name.partition("@")[0]):
                continue
            if case is None or record.get("case") in wanted:
                yield record


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    logger.warning("A damaged line in %s is passed over", path)
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {disk_words(error)}.") from error


def _number(path: Path) -> int | None:
    head, _, number = path.name.rpartition(".")
    return int(number) if head == FILE and number.isascii() and number.isdigit() else None


def _append(path: Path, block: bytes) -> None:
    """Add whole lines or none: what a full disk took of them is cut off again."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_FILE)
    try:
        before = os.fstat(handle).st_size
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(handle, view) :]
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)


def _make_key(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_FILE)
    except FileExistsError:
        key = _read_key(path)
        if key is None:
            raise StorageError(f"{path} is damaged: move it away, and case names get new pseudonyms") from None
        return key
    try:
        os.write(handle, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    finally:
        os.close(handle)
    key = _read_key(path)
    if key is None:
        path.unlink(missing_ok=True)
        raise StorageError(f"{path} could not be written")
    return key


def _read_key(path: Path) -> bytes | None:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None
