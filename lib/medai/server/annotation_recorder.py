"""Keeps the history of a study's labels while the server runs: what was proposed, what came back, what is doubtful.

A submission is recorded before it is answered: its file, its row, and the checks that cost no more than the label's own
voxels. What needs other labels or a decoded scan (the correction, agreement with peers, where it lies) is worked out
afterwards by one thread of its own, and again at the next start where a kill came in between.

Threads: every method may be called from any. Two threads belong here, one that writes proposals down and one that
measures; both work through queues, so that nothing is measured or written twice at once. Lock order: the history's lock
(``store.annotations``), then the study's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.domain.annotation import Annotation, ReviewState
from medai.errors import ForbiddenError, MedaiError
from medai.server.infer_request import InferReply, Proposes
from medai.server.uploads import CheckedLabel
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, Submission
from medai.store.proposals import ProposalPart, ProposalStore, RememberedProposal
from medai.store.reservations import Reservations
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map
from medai.workflows.annotation_measures import AnnotationMeasurer, RecordedScans, label_volume_ml

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


class AnnotationRecorder:
    """The history of one study, as the server writes it."""

    def __init__(self, study: StudyStore, reservations: Reservations, scans: RecordedScans) -> None:
        """Open the history; ``resume`` takes up what a kill has left."""
        self.log = AnnotationLog(study.folder)
        self._proposals = ProposalStore(study.folder)
        self._study = study
        self._reservations = reservations
        self._measures = AnnotationMeasurer(self.log, study, scans)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="medai-proposals")
        self._measurer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="medai-measures")

    def resume(self) -> None:
        """Finish submissions that were cut off, and measure what is not measured yet (in the background)."""
        saved = self.log.finish_interrupted(self._put_back)
        if saved:
            logger.warning("%d interrupted submissions were completed", saved)
        for annotation in self.log.unmeasured():
            self._measurer.submit(self._measure, annotation.annotation_id)

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

    def submit(self, case_id: str, checked: CheckedLabel, *, annotator: str, client_id: str) -> Annotation:
        """Record a label and put it into the study.

        Args:
            case_id: the scan.
            checked: the label.
            annotator: who, for the history.
            client_id: the same, as reservations and proposals know it.

        Raises:
            StorageError: disk or database refused; the label the study had is still there.
        """
        proposal = None if checked.label_map is None else self._proposal(case_id, client_id)
        submission = Submission(
            case_id=case_id,
            tag=checked.tag,
            annotator=annotator,
            nodules=len(checked.label_map.segments) if checked.label_map else int(checked.info.get("detections", 0)),
            volume_ml=label_volume_ml(checked.label_map),
            seconds_spent=self._seconds_spent(case_id, client_id, proposal),
            proposal_model=proposal.model if proposal else None,
            proposal_version=proposal.version if proposal else None,
            proposal_folder=proposal.folder if proposal else None,
            quarantine_reason=self._measures.first_sight(case_id, checked.label_map),
            is_measured=checked.label_map is None,
            info=checked.info,
        )
        with self.log.submitting(submission, checked.path) as annotation:
            self._study.save_label(case_id, checked.path, checked.tag, checked.info)
        if checked.label_map is not None:
            with contextlib.suppress(RuntimeError):  # the server is closing: it is measured at the next start
                self._measurer.submit(self._measure, annotation.annotation_id)
        return annotation

    def review(self, case_id: str, tag: str, status: Any, by: Reviewer) -> ReviewState:
        """Take over what a reviewer says of a case's label; a label from before the history is recorded first.

        Returns:
            What is said of the label now.

        Raises:
            ForbiddenError: this login may not judge labels, or not this one, its own.
        """
        known = {state.value: state for state in ReviewState}
        # The reviewer's other words ("in progress") say nothing about training.
        state = known.get(str(status or "").strip().lower(), ReviewState.OPEN)
        path = self._study.label_path(case_id, tag)
        annotation = self.log.current(case_id, tag)
        is_known = annotation is not None and annotation.sha256 == sha256_of_file(path)
        if by.is_login:
            info = self._study.label_info(case_id, tag)
            author = annotation.annotator if annotation and is_known else str(info.get("user") or "")
            present = annotation.review if annotation and is_known else ReviewState.OPEN
            if state is present:
                # The reviewer module sends level and comment with the status that stands.
                return state
            by.check(author, present=present, wanted=state)
        if annotation is None or not is_known:
            annotation = self._record_found(case_id, tag, path)
        self.log.set_review(annotation.annotation_id, state, by.name)
        logger.info("Label '%s' of %s is %s", tag, case_id, state.value or "open again")
        return state

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
            return max(0.0, time.time() - held.since_s)
        # A case that was opened by its name: since the model's answer.
        return max(0.0, time.time() - proposal.since_s) if proposal else None

    def _measure(self, annotation_id: str) -> None:
        try:
            self._measures.measure(annotation_id)
        except Exception:
            # This thread serves every later label too.
            logger.exception("Measuring annotation %s failed", annotation_id)

    def _record_found(self, case_id: str, tag: str, path: Path) -> Annotation:
        label_map = None if path.suffix == ".json" else read_label_map(path)
        submission = Submission(
            case_id=case_id,
            tag=tag,
            nodules=len(label_map.segments) if label_map else 0,
            volume_ml=label_volume_ml(label_map),
            is_measured=True,
            info=self._study.label_info(case_id, tag),
        )
        return self.log.record(submission, path)

    def _put_back(self, annotation: Annotation, path: Path, info: Mapping[str, Any]) -> None:
        self._study.save_label(annotation.case_id, path, annotation.tag, info)


def _version(params: Mapping[str, Any]) -> str:
    version = params.get("model_version")
    if isinstance(version, Mapping):
        return "+".join(str(each) for each in version.values())
    return str(version or "")
