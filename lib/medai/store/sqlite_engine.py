"""SQLite as the history of annotations uses it: no update of two processes is lost, and a full disk can be read from.

The driver begins a transaction at the first change, so that what was read before it may be stale by then. Here every
transaction begins where it is asked to, and one that changes something (``writing``) takes the write lock at once: two
processes that read a row and change it come one after the other.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_S = 30
"""A write takes milliseconds; SQLite otherwise gives up at once where another process writes."""

_WRITES = "medai_writes"
_READ_ONLY = "medai read only"
NO_ROOM = ("SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMOPEN", "SQLITE_FULL", "SQLITE_CANTOPEN")
"""What SQLite calls a disk on which it cannot lay the files beside a database that it needs."""

_logger = logging.getLogger(__name__)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def sqlite_engine(url: URL) -> Engine:
    """An engine on a SQLite file; nothing is made or changed there yet."""
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "do_connect", _open)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "checkin", _drop_read_only)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that change something; of any database."""
    return engine.execution_options(**{_WRITES: True})


def _open(_: object, record: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect; where the disk has no room for the file that readers and writers share, connect for reading alone.

    SQLite's WAL needs 32 KB beside the database even for reading. Without them, and with nothing in the log, the file
    itself holds everything there is, and nobody can be writing to it.
    """
    connection = sqlite3.connect(*arguments, **options)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError as error:
        connection.close()
        path = Path(arguments[0]).absolute()
        log = path.with_name(f"{path.name}-wal")
        if error.sqlite_errorname not in NO_ROOM or (log.exists() and log.stat().st_size):
            raise
        _logger.warning("%s is read without its log, nothing can be written beside it: is the disk full?", path)
    record.info[_READ_ONLY] = True
    return sqlite3.connect(
        f"{path.as_uri()}?mode=ro&immutable=1", timeout=BUSY_TIMEOUT_S, check_same_thread=False, uri=True
    )


def _configure(connection: Any, record: ConnectionPoolEntry) -> None:
    # Transactions begin where ``_begin`` says, and nowhere else.
    connection.isolation_level = None
    if record.info.get(_READ_ONLY):
        return
    cursor = connection.cursor()
    try:
        # Readers do not wait for a writer; FULL: a committed row survives a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_S}000"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    is_writing = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _drop_read_only(_: object, record: ConnectionPoolEntry) -> None:
    """There may be space again for the next one."""
    if record.info.pop(_READ_ONLY, False):
        record.invalidate()
