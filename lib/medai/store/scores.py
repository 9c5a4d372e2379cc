"""What the models make of every case of a study: written by whoever scores it, read when the next case is chosen.

One SQLite file, ``.medai/scores.db``. A case is one row, replaced in one transaction of about a millisecond; a kill at
any moment leaves the last good state. Each write gives its row the next number, so that a reader takes over what is new
since it looked last and nothing else: with 20,000 cases the first look takes a fraction of a second, each further one
that finds nothing new a fraction of a millisecond.

Scores can always be made again: a damaged file, or one of a medai before this form, is put aside with a warning.

Threads and processes: any. A ``ScoreStore`` has one connection behind one lock; SQLite's own lock keeps processes
apart. Forks: open the store in the child.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medai.domain.case_score import CaseScore, version_key
from medai.domain.score_table import PackedScore, ScoreTable
from medai.errors import StorageError
from medai.store.layout import state_folder
from medai.store.names import check_case_id
from medai.store.sqlite_engine import NO_ROOM

FORM = 1
"""Of the table; counts up when what is packed changes."""

BUSY_TIMEOUT_S = 30.0

_TABLE = """
CREATE TABLE IF NOT EXISTS scores (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    case_id TEXT NOT NULL UNIQUE,
    version_key TEXT NOT NULL,
    scored_at_s REAL NOT NULL,
    numbers BLOB NOT NULL,
    classes TEXT NOT NULL,
    embedding BLOB NOT NULL,
    expected_minutes REAL NOT NULL,
    disagreement REAL
)
"""
_PUT = """
INSERT OR REPLACE INTO scores
    (case_id, version_key, scored_at_s, numbers, classes, embedding, expected_minutes, disagreement)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_NEWER = """
SELECT number, case_id, version_key, scored_at_s, numbers, classes, embedding, expected_minutes, disagreement
    FROM scores WHERE number > ? ORDER BY number
"""

_logger = logging.getLogger(__name__)


class ScoreStore:
    """The scores of one study."""

    def __init__(self, studies: Path) -> None:
        """Open the scores of a study; a file that cannot be used is put aside.

        Args:
            studies: the study folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        folder = state_folder(studies)
        self._path = folder / "scores.db"
        self._lock = threading.RLock()
        self._packed: dict[str, PackedScore] = {}
        self._last_number = 0
        self._table = ScoreTable()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _discard_old_form(folder / "scores")
        except OSError as error:
            raise StorageError(f"Cannot write in {folder}: {error.strerror}. Check its permissions.") from error
        self._connection = self._opened()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def put(self, score: CaseScore) -> None:
        """Add or replace the score of one case.

        Raises:
            InputError: the case id cannot be used.
            StorageError: the disk refused; what was there is unchanged.
        """
        self.put_all([score])

    def put_all(self, scores: Iterable[CaseScore]) -> None:
        """Add or replace the scores of several cases, all or none of them."""
        rows = []
        for score in scores:
            check_case_id(score.case_id)
            packed = PackedScore.of(score)
            unknown = packed.disagreement != packed.disagreement
            rows.append(
                (
                    packed.case_id,
                    packed.version_key,
                    packed.scored_at_s,
                    packed.numbers,
                    packed.classes,
                    packed.embedding,
                    packed.expected_minutes,
                    None if unknown else packed.disagreement,
                )
            )
        with self._transaction() as connection:
            connection.executemany(_PUT, rows)

    def remove(self, case_id: str) -> None:
        """Forget the score of a case whose scan is gone."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM scores WHERE case_id = ?", (case_id,))
        with self._lock:
            if self._packed.pop(case_id, None) is not None:
                self._table = ScoreTable(list(self._packed.values()))

    def get(self, case_id: str) -> CaseScore | None:
        """The score of one case."""
        return self.table().case(case_id)

    def table(self) -> ScoreTable:
        """All scores; the same object while nothing changes.

        Raises:
            StorageError: the file cannot be read.
        """
        with self._explained("read"), self._lock:
            changed = self._connection.execute(_NEWER, (self._last_number,)).fetchall()
            if changed:
                for number, *columns in changed:
                    packed = _packed(columns)
                    self._packed[packed.case_id] = packed
                    self._last_number = number
                self._table = ScoreTable(list(self._packed.values()))
            return self._table

    def outdated(self, case_ids: Iterable[str], model_versions: Mapping[str, str]) -> list[str]:
        """The cases that these model versions have not scored: the never scored ones first, then the oldest scores.

        Args:
            case_ids: the cases that are asked about.
            model_versions: task name to version id, as they would be in a new score.
        """
        table, present = self.table(), version_key(model_versions)
        order: list[tuple[float, str]] = []
        for case_id in case_ids:
            row = table.row(case_id)
            if row is None:
                order.append((0.0, case_id))
            elif table.version_keys[row] != present:
                order.append((float(table.scored_at_s[row]), case_id))
        return [case_id for _, case_id in sorted(order)]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained("written"), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(
                f"{self._path} cannot be {done} ({error}). Check that its disk has space left; if the file is damaged, "
                "delete it: the cases are scored again."
            ) from error

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                if error.sqlite_errorname in NO_ROOM:
                    return _in_memory(self._path)
                raise StorageError(f"Cannot open {self._path}: {error}. Check its permissions.") from error
            _put_aside(self._path, str(error))
        except _OtherFormError as error:
            _put_aside(self._path, str(error))
        with self._explained("made"):
            return _connect(self._path)


class _OtherFormError(Exception):
    """The file is of another form than this medai's."""


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are begun and ended here, not by the library.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        # In a write-ahead log readers never wait for a writer, and a commit needs no wait for the disk: a power cut may
        # lose the last scores, which are made again, but damages nothing.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        form = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if form not in (0, FORM):
            connection.execute("ROLLBACK")
            raise _OtherFormError(f"its form is {form}, this medai reads {FORM}")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version = {FORM}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _in_memory(path: Path) -> sqlite3.Connection:
    """The scores without their file: a full disk must not keep a server from starting. What is added is not kept."""
    _logger.warning("%s cannot be opened, its disk is full: scores are kept until this process ends", path)
    connection = _connect(Path(":memory:"))
    log = path.with_name(path.name + "-wal")
    if path.is_file() and path.stat().st_size and not (log.exists() and log.stat().st_size):
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as kept,
        ):
            kept.backup(connection)
    return connection


def _packed(columns: Sequence[Any]) -> PackedScore:
    case_id, key, scored_at_s, numbers, classes, embedding, minutes, disagreement = columns
    return PackedScore(
        case_id=str(case_id),
        version_key=str(key),
        scored_at_s=float(scored_at_s),
        numbers=bytes(numbers),
        classes=str(classes),
        embedding=bytes(embedding),
        expected_minutes=float(minutes),
        disagreement=float("nan") if disagreement is None else float(disagreement),
    )


def _put_aside(path: Path, reason: str) -> None:
    _logger.warning("%s cannot be used (%s): it is put aside and the cases are scored again", path, reason)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.replace(path.with_name(path.name + ".unusable"))


def _discard_old_form(folder: Path) -> None:
    """The scores before 0.2 were one number a case, which nothing can be chosen by any more."""
    if folder.is_dir():
        for name in ("uncertainty.json", "uncertainty.lock"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        _logger.info("The scores in %s are of an older medai and were discarded: the cases are scored again.", folder)
