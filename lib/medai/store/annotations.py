"""Every label anyone has submitted, kept for good: its file, who, when, from which proposal, and what became of it.

A submission leaves its traces in this order, so that a kill between any two loses nothing:

1. ``<annotation id>.about.json``, what is known of it, and the proposal it began from;
2. ``<annotation id>.nii.gz`` (or .json), the label itself, written beside its name and renamed;
3. the row in the database;
4. the study's own label (MONAI Label's ``final``), which the caller writes inside ``submitting``;
5. the about-file goes.

What a kill has left is taken up at the next opening: a file without a row gets its row, a row whose about-file is still
there gets its label into the study (``finish_interrupted``).

Threads and processes: every method may be called from any. A submission holds ``.medai/annotations/.lock`` from 1 to 5,
so that the latest row of a case is the label that the study shows. Lock order: this lock, then the study's.

Layout, below ``.medai``::

    annotations.db                            the rows, unless MEDAI_ANNOTATIONS_URL names another database
    annotations/study_id                      which rows of that database are ours
    annotations/<case id>/<annotation id>.*   the labels, and a folder .proposal beside each that had one
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from medai.domain.annotation import Annotation, Correction, ReviewState, standing, without_annotators
from medai.errors import InputError, MedaiError, NotFoundError, StorageError
from medai.store.annotation_files import (
    ABOUT_SUFFIX,
    FINAL,
    PROPOSAL_SUFFIX,
    about_of,
    annotation_id_of,
    has_label,
    label_files,
    link_or_copy,
    named_segments,
    orphan_of,
    read_about,
    sha256_of_file,
)
from medai.store.annotation_schema import AnnotationRow, connect, make_tables
from medai.store.atomic import copy_into, publish, staged_file, sweep, write_bytes, write_json
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock
from medai.store.names import LABEL_EXTENSIONS, check_case_id, check_tag, is_text, split_extension
from medai.store.sqlite_engine import sqlite_url, writing
from medai.store.tombstones import Tombstones
from medai.volume_io.atomic import disk_words

URL_VARIABLE = "MEDAI_ANNOTATIONS_URL"
"""Names another database. A variable of the environment and no option: it holds a password, and a process's options can
be read by everyone on the machine. The processes that a server starts inherit it."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is known of a label when it is submitted.

    Attributes:
        case_id: the scan.
        tag: MONAI Label's tag.
        annotator: who; "" where nobody said.
        nodules: segments in it.
        volume_ml: of all of them.
        seconds_spent: from handing the case out to now; None where that is not known.
        proposal_model: the model whose answer was corrected; None without one.
        proposal_version: its version.
        proposal_folder: the proposal's files (``store.proposals``), kept with the label; None without one.
        quarantine_reason: what is wrong with it at first sight.
        is_measured: nothing is left to be found out about it.
        info: kept with the study's own label; the segments' names in it (``label_info``) stay with the annotation.
        submitted_at_s: when, seconds since 1970; None: now.
    """

    case_id: str
    tag: str = FINAL
    annotator: str = ""
    nodules: int = 0
    volume_ml: float = 0.0
    seconds_spent: float | None = None
    proposal_model: str | None = None
    proposal_version: str | None = None
    proposal_folder: Path | None = None
    quarantine_reason: str = ""
    is_measured: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    submitted_at_s: float | None = None


def has_history(studies: Path) -> bool:
    """Whether a study keeps a history of its labels; one that came from stock MONAI Label has none yet."""
    return (state_folder(studies) / "annotations" / "study_id").is_file()


class AnnotationLog:
    """The history of one study's labels."""

    def __init__(self, studies: Path, *, url: str | None = None, now: Callable[[], float] = time.time) -> None:
        """Open the history, and take up what a kill has left.

        Args:
            studies: the study folder.
            url: the database, as SQLAlchemy writes it; default: what MEDAI_ANNOTATIONS_URL says, else a SQLite file.
            now: the clock, seconds since the epoch.

        Raises:
            InputError: the URL cannot be used.
            StorageError: the database or the folder cannot be read or written, or a newer medai wrote it.
        """
        state = state_folder(studies)
        self.folder = state / "annotations"
        self.passed_over: list[str] = []
        """Kept labels that cannot be taken up into the history, each with the reason."""
        self._now = now
        self._tombstones = Tombstones(studies)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"Cannot make {self.folder}: {disk_words(error)}.") from error
        self._lock = ExclusiveLock(self.folder / ".lock")
        self._engine = connect(url or os.environ.get(URL_VARIABLE) or sqlite_url(state / "annotations.db"))
        with self._lock.hold():
            self._study_id = self._own_id()
            with self._explained("opened"):
                make_tables(self._engine)
            self._adopt_orphans()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # -- a submission --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def submitting(self, submission: Submission, path: Path) -> Iterator[Annotation]:
        """Keep a label; inside the block the caller puts it into the study.

        Args:
            submission: what is known of it.
            path: its file; copied, its extension is kept.

        Yields:
            The annotation, whose file and row are on the disk.

        Raises:
            InputError: case id, tag or extension cannot be used.
            StorageError: the disk or the database refused. What had been written is taken up at the next opening.
        """
        check_case_id(submission.case_id)
        check_tag(submission.tag)
        for name in ("annotator", "proposal_model", "proposal_version", "quarantine_reason"):
            if not is_text(getattr(submission, name) or ""):
                raise InputError(f"'{name}' is no valid Unicode text: {getattr(submission, name)[:120]!a}.")
        extension = split_extension(path.name, LABEL_EXTENSIONS)[1].lower()
        with self._lock.hold():
            annotation = self._annotation(submission, extension, sha256_of_file(path))
            about = self._about_path(annotation)
            write_json(about, about_of(annotation, submission.info))
            self._keep_proposal(annotation, submission.proposal_folder)
            target = self.path(annotation)
            with staged_file(target) as staged:
                copy_into(path, staged)
                publish(staged, target)
            self._insert(annotation, is_measured=submission.is_measured)
            yield annotation
            about.unlink(missing_ok=True)

    def record(self, submission: Submission, path: Path) -> Annotation:
        """Keep a label that the study has already, or is not to have; see ``submitting``."""
        with self.submitting(submission, path) as annotation:
            return annotation

    def record_found(
        self, submission: Submission, path: Path, *, sha256: str, again: bool = False
    ) -> Annotation | None:
        """Keep a label that came into the study past medai, unless it is known by now.

        Args:
            submission: what is known of it.
            path: the study's file.
            sha256: of the file as it was read for ``submission``.
            again: keep it also where the latest label of the case is the same file: more is known of it now.

        Returns:
            The annotation; None where the history has the label, or the file was replaced since.
        """
        with self._lock.hold():
            # A submission that a kill has cut off puts its label into the study yet.
            if any((self.folder / submission.case_id).glob(f"*{ABOUT_SUFFIX}")) or sha256_of_file(path) != sha256:
                return None
            known = self.current(submission.case_id, submission.tag)
            if known is not None and known.sha256 == sha256 and not again:
                return None
            return self.record(submission, path)

    def finish_interrupted(self, save: Callable[[Annotation, Path, Mapping[str, Any]], None]) -> int:
        """Put labels into the study whose submission a kill has cut off after they were kept.

        Args:
            save: puts one into the study: the annotation, its file, and what is kept with the study's label. One that
                was replaced meanwhile is not given.

        Returns:
            How many were saved.
        """
        saved = 0
        with self._lock.hold():
            for about_path in sorted(self.folder.glob(f"*/*{ABOUT_SUFFIX}")):
                annotation = self._found(annotation_id_of(about_path))
                if annotation is None and has_label(about_path):
                    # Its row could not be written at the opening: what is known of it stays for the next one.
                    continue
                try:
                    if annotation is not None and annotation.is_current:
                        save(annotation, self.path(annotation), read_about(about_path).get("info", {}))
                        saved += 1
                except NotFoundError as error:
                    _logger.warning("An interrupted submission stays in the history alone: %s", error)
                except MedaiError:
                    _logger.exception("An interrupted submission could not be completed; it is tried again")
                    continue
                about_path.unlink(missing_ok=True)
        return saved

    # -- what there is -------------------------------------------------------------------------------------------------

    def path(self, annotation: Annotation) -> Path:
        """The kept file of a label."""
        return self.folder / annotation.file_name

    def proposal_folder(self, annotation: Annotation) -> Path | None:
        """The files of the proposal a label began from; None without one."""
        folder = self.folder / annotation.case_id / f"{annotation.annotation_id}{PROPOSAL_SUFFIX}"
        return folder if folder.is_dir() else None

    def get(self, annotation_id: str) -> Annotation:
        """One label's history.

        Raises:
            NotFoundError: there is none of that id.
        """
        found = self._found(annotation_id)
        if found is None:
            raise NotFoundError(
                f"The study's history has no annotation '{annotation_id}'. 'medai annotations STUDIES' lists them."
            )
        return found

    def of_case(self, case_id: str) -> list[Annotation]:
        """Every label of a case, oldest first."""
        return self.all(case_id=case_id)

    def current(self, case_id: str, tag: str = FINAL) -> Annotation | None:
        """The latest label of a case; None where none was recorded."""
        found = [annotation for annotation in self.of_case(case_id) if annotation.tag == tag]
        return found[-1] if found else None

    def all(
        self,
        *,
        annotator: str | None = None,
        case_id: str | None = None,
        is_quarantined: bool | None = None,
        review: ReviewState | None = None,
        with_deleted: bool = False,
    ) -> list[Annotation]:
        """The labels that fit, oldest first.

        Args:
            annotator: by whom.
            case_id: of which case.
            is_quarantined: kept from training, or not.
            review: what a reviewer said.
            with_deleted: those too whose scan was deleted or replaced; they count for nothing.
        """
        conditions: list[ColumnElement[bool]] = []
        if annotator is not None:
            conditions.append(AnnotationRow.annotator == annotator)
        if case_id is not None:
            conditions.append(AnnotationRow.case_id == case_id)
        if is_quarantined is not None:
            reason = AnnotationRow.quarantine_reason
            conditions.append(reason != "" if is_quarantined else reason == "")
        if review is not None:
            conditions.append(AnnotationRow.review == str(review))
        found = self._select(*conditions)
        return found if with_deleted else [each for each in found if not each.is_of_deleted_scan]

    def withheld(self) -> list[Annotation]:
        """The latest labels that a training must leave out."""
        return [annotation for annotation in self.all() if annotation.is_current and not annotation.trains]

    def opinions(self, tag: str = FINAL, *, without: Collection[str] = ()) -> dict[str, tuple[Annotation, ...]]:
        """The labels that count, oldest first, of every case that two or more people have labelled.

        Args:
            tag: MONAI Label's tag.
            without: annotators whose word does not count beside that of others.

        Returns:
            Case to its labels; a case of which no label counts is not in it.
        """
        by_case: dict[str, list[Annotation]] = {}
        for annotation in self.all():
            if annotation.tag == tag:
                by_case.setdefault(annotation.case_id, []).append(annotation)
        several = {case: found for case, found in by_case.items() if len({a.annotator for a in found}) > 1}
        return {case: without_annotators(kept, without) for case, found in several.items() if (kept := standing(found))}

    def unmeasured(self) -> list[Annotation]:
        """Labels whose correction and agreement with others have not been worked out yet, oldest first."""
        return [each for each in self._select(AnnotationRow.is_measured.is_(False)) if not each.is_of_deleted_scan]

    # -- what becomes of it --------------------------------------------------------------------------------------------

    def set_review(self, annotation_id: str, review: ReviewState, by: str) -> Annotation:
        """Set what a reviewer says of a label."""
        with self._changed(annotation_id) as row:
            row.review, row.review_by = str(review), by
        return self.get(annotation_id)

    def quarantine(self, annotation_id: str, reason: str) -> Annotation:
        """Keep a label from training until somebody has looked, for a reason in words."""
        with self._changed(annotation_id) as row:
            row.quarantine_reason, row.released_by = reason, ""
        return self.get(annotation_id)

    def doubt(self, annotation_id: str, reason: str) -> Annotation:
        """Quarantine a label for what was found out later; one that somebody has released stays free."""
        with self._changed(annotation_id) as row:
            if not row.released_by and not row.quarantine_reason:
                row.quarantine_reason = reason
        return self.get(annotation_id)

    def release(self, annotation_id: str, by: str) -> Annotation:
        """Let a label train after somebody has looked; no later check quarantines it again by itself."""
        with self._changed(annotation_id) as row:
            row.quarantine_reason, row.released_by = "", by or "somebody"
        return self.get(annotation_id)

    def set_measures(self, annotation_id: str, correction: Correction | None, problem: str) -> Annotation:
        """Add what was found out after the submission.

        Args:
            annotation_id: which.
            correction: against its proposal; None without one.
            problem: a reason to quarantine it; "" where there is none. One that somebody has released stays free, and
                an earlier reason stays.
        """
        with self._changed(annotation_id) as row:
            row.set_correction(correction)
            row.is_measured = True
            if problem and not row.released_by and not row.quarantine_reason:
                row.quarantine_reason = problem
        return self.get(annotation_id)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _annotation(self, submission: Submission, extension: str, sha256: str) -> Annotation:
        latest = self.all(case_id=submission.case_id, with_deleted=True)
        gone = self._tombstones.all().get(submission.case_id)
        # A clock that was set back must not put a new label behind an old one, or before its scan.
        now = max(
            self._now() if submission.submitted_at_s is None else submission.submitted_at_s,
            latest[-1].submitted_at_s + 1e-3 if latest else 0.0,
            gone.deleted_at_s + 1e-3 if gone else 0.0,
        )
        annotation_id = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"
        return Annotation(
            annotation_id=annotation_id,
            case_id=submission.case_id,
            tag=submission.tag,
            annotator=submission.annotator,
            submitted_at_s=now,
            seconds_spent=submission.seconds_spent,
            proposal_model=submission.proposal_model,
            proposal_version=submission.proposal_version,
            file_name=f"{submission.case_id}/{annotation_id}{extension}",
            sha256=sha256,
            nodules=submission.nodules,
            volume_ml=submission.volume_ml,
            correction=None,
            quarantine_reason=submission.quarantine_reason,
            segment_names=named_segments(submission.info),
        )

    def _about_path(self, annotation: Annotation) -> Path:
        return self.folder / annotation.case_id / f"{annotation.annotation_id}{ABOUT_SUFFIX}"

    def _keep_proposal(self, annotation: Annotation, source: Path | None) -> None:
        """Hard links where the file system has them: a proposal is replaced by new files, never changed."""
        if source is None:
            return
        target = self.folder / annotation.case_id / f"{annotation.annotation_id}{PROPOSAL_SUFFIX}"
        try:
            shutil.copytree(source, target, copy_function=link_or_copy)
        except OSError as error:
            # One that is pruned at this moment is a proposal less, not a label less.
            _logger.warning("The proposal of a label was not kept, its correction is not measured: %s", error)
            shutil.rmtree(target, ignore_errors=True)

    def _own_id(self) -> str:
        path = self.folder / "study_id"
        if not path.is_file():
            write_bytes(path, uuid.uuid4().hex.encode())
        return path.read_text(encoding="ascii").strip()

    def _adopt_orphans(self) -> None:
        """Give every kept file without a row its row; the lock is held, so no submission is under way."""
        with self._session("read") as session:
            known = set(
                session.scalars(select(AnnotationRow.annotation_id).where(AnnotationRow.study_id == self._study_id))
            )
        self.passed_over = []
        for case_folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            sweep(case_folder)
            for path in label_files(case_folder):
                if annotation_id_of(path) in known:
                    continue
                try:
                    self._adopt(path)
                except StorageError:
                    # A full disk must not keep the history from being read.
                    _logger.exception("A label of case %a has no row yet; it is tried again", case_folder.name)
                    return
                except (InputError, TypeError, ValueError) as error:
                    words = f"annotations: {case_folder.name!a}/{path.name!a} cannot be taken up: {error}"
                    _logger.warning("%s", words)
                    self.passed_over.append(words)

    def _adopt(self, path: Path) -> None:
        """Give one kept file its row.

        Raises:
            InputError: its folder is no case's, or what is known of it cannot be kept.
            StorageError: the database refused.
        """
        check_case_id(path.parent.name)
        about_path = path.with_name(f"{annotation_id_of(path)}{ABOUT_SUFFIX}")
        annotation = orphan_of(path, read_about(about_path))
        self._insert(annotation, is_measured=False)
        _logger.warning("A label of case %s had no row in the history: taken up again", annotation.case_id)

    def _insert(self, annotation: Annotation, *, is_measured: bool) -> None:
        words = "written; the label's file is kept and is taken up at the next start"
        with self._session(words, writes=True) as session:
            session.add(AnnotationRow.of(annotation, study_id=self._study_id, is_measured=is_measured))

    def _found(self, annotation_id: str) -> Annotation | None:
        found = self._select(AnnotationRow.annotation_id == annotation_id)
        return found[0] if found else None

    def _select(self, *conditions: ColumnElement[bool]) -> list[Annotation]:
        ours = AnnotationRow.study_id == self._study_id
        latest, latest_of_each = (
            AnnotationRow.annotation_id.in_(
                select(func.max(AnnotationRow.annotation_id)).where(ours).group_by(*columns).scalar_subquery()
            )
            for columns in (
                (AnnotationRow.case_id, AnnotationRow.tag),
                (AnnotationRow.case_id, AnnotationRow.tag, AnnotationRow.annotator),
            )
        )
        rows = select(AnnotationRow, latest, latest_of_each).where(ours, *conditions)
        with self._session("read") as session:
            found = session.execute(rows.order_by(AnnotationRow.submitted_at_s, AnnotationRow.annotation_id)).all()
            gone = self._tombstones.all()
            return [
                row.annotation(is_current=bool(last), is_own_latest=bool(own))
                if row.case_id not in gone or row.submitted_at_s > gone[row.case_id].deleted_at_s
                else replace(row.annotation(is_current=False, is_own_latest=False), is_of_deleted_scan=True)
                for row, last, own in found
            ]

    @contextlib.contextmanager
    def _changed(self, annotation_id: str) -> Iterator[AnnotationRow]:
        self.get(annotation_id)
        with self._session("changed", writes=True) as session:
            # Locked against another server's change: the row where the database can, SQLite's file as a whole.
            row = session.get_one(AnnotationRow, (self._study_id, annotation_id), with_for_update=True)
            yield row

    @contextlib.contextmanager
    def _session(self, done: str, *, writes: bool = False) -> Iterator[Session]:
        engine = writing(self._engine) if writes else self._engine
        with self._explained(done), Session(engine) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or type(error).__name__
            raise StorageError(
                f"The history of annotations ({self._engine.url.render_as_string(hide_password=True)}) could not be "
                f"{done}: {cause}. Check the database, and that its disk has space left."
            ) from error
