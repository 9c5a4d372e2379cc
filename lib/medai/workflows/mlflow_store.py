"""A study's own MLflow database: made and migrated beside its place, and put there whole.

MLflow makes a database by a few dozen migrations, in place, and SQLite keeps what each of them did so far: a process
killed in the midst of them leaves a database that no later one can migrate or open. So here they run on a copy, which
takes the database's place when all of them are through.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from medai.store.atomic import ABANDONED_AFTER_S, copy_into, publish

logger = logging.getLogger(__name__)

_WORK_PREFIX = "mlflow-making-"


def make_ready(database: Path) -> None:
    """Make ``database`` one that the installed MLflow opens: new, migrated, or left as it is.

    One that cannot be migrated is kept beside it under another name, and a new one takes its place.

    Args:
        database: the file; its folder is there.

    Raises:
        StorageError, sqlalchemy.exc.SQLAlchemyError: it could not be made; what was there is unchanged.
    """
    if database.exists() and _is_current(database):
        return
    _sweep(database.parent)
    with _copy_of(database) as copy:
        try:
            _migrate(copy)
        except Exception:
            # Whatever a migration raises, its copy is of no use; without a database to blame it is no such case.
            if not database.exists():
                raise
            copy.unlink()
            _migrate(copy)
            _set_aside(database)
        publish(copy, database)


def _is_current(database: Path) -> bool:
    """Whether its schema is the installed MLflow's; False as well for what is no database."""
    import mlflow.store
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    newest = ScriptDirectory(str(Path(mlflow.store.__file__).parent / "db_migrations")).get_heads()
    engine = create_engine(_address(database))
    try:
        with engine.connect() as connection:
            return set(MigrationContext.configure(connection).get_current_heads()) == set(newest)
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()


def _migrate(database: Path) -> None:
    """What ``mlflow db upgrade`` does, to an old database or to none, with everything in the one file afterwards."""
    from mlflow.db import upgrade

    upgrade.main([_address(database)], standalone_mode=False)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


@contextlib.contextmanager
def _copy_of(database: Path) -> Iterator[Path]:
    """A copy in a folder of its own, which goes with it; not there where there is no database."""
    folder = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=database.parent))
    try:
        if database.exists():
            copy_into(database, folder / database.name)
        yield folder / database.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _set_aside(database: Path) -> None:
    """Rename what cannot be migrated, with its journals: SQLite would play them into the database that comes next."""
    aside = f"{database.name}.unreadable-{time.strftime('%Y%m%d-%H%M%S')}"
    for ending in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + ending).replace(database.with_name(aside + ending))
    logger.warning("MLflow cannot open %s; it is kept as %s, a new one is begun", database, aside)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left; younger ones may belong to a living one."""
    for left in folder.glob(f"{_WORK_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)


def _address(database: Path) -> str:
    return f"sqlite:///{database}"
