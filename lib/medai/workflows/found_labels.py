"""Labels that came into the study past medai, taken into its history: put there by hand, or saved by stock MONAI Label.

Each is read as a submission would be (``submitted_label``), and gets an entry of its own: who and when as far as the
study's index says, its segments' names, a reviewer's verdict, and what is wrong with it. A file that was replaced is
another label, and what the index said of the former one no longer counts. A file is read once; afterwards a look costs
a ``stat``.

Threads: one label is looked at at a time; the history's lock keeps out a submission under way. Lock order: this one,
the history's, the study's.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medai.domain import LabelMap, Volume
from medai.domain.annotation import UNUSABLE, Annotation, ReviewState, review_in
from medai.errors import MedaiError, NotFoundError, StorageError
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import FINAL, StudyStore
from medai.volume_io.readers import read_volume
from medai.workflows.annotation_measures import AnnotationMeasurer, RecordedScans, label_volume_ml
from medai.workflows.labelled_scans import BOXES_TAG, boxes_of_markups
from medai.workflows.submitted_label import read_submitted

logger = logging.getLogger(__name__)

SAME_SAVE_S = 5.0
"""An index entry that is older than a label by less was written with it."""

FOUND_TAGS = (FINAL, BOXES_TAG)
"""The labels that trainings read."""

FEW_LABELS = 4
"""Asked of the history one by one; more are asked all at once."""

_SAID = ("label_info", "no_findings", "client_id", "segmentationMeta")
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A label as it was read.

    Attributes:
        info: what is known of it, its names by the file's own values.
        label_map: what it holds; None for boxes, and where it cannot be read.
        nodules: segments or boxes in it.
        problem: why it cannot be used; "" where it can.
    """

    info: dict[str, Any] = field(default_factory=dict)
    label_map: LabelMap | None = None
    nodules: int = 0
    problem: str = ""


