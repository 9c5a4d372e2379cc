"""Keeps the history of a study's labels while the server runs: what was proposed, what came back, what is doubtful.

A submission is checked against its scan and recorded before it is answered, so that its annotator is told while the
case is still before them. What needs other labels (the correction, agreement with peers) is worked out afterwards by
one thread of its own, and again at the next start where a kill came in between.

Threads: every method may be called from any. Two threads belong here, one that writes proposals down and one that
measures; both work through queues, so that nothing is measured or written twice at once. Lock order: the history's lock
(``store.annotations``), then the study's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.domain.annotation import Annotation, ReviewState
from medai.domain.case_score import CaseScore
from medai.errors import ConflictError, ForbiddenError, MedaiError
from medai.postprocessing.nodules import rating_problems
from medai.server.infer_request import InferReply, Proposes
from medai.server.uploads import CheckedLabel
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, Submission
from medai.store.proposals import ProposalPart, ProposalStore, RememberedProposal
from medai.store.reservations import Reservations
from medai.store.study import StudyStore
from medai.workflows.annotation_measures import AnnotationMeasurer, RecordedScans, label_volume_ml
from medai.workflows.found_labels import FOUND_TAGS, FoundLabels, PassingScans

FOUND_AT_ONCE = 5
"""Labels that were put into the study, taken up before what was submitted meanwhile has its turn."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """Who judges a label.

    Attributes:
        name: the login, or what was sent.
        is_login: whether the name is proven.
        may_judge: whether the login has the reviewer's role.
    """

    name: str
    is_login: bool = False
    may_judge: bool = True

    def check(self, author: str, *, present: ReviewState, wanted: ReviewState) -> None:
        """Refuse a verdict on one's own label, to flag it apart, and any without the role.

        Raises:
            ForbiddenError: with who could do it.
        """
        if not self.may_judge:
            raise ForbiddenError(f"'{self.name}' may not judge labels: that asks for the role of a reviewer.")
        is_own = bool(author) and author.casefold() == self.name.casefold()
        # To lift somebody's flag from one's own label would be to approve it.
        if is_own and (wanted is ReviewState.APPROVED or present is ReviewState.FLAGGED):
            raise ForbiddenError(
                f"'{self.name}' submitted this label; nobody approves their own. Ask another reviewer."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLabel:
    """A label in the history, and what its annotator should know of it.

    Attributes:
        annotation: its row; ``quarantine_reason`` says why it does not train, "" where it may.
        notes: what else was found, a sentence each: crumbs, doubtful parts, ratings that are none.
    """

    annotation: Annotation
    notes: tuple[str, ...] = ()


class AnnotationRecorder:
    """The history of one study, as the server writes it."""

    def __init__(
        self,
        study: StudyStore,
        reservations: Reservations,
        scans: RecordedScans,
        scores: Callable[[str], CaseScore | None] = lambda _: None,
    ) -> None:
        """Open the history; ``resume`` takes up what a kill has left.

        Args:
            study: whose history it is.
            reservations: who works on what.
            scans: decodes them.
            scores: what the models make of a case; None for one that was not scored.
        """
        self.log = AnnotationLog(study.folder)
        self._proposals = ProposalStore(study.folder)
        self._study = study
        self._reservations = reservations
        self._measures = AnnotationMeasurer(self.log, study, scans, scores)
        self._found = FoundLabels(self.log, study, self._measures)
        # Checked once and for all: no room in the cache for them.
        self._found_measures = AnnotationMeasurer(self.log, study, PassingScans(held=scans), scores)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="medai-proposals")
        self._measurer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="medai-measures")

    def resume(self) -> None:
        """Finish submissions that were cut off, and measure what is not measured yet (in the background)."""
        saved = self.log.finish_interrupted(self._put_back)
        if saved:
            logger.warning("%d interrupted submissions were completed", saved)
        for annotation in self.log.unmeasured():
            self._measurer.submit(self._measure, annotation.annotation_id)
        self.look_on()

    def close(self) -> None:
        """Write down the proposals; what is not measured yet is measured at the next start."""
        self._writer.shutdown(wait=True)
        self._measurer.shutdown(wait=True, cancel_futures=True)
        self.log.close()

    def wait(self) -> None:
        """Until everything queued so far is written and measured."""
        for executor in (self._writer, self._measurer):
            executor.submit(lambda: None).result()

    # -- what is asked of it ----------------------------------------------------------------------------------------

    def remember(self, case_id: str, client_id: str, model: str, proposes: Proposes, reply: InferReply) -> None:
        """Remember what a client is about to see; written by a thread of its own."""
        names = {str(name): int(value) for name, value in reply.params.get("label_names", {}).items()}
        if proposes is Proposes.NOTHING or reply.extension == ".json" or not names:
            return
        part = ProposalPart(
            model=model,
            version=_version(reply.params),
            payload=reply.payload,
            extension=reply.extension,
            label_names=names,
            segment=next(iter(names)) if proposes is Proposes.SEGMENT else None,
        )
        with contextlib.suppress(RuntimeError):  # the server is closing: the answer matters, its memory does not
            self._writer.submit(self._remember, case_id, client_id, part)

    def submit(self, case_id: str, checked: CheckedLabel, *, annotator: str, client_id: str) -> RecordedLabel:
        """Check a label against its scan, record it and put it into the study.

        Args:
            case_id: the scan.
            checked: the label.
            annotator: who, for the history.
            client_id: the same, as reservations and proposals know it.

        Raises:
            StorageError: disk or database refused; the label the study had is still there.
        """
        # A label that was put there by hand would be overwritten unseen.
        self.look([case_id])
        self._found.keep_rivals(case_id, checked.tag)
        proposal = None if checked.label_map is None else self._proposal(case_id, client_id)
        check = self._measures.first_sight(case_id, checked.label_map, checked.tag)
        notes = (*check.notes, *_rating_problems(checked))
        info = {**checked.info, "notes": list(notes)} if notes else checked.info
        submission = Submission(
            case_id=case_id,
            tag=checked.tag,
            annotator=annotator,
            nodules=check.nodules if checked.label_map else int(checked.info.get("detections", 0)),
            volume_ml=label_volume_ml(checked.label_map),
            seconds_spent=self._seconds_spent(case_id, client_id, proposal),
            proposal_model=proposal.model if proposal else None,
            proposal_version=proposal.version if proposal else None,
            proposal_folder=proposal.folder if proposal else None,
            quarantine_reason=check.reason,
            is_measured=checked.label_map is None,
            info=info,
        )
        with self.log.submitting(submission, checked.path) as annotation:
            self._study.save_label(case_id, checked.path, checked.tag, info)
        if checked.label_map is not None:
            with contextlib.suppress(RuntimeError):  # the server is closing: it is measured at the next start
                self._measurer.submit(self._measure, annotation.annotation_id)
        return RecordedLabel(annotation=annotation, notes=notes)

    def review(self, case_id: str, tag: str, status: Any, by: Reviewer) -> ReviewState:
        """Take over what a reviewer says of a case's label; a label from before the history is recorded first.

        Returns:
            What is said of the label now.

        Raises:
            InputError: the status is none of a reviewer's words.
            ForbiddenError: this login may not judge labels, or not this one, its own.
            ConflictError: two files are this label.
        """
        # The reviewer's other words ("in progress") say nothing about training.
        state = ReviewState.said(status)
        path = self._study.label_path(case_id, tag)
        self.look([case_id], tags=(tag,))
        annotation = self.log.current(case_id, tag)
        if annotation is None or annotation.sha256 != sha256_of_file(path):
            raise ConflictError(
                f"Nobody can say which file is the label '{tag}' of '{case_id}': keep one of them in labels/{tag}, "
                "move the others away, and review it again."
            )
        if by.is_login:
            if state is annotation.review:
                # The reviewer module sends level and comment with the status that stands.
                return state
            user = self._study.label_info(case_id, tag).get("user")
            author = by.name if by.name == user else annotation.annotator
            by.check(author, present=annotation.review, wanted=state)
        self.log.set_review(annotation.annotation_id, state, by.name)
        logger.info("Label '%s' of %s is %s", tag, case_id, state.value or "open again")
        return state

    def look(self, case_ids: Collection[str] | None = None, *, tags: Collection[str] = FOUND_TAGS) -> None:
        """Take labels of these cases, or of all, into the history that came into the study past the server."""
        self._later(self._found.look(case_ids, tags=tags))

    def look_on(self, wait_s: float = 0.0) -> None:
        """Look for such labels everywhere, a few at a time between what was submitted; wait a moment for the first."""
        with contextlib.suppress(RuntimeError, TimeoutError):  # the server is closing, or it takes longer
            look = self._measurer.submit(self._look_further)
            if wait_s:
                look.result(timeout=wait_s)

    def forget_case(self, case_id: str) -> None:
        """Drop the proposals of a scan that was deleted; its labels stay in the history."""
        self._proposals.forget(case_id)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _remember(self, case_id: str, client_id: str, part: ProposalPart) -> None:
        try:
            self._proposals.remember(case_id, client_id, part)
        except (MedaiError, OSError) as error:
            logger.warning("What was proposed for %s is not remembered: %s", case_id, error)

    def _proposal(self, case_id: str, client_id: str) -> RememberedProposal | None:
        # Behind every answer that was given before, so that a quick Submit finds it.
        with contextlib.suppress(RuntimeError):  # the server is closing: everything was written down
            self._writer.submit(lambda: None).result()
        return self._proposals.find(case_id, client_id)

    def _seconds_spent(self, case_id: str, client_id: str, proposal: RememberedProposal | None) -> float | None:
        own = (r for r in self._reservations.active() if r.case_id == case_id and r.client_id == client_id)
        held = next(own, None)
        if held is not None:
            return self._reservations.seconds_held(held)
        # A case that was opened by its name: since the model's answer.
        return max(0.0, time.time() - proposal.since_s) if proposal else None

    def _measure(self, annotation_id: str, measures: AnnotationMeasurer | None = None) -> None:
        try:
            (measures or self._measures).measure(annotation_id)
        except Exception:
            # This thread serves every later label too.
            logger.exception("Measuring annotation %s failed", annotation_id)

    def _look_further(self) -> None:
        try:
            found = self._found.look(most=FOUND_AT_ONCE)
        except Exception:
            # This thread measures every later label too.
            logger.exception("Looking for labels that were put into the study failed")
            return
        self._later(found)
        if len(found) == FOUND_AT_ONCE:
            self.look_on()

    def _later(self, found: Iterable[Annotation]) -> None:
        """Check labels that were found, behind what was submitted meanwhile."""
        with contextlib.suppress(RuntimeError):  # the server is closing: they are checked at the next start
            for annotation in found:
                self._measurer.submit(self._measure, annotation.annotation_id, self._found_measures)

    def _put_back(self, annotation: Annotation, path: Path, info: Mapping[str, Any]) -> None:
        self._study.save_label(annotation.case_id, path, annotation.tag, info)


def _rating_problems(checked: CheckedLabel) -> list[str]:
    segments = checked.label_map.segments if checked.label_map else ()
    return [problem for segment in segments for problem in rating_problems(segment.name)]


def _version(params: Mapping[str, Any]) -> str:
    version = params.get("model_version")
    if isinstance(version, Mapping):
        return "+".join(str(each) for each in version.values())
    return str(version or "")
