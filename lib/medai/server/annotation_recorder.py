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
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medai.domain import LabelMap, Volume
from medai.domain.annotation import Annotation, Correction, ReviewState
from medai.errors import MedaiError, NotFoundError
from medai.evaluation.corrections import correction_of, labels_dice
from medai.evaluation.label_sanity import agreement_problem, air_problem, place_problem, shape_problem
from medai.geometry import IndexBox
from medai.server.axes import with_axes_of
from medai.server.infer_request import InferReply, Proposes
from medai.server.uploads import CheckedLabel
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, Submission
from medai.store.proposals import ProposalPart, ProposalStore, RememberedProposal, read_proposal
from medai.store.reservations import Reservations
from medai.store.study import StudyStore
from medai.volume_io.readers import read_geometry, read_label_map

logger = logging.getLogger(__name__)


class RecordedScans(Protocol):
    """Decoded scans; ``volume_io.scan_cache.ScanCache`` is one."""

    def get(self, path: Path, case_id: str = "") -> Volume:
        """The scan."""
        ...

    def find_open(self, path: Path, case_id: str = "") -> Volume | None:
        """The scan where it is decoded already."""
        ...


class AnnotationRecorder:
    """The history of one study, as the server writes it."""

    def __init__(self, study: StudyStore, reservations: Reservations, scans: RecordedScans) -> None:
        """Open the history; ``resume`` takes up what a kill has left."""
        self.log = AnnotationLog(study.folder)
        self._proposals = ProposalStore(study.folder)
        self._study = study
        self._reservations = reservations
        self._scans = scans
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
            volume_ml=_volume_ml(checked.label_map),
            seconds_spent=self._seconds_spent(case_id, client_id, proposal),
            proposal_model=proposal.model if proposal else None,
            proposal_version=proposal.version if proposal else None,
            proposal_folder=proposal.folder if proposal else None,
            quarantine_reason=self._first_sight(case_id, checked.label_map),
            is_measured=checked.label_map is None,
            info=checked.info,
        )
        with self.log.submitting(submission, checked.path) as annotation:
            self._study.save_label(case_id, checked.path, checked.tag, checked.info)
        if checked.label_map is not None:
            with contextlib.suppress(RuntimeError):  # the server is closing: it is measured at the next start
                self._measurer.submit(self._measure, annotation.annotation_id)
        return annotation

    def review(self, case_id: str, tag: str, status: Any, by: str) -> None:
        """Take over what a reviewer says of a case's label; a label from before the history is recorded first."""
        known = {state.value: state for state in ReviewState}
        # The reviewer's other words ("in progress") say nothing about training.
        state = known.get(str(status or "").strip().lower(), ReviewState.OPEN)
        path = self._study.label_path(case_id, tag)
        annotation = self.log.current(case_id, tag)
        if annotation is None or annotation.sha256 != sha256_of_file(path):
            annotation = self._record_found(case_id, tag, path)
        self.log.set_review(annotation.annotation_id, state, by)
        logger.info("Label '%s' of %s is %s", tag, case_id, state.value or "open again")

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

    def _first_sight(self, case_id: str, label_map: LabelMap | None) -> str:
        """What is wrong with a label as far as it can be told at once."""
        if label_map is None:
            return ""
        volume = self._scans.find_open(self._study.image_path(case_id), case_id)
        return shape_problem(label_map) or (air_problem(label_map, volume) if volume else "")

    def _measure(self, annotation_id: str) -> None:
        try:
            annotation = self.log.get(annotation_id)
            if annotation.file_name.endswith(".json"):
                self.log.set_measures(annotation_id, None, "")
                return
            label_map = read_label_map(self.log.path(annotation))
            correction = self._correction(annotation, label_map)
            problem = annotation.quarantine_reason or self._problem(annotation, label_map, correction)
            self.log.set_measures(annotation_id, correction, problem)
        except NotFoundError as error:
            logger.warning("Annotation %s is not measured, its case is gone: %s", annotation_id, error)
            with contextlib.suppress(MedaiError):
                self.log.set_measures(annotation_id, None, "")
        except MedaiError as error:
            logger.warning("Annotation %s is not measured, it is tried at the next start: %s", annotation_id, error)
        except Exception:
            # This thread serves every later label too.
            logger.exception("Measuring annotation %s failed", annotation_id)

    def _correction(self, annotation: Annotation, label_map: LabelMap) -> Correction | None:
        folder = self.log.proposal_folder(annotation)
        if folder is None:
            return None
        try:
            proposal = read_proposal(folder)
            return None if proposal is None else correction_of(label_map, with_axes_of(label_map.geometry, proposal))
        except MedaiError as error:
            logger.warning("The correction of %s cannot be told: %s", annotation.annotation_id, error)
            return None

    def _problem(self, annotation: Annotation, label_map: LabelMap, correction: Correction | None) -> str:
        scan_path = self._study.image_path(annotation.case_id)
        geometry = read_geometry(scan_path)
        if not label_map.geometry.is_same_grid(geometry):
            return f"it is not on its scan's grid: {label_map.geometry.describe()}, the scan: {geometry.describe()}"
        volume = self._scans.get(scan_path, annotation.case_id)
        found = shape_problem(label_map) or air_problem(label_map, volume) or place_problem(label_map, volume)
        if found:
            return found
        agreement = [self._agreement(label_map, peer) for peer in self._peers(annotation)]
        return agreement_problem(
            [dice for dice in agreement if dice is not None], correction.dice if correction else None
        )

    def _agreement(self, label_map: LabelMap, peer: Annotation) -> float | None:
        try:
            return labels_dice(label_map, read_label_map(self.log.path(peer)))
        except MedaiError as error:
            # One of a scan that was replaced under the same name, say.
            logger.warning("Annotation %s cannot be compared with: %s", peer.annotation_id, error)
            return None

    def _peers(self, annotation: Annotation) -> list[Annotation]:
        """The latest label of each other annotator of the case that nobody doubts."""
        latest = {
            other.annotator: other
            for other in self.log.of_case(annotation.case_id)
            if other.tag == annotation.tag and not other.quarantine_reason and other.review is not ReviewState.FLAGGED
        }
        return [other for annotator, other in latest.items() if annotator != annotation.annotator]

    def _record_found(self, case_id: str, tag: str, path: Path) -> Annotation:
        label_map = None if path.suffix == ".json" else read_label_map(path)
        submission = Submission(
            case_id=case_id,
            tag=tag,
            nodules=len(label_map.segments) if label_map else 0,
            volume_ml=_volume_ml(label_map),
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


def _volume_ml(label_map: LabelMap | None) -> float:
    box = None if label_map is None else IndexBox.of_mask(label_map.labels)
    if label_map is None or box is None:
        return 0.0
    return int(np.count_nonzero(label_map.labels[box.slices])) * label_map.geometry.voxel_volume_mm3 / 1000.0
