"""The table behind the history of annotations, and its translation to what the rest of medai talks about.

One database may hold several studies: every row names its own. Times are seconds since 1970 as doubles, so that no
database's idea of time zones matters.
"""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import (
    Boolean,
    Double,
    Engine,
    Index,
    String,
    Text,
    create_engine,
    event,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from medai.domain.annotation import Annotation, Correction, ReviewState
from medai.errors import InputError, StorageError

SCHEMA_VERSION = 2
"""1: the first. 2: ``segment_names``, added to tables of form 1 when they are opened."""

BUSY_TIMEOUT_S = 30
"""A write takes milliseconds; SQLite otherwise gives up at once where another process writes."""


class Base(DeclarativeBase):
    """Our tables."""


class SchemaRow(Base):
    """One row: which form the tables have."""

    __tablename__ = "medai_schema"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class AnnotationRow(Base):
    """One submitted label."""

    __tablename__ = "medai_annotations"
    __table_args__ = (Index("medai_annotations_by_case", "study_id", "case_id", "tag"),)

    study_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    annotation_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    case_id: Mapped[str] = mapped_column(String(255))
    tag: Mapped[str] = mapped_column(String(64))
    annotator: Mapped[str] = mapped_column(Text)
    submitted_at_s: Mapped[float] = mapped_column(Double)
    seconds_spent: Mapped[float | None] = mapped_column(Double)
    proposal_model: Mapped[str | None] = mapped_column(Text)
    proposal_version: Mapped[str | None] = mapped_column(Text)
    file_name: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    nodules: Mapped[int]
    volume_ml: Mapped[float] = mapped_column(Double)
    dice: Mapped[float | None] = mapped_column(Double)
    added_path_length_mm: Mapped[float | None] = mapped_column(Double)
    volume_change_ml: Mapped[float | None] = mapped_column(Double)
    nodules_added: Mapped[int | None]
    nodules_removed: Mapped[int | None]
    review: Mapped[str] = mapped_column(String(16), default="")
    review_by: Mapped[str] = mapped_column(Text, default="")
    quarantine_reason: Mapped[str] = mapped_column(Text, default="")
    released_by: Mapped[str] = mapped_column(Text, default="")
    is_measured: Mapped[bool] = mapped_column(Boolean, default=False)
    segment_names: Mapped[str] = mapped_column(Text, default="", server_default="")

    @classmethod
    def of(cls, annotation: Annotation, *, study_id: str, is_measured: bool) -> AnnotationRow:
        """The row of an annotation."""
        row = cls(
            study_id=study_id,
            annotation_id=annotation.annotation_id,
            case_id=annotation.case_id,
            tag=annotation.tag,
            annotator=annotation.annotator,
            submitted_at_s=annotation.submitted_at_s,
            seconds_spent=annotation.seconds_spent,
            proposal_model=annotation.proposal_model,
            proposal_version=annotation.proposal_version,
            file_name=annotation.file_name,
            sha256=annotation.sha256,
            nodules=annotation.nodules,
            volume_ml=annotation.volume_ml,
            review=str(annotation.review),
            review_by=annotation.review_by,
            quarantine_reason=annotation.quarantine_reason,
            released_by="",
            is_measured=is_measured,
            segment_names=json.dumps(annotation.segment_names) if annotation.segment_names else "",
        )
        row.set_correction(annotation.correction)
        return row

    def set_correction(self, correction: Correction | None) -> None:
        """Take over how much of the proposal was changed."""
        self.dice = correction.dice if correction else None
        self.added_path_length_mm = correction.added_path_length_mm if correction else None
        self.volume_change_ml = correction.volume_change_ml if correction else None
        self.nodules_added = correction.nodules_added if correction else None
        self.nodules_removed = correction.nodules_removed if correction else None

    def annotation(self, *, is_current: bool) -> Annotation:
        """The row as the rest of medai talks about it."""
        return Annotation(
            annotation_id=self.annotation_id,
            case_id=self.case_id,
            tag=self.tag,
            annotator=self.annotator,
            submitted_at_s=self.submitted_at_s,
            seconds_spent=self.seconds_spent,
            proposal_model=self.proposal_model,
            proposal_version=self.proposal_version,
            file_name=self.file_name,
            sha256=self.sha256,
            nodules=self.nodules,
            volume_ml=self.volume_ml,
            correction=self._correction(),
            review=ReviewState(self.review),
            review_by=self.review_by,
            quarantine_reason=self.quarantine_reason,
            is_current=is_current,
            segment_names=tuple((int(value), str(name)) for value, name in json.loads(self.segment_names or "[]")),
        )

    def _correction(self) -> Correction | None:
        # Written together or not at all.
        if self.dice is None:
            return None
        return Correction(
            dice=self.dice,
            added_path_length_mm=self.added_path_length_mm or 0.0,
            volume_change_ml=self.volume_change_ml or 0.0,
            nodules_added=self.nodules_added or 0,
            nodules_removed=self.nodules_removed or 0,
        )


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def connect(url: str) -> Engine:
    """Connect to a database; nothing is made or changed there yet.

    Raises:
        InputError: the URL is none, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
            event.listen(engine, "connect", _configure_sqlite)
            return engine
        # A database on another machine may have closed a connection that lay idle over lunch.
        return create_engine(parsed, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            f"There is no driver for the annotation database '{url.partition(':')[0]}': {error}. Install it, such as "
            "'psycopg[binary]' for postgresql+psycopg."
        ) from error
    except ArgumentError as error:
        # Without the URL: it may hold a password.
        raise InputError(
            "The address of the annotation database cannot be read. Write it as SQLAlchemy does, such as "
            "postgresql+psycopg://user:password@host/database."
        ) from error


def make_tables(engine: Engine) -> None:
    """Make the tables where they are missing, and bring old ones into today's form; two processes may do so at once.

    Raises:
        StorageError: a newer medai has written them.
    """
    if not inspect(engine).has_table(SchemaRow.__tablename__):
        try:
            Base.metadata.create_all(engine)
        except DBAPIError:
            # Another server may have made them between the question and now.
            Base.metadata.create_all(engine)
    with Session(engine) as session:
        version = session.scalar(select(SchemaRow.version))
        if version is None:
            session.add(SchemaRow(version=SCHEMA_VERSION))
            try:
                session.commit()
            except IntegrityError:
                session.rollback()
        elif version > SCHEMA_VERSION:
            raise StorageError(
                f"The history of annotations has form {version}, this medai knows up to {SCHEMA_VERSION}; nothing was "
                "changed. Update medai."
            )
    if version is not None and version < SCHEMA_VERSION:
        _add_segment_names(engine)


def _add_segment_names(engine: Engine) -> None:
    """From form 1 to 2: what is there stays as it is, and older labels have no names."""
    column = AnnotationRow.__table__.c.segment_names
    try:
        with engine.begin() as connection:
            if column.name not in {
                each["name"] for each in inspect(connection).get_columns(AnnotationRow.__tablename__)
            }:
                kind = column.type.compile(engine.dialect)
                table = AnnotationRow.__tablename__
                connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column.name} {kind} NOT NULL DEFAULT ''"))
            connection.execute(update(SchemaRow).values(version=SCHEMA_VERSION))
    except DBAPIError:
        # Another server may have added it between the question and now; else its error is told.
        with engine.begin() as connection:
            if column.name not in {
                each["name"] for each in inspect(connection).get_columns(AnnotationRow.__tablename__)
            }:
                raise
            connection.execute(update(SchemaRow).values(version=SCHEMA_VERSION))


def _configure_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # the driver's own connection
    try:
        # Readers do not wait for a writer; FULL: a committed row survives a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_S}000"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()