class FoundLabels:
    """Looks for labels that the history of a study does not know."""

    def __init__(self, log: AnnotationLog, study: StudyStore, measures: AnnotationMeasurer) -> None:
        self._log = log
        self._study = study
        self._measures = measures
        self._lock = threading.Lock()
        self._seen: dict[_Key, object] = {}

    def look(
        self,
        case_ids: Iterable[str] | None = None,
        *,
        tags: Iterable[str] = FOUND_TAGS,
        most: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Annotation]:
        """Take what is new into the history.

        Args:
            case_ids: where to look; None: everywhere.
            tags: which labels.
            most: how many new ones at most; None: all.
            should_stop: asked before each label.

        Returns:
            The new entries. A label that cannot be looked at now is logged, and looked at the next time.
        """
        wanted = None if case_ids is None else set(case_ids)
        labels = [key for tag in tags for key in self._labels(tag, wanted)]
        if wanted is None:
            self._tell_deleted(labels)
        changed = [key for key in labels if self._state(*key) != self._seen.get(key)]
        if not changed:
            return []
        known = self._known(changed)
        recorded: list[Annotation] = []
        for key in changed:
            if should_stop() or len(recorded) == most:
                break
            try:
                with self._lock:
                    annotation = self._look_at(key, known.get(key))
            except NotFoundError:
                continue  # gone since
            except (MedaiError, OSError) as error:
                logger.warning("The label '%s' of %s cannot be looked at: %s", key[1], key[0], error)
                continue
            recorded += [annotation] if annotation else []
        return recorded

    def keep_rivals(self, case_id: str, tag: str) -> None:
        """Keep the files that lie side by side as one label, before a new one takes the place of all of them."""
        try:
            path, rivals = self._study.label_path(case_id, tag), self._study.rival_labels(case_id, tag)
        except NotFoundError:
            return
        for each in (path, *(path.with_name(name) for name in rivals)) if rivals else ():
            submission = Submission(
                case_id=case_id,
                tag=tag,
                quarantine_reason="it lay beside another file of the same label, and nobody said which one was meant",
                is_measured=True,
                submitted_at_s=each.stat().st_mtime,
            )
            self._log.record_found(submission, each, sha256=sha256_of_file(each))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _labels(self, tag: str, wanted: set[str] | None) -> list[_Key]:
        return [(case_id, tag) for case_id in self._study.labeled(tag) if wanted is None or case_id in wanted]

    def _known(self, keys: Collection[_Key]) -> dict[_Key, Annotation]:
        """The latest labels that the history has of these."""
        if len(keys) <= FEW_LABELS:
            return {key: found for key in keys if (found := self._log.current(*key)) is not None}
        return {(each.case_id, each.tag): each for each in self._log.all() if each.is_current}

    def _state(self, case_id: str, tag: str) -> object:
        """What changes when a label, or what is said of it, does; None where there is none."""
        try:
            path = self._study.label_path(case_id, tag)
            status = path.stat()
            info = self._study.label_info(case_id, tag)
        except (OSError, NotFoundError):
            return None
        said = json.dumps({name: info.get(name) for name in _SAID}, sort_keys=True, default=str)
        return path.name, status.st_mtime_ns, status.st_size, status.st_ino, said

    def _look_at(self, key: _Key, known: Annotation | None) -> Annotation | None:
        """Compare one label with the latest that is known of its case and tag."""
        case_id, tag = key
        state, path = self._state(*key), self._study.label_path(case_id, tag)
        if state == self._seen.get(key):
            return None  # another thread has looked at it meanwhile
        if self._study.rival_labels(case_id, tag):
            return None  # which of them is meant?
        sha256 = sha256_of_file(path)
        is_known = known is not None and known.sha256 == sha256
        if known is not None and is_known and not known.quarantine_reason.startswith(UNUSABLE):
            self._take_verdict(known, self._study.label_info(case_id, tag))
            self._seen[key] = state
            return None
        if known is not None and not is_known and self._is_outdated(known, key):
            logger.warning("The label '%s' of %s was replaced by hand: what was known of it is forgotten", tag, case_id)
            self._study.replace_label_info(case_id, tag, {"ts": int(path.stat().st_mtime)})
            state, known = self._state(*key), None
        found = self._read(case_id, tag, path)
        if is_known and found.problem:
            self._seen[key] = state
            return None
        submission = self._submission(key, path, found, is_first=known is None)
        annotation = self._log.record_found(submission, path, sha256=sha256, again=is_known)
        if annotation is not None:
            self._seen[key] = state
            logger.info("Label '%s' of %s is in the history now: %s", tag, case_id, found.problem or "it can be used")
            self._take_verdict(annotation, found.info)
        return annotation

    def _is_outdated(self, known: Annotation, key: _Key) -> bool:
        """Whether what the index says belongs to a label that was there before."""
        ts = self._study.label_info(*key).get("ts")
        return not isinstance(ts, int | float) or ts <= known.submitted_at_s + SAME_SAVE_S

    def _read(self, case_id: str, tag: str, path: Path) -> _Found:
        info = self._study.label_info(case_id, tag)
        try:
            if path.suffix == ".json":
                return _Found(info=info, nodules=len(boxes_of_markups(path)))
            label = read_submitted(self._study, case_id, tag)
        except StorageError:
            raise
        except MedaiError as error:
            return _Found(info=info, problem=f"{UNUSABLE}: {error}")
        named = {**info, "label_info": label.names_in_file, "no_findings": label.says_nothing_found}
        problem = f"{UNUSABLE}: it holds no labelled voxel, and does not say that there is no nodule."
        return _Found(
            info=named,
            label_map=label.label_map,
            nodules=len(label.values),
            problem=problem if label.is_unfinished else "",
        )

    def _submission(self, key: _Key, path: Path, found: _Found, *, is_first: bool) -> Submission:
        case_id, tag = key
        written_s = path.stat().st_mtime
        ts = found.info.get("ts")
        said_s = float(ts) if is_first and isinstance(ts, int | float) and ts > 0 else written_s
        usable = found.label_map if not found.problem else None
        check = self._measures.first_sight(case_id, usable, tag, may_decode=False)
        return Submission(
            case_id=case_id,
            tag=tag,
            annotator=_annotator(found.info),
            nodules=found.nodules if usable is None else check.nodules,
            volume_ml=label_volume_ml(usable),
            quarantine_reason=found.problem or check.reason,
            is_measured=usable is None,
            info=found.info,
            submitted_at_s=max(0.0, min(said_s, written_s, time.time())),
        )

    def _take_verdict(self, annotation: Annotation, info: Mapping[str, Any]) -> None:
        """Take over what a reviewer has said of a label through stock MONAI Label."""
        state, by = review_in(info)
        if state not in (ReviewState.OPEN, annotation.review):
            self._log.set_review(annotation.annotation_id, state, by)

    def _tell_deleted(self, labels: Iterable[_Key]) -> None:
        """Say once that a label has gone; its case waits for a new one, and the history keeps the old."""
        there, cases = set(labels), set(self._study.image_ids())
        for case_id, tag in [key for key in self._seen if key not in there and key[0] in cases]:
            logger.warning("The label '%s' of %s was deleted; the history keeps a copy of it", tag, case_id)
            del self._seen[case_id, tag]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassingScans:
    """Scans that are looked at once: they take no room from those that annotators work on.

    Attributes:
        held: where scans are that are decoded already; None: nowhere.
    """

    held: RecordedScans | None = None

    def get(self, path: Path, case_id: str = "") -> Volume:
        """The scan, decoded where it is not."""
        scan = self.find_open(path, case_id)
        return scan if scan is not None else replace(read_volume(path), case_id=case_id)

    def find_open(self, path: Path, case_id: str = "") -> Volume | None:
        """The scan where it is decoded already."""
        return self.held.find_open(path, case_id) if self.held is not None else None


def look_for_labels(studies: StudyStore, *, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Take the labels that nobody has looked at into the history and check them, before a training reads them.

    Args:
        studies: the study.
        should_stop: asked before each label.

    Returns:
        How many were new.
    """
    log = AnnotationLog(studies.folder)
    try:
        measures = AnnotationMeasurer(log, studies, PassingScans())
        new = FoundLabels(log, studies, measures).look(should_stop=should_stop)
        for annotation in new:
            if should_stop():
                break
            measures.measure(annotation.annotation_id)
        return len(new)
    finally:
        log.close()


def _annotator(info: Mapping[str, Any]) -> str:
    """Who labelled, as the client of stock MONAI Label said; else as it was logged in; "" where nobody said."""
    return next((name for key in ("client_id", "user") if isinstance(name := info.get(key), str) and name), "")
