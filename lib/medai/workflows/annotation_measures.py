"""What is found out about a submitted label: how much of the proposal was changed, and whether the label is doubtful.

The server works this out behind every submission, a simulation does it for its readers. Threads: a measurer keeps no
state; the history and the study take care of themselves.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from medai.domain import LabelMap, Volume
from medai.domain.annotation import Annotation, Correction, ReviewState, standing
from medai.domain.case_score import CaseScore
from medai.errors import GeometryError, MedaiError, NotFoundError
from medai.evaluation.corrections import correction_of, labels_dice
from medai.evaluation.label_sanity import LEAST_PEERS, LabelCheck, agreement_problem, check_label, emptied_problem
from medai.geometry import IndexBox
from medai.store.annotation_files import FINAL
from medai.store.annotations import AnnotationLog
from medai.store.proposals import read_proposal
from medai.store.study import StudyStore
from medai.volume_io.axes import with_axes_of
from medai.workflows.submitted_label import read_recorded

logger = logging.getLogger(__name__)


class RecordedScans(Protocol):
    """Decoded scans; ``volume_io.scan_cache.ScanCache`` is one."""

    def get(self, path: Path, case_id: str = "") -> Volume:
        """The scan."""
        ...

    def find_open(self, path: Path, case_id: str = "") -> Volume | None:
        """The scan where it is decoded already."""
        ...


class AnnotationMeasurer:
    """Measures the labels of one study."""

    def __init__(
        self,
        log: AnnotationLog,
        study: StudyStore,
        scans: RecordedScans,
        scores: Callable[[str], CaseScore | None] = lambda _: None,
    ) -> None:
        """Measure with what is known of the study.

        Args:
            log: its history.
            study: its scans.
            scans: decodes them.
            scores: what the models make of a case; None for one that was not scored.
        """
        self._log = log
        self._scores = scores
        self._study = study
        self._scans = scans

    def first_sight(
        self, case_id: str, label_map: LabelMap | None, tag: str = FINAL, *, may_decode: bool = True
    ) -> LabelCheck:
        """What is wrong with a label that is about to be recorded.

        Args:
            case_id: the scan.
            label_map: the label; None for boxes.
            tag: where it goes.
            may_decode: whether a scan that nobody has open is decoded for it, as for an annotator who waits for the
                answer; otherwise, and where it cannot be read, what its voxels say is left to ``measure``.
        """
        if label_map is None:
            return LabelCheck()
        scan_path = self._study.image_path(case_id)
        try:
            volume = (self._scans.get if may_decode else self._scans.find_open)(scan_path, case_id)
        except MedaiError as error:
            logger.warning("The label of %s is not compared with its scan: %s", case_id, error)
            volume = None
        return self._check(case_id, tag, label_map, volume)

    def measure(self, annotation_id: str) -> None:
        """Work out the correction and whether the label is doubtful, and write both down.

        A label that cannot be read now stays unmeasured, with a warning: it is tried again at the next start.
        """
        try:
            annotation = self._log.get(annotation_id)
            if annotation.file_name.endswith(".json"):
                self._log.set_measures(annotation_id, None, "")
                return
            label_map = read_recorded(self._study, annotation, self._log.path(annotation))
            correction = self._correction(annotation, label_map)
            problem = annotation.quarantine_reason or self._problem(annotation, label_map, correction)
            self._log.set_measures(annotation_id, correction, problem)
            if not problem:
                self._look_again_at_peers(annotation)
        except GeometryError as error:
            # No training can read it either: it is not tried again.
            self._log.set_measures(annotation_id, None, str(error))
        except NotFoundError as error:
            logger.warning("Annotation %s is not measured, its case is gone: %s", annotation_id, error)
            with contextlib.suppress(MedaiError):
                self._log.set_measures(annotation_id, None, "")
        except MedaiError as error:
            logger.warning("Annotation %s is not measured, it is tried at the next start: %s", annotation_id, error)

    def _correction(self, annotation: Annotation, label_map: LabelMap) -> Correction | None:
        folder = self._log.proposal_folder(annotation)
        if folder is None:
            return None
        try:
            proposal = read_proposal(folder)
            return None if proposal is None else correction_of(label_map, with_axes_of(label_map.geometry, proposal))
        except MedaiError as error:
            logger.warning("The correction of %s cannot be told: %s", annotation.annotation_id, error)
            return None

    def _problem(self, annotation: Annotation, label_map: LabelMap, correction: Correction | None) -> str:
        volume = self._scans.get(self._study.image_path(annotation.case_id), annotation.case_id)
        found = self._check(annotation.case_id, annotation.tag, label_map, volume, own_id=annotation.annotation_id)
        return found.reason or self._loneliness(annotation, label_map, correction)

    def _check(
        self, case_id: str, tag: str, label_map: LabelMap, volume: Volume | None, own_id: str = ""
    ) -> LabelCheck:
        """What the label and its scan say; of an empty one, what was labelled in the case before."""
        check = check_label(label_map, volume)
        if check.nodules or check.reason:
            return check
        earlier = [other for other in self._log.of_case(case_id) if not own_id or other.annotation_id < own_id]
        latest = {other.annotator: other for other in earlier if other.tag == tag}
        standing_there = standing(replace(other, is_own_latest=True) for other in latest.values())
        score = self._scores(case_id)
        candidates = [candidate.probability for candidate in score.candidates] if score else []
        return replace(check, reason=emptied_problem([other.nodules for other in standing_there], candidates))

    def _look_again_at_peers(self, annotation: Annotation) -> None:
        """Whether an earlier label is alone, now that there is one more: the first of three had nobody to disagree."""
        peers = self._peers(annotation)
        if len(peers) < LEAST_PEERS:
            return
        for peer in peers:
            try:
                label_map = read_recorded(self._study, peer, self._log.path(peer))
            except MedaiError as error:
                logger.warning("Annotation %s cannot be looked at again: %s", peer.annotation_id, error)
                continue
            problem = self._loneliness(peer, label_map, peer.correction)
            if problem:
                logger.info("Annotation %s is quarantined now: %s", peer.annotation_id, problem)
                self._log.doubt(peer.annotation_id, problem)

    def _loneliness(self, annotation: Annotation, label_map: LabelMap, correction: Correction | None) -> str:
        # An empty label has no outline to agree with; whether it stands is ``emptied_problem``'s business.
        if not annotation.nodules:
            return ""
        agreement = [self._agreement(label_map, peer) for peer in self._peers(annotation) if peer.nodules]
        return agreement_problem(
            [dice for dice in agreement if dice is not None], correction.dice if correction else None
        )

    def _agreement(self, label_map: LabelMap, peer: Annotation) -> float | None:
        try:
            return labels_dice(label_map, read_recorded(self._study, peer, self._log.path(peer)))
        except MedaiError as error:
            # One of a scan that was replaced under the same name, say.
            logger.warning("Annotation %s cannot be compared with: %s", peer.annotation_id, error)
            return None

    def _peers(self, annotation: Annotation) -> list[Annotation]:
        """The latest label of each other annotator of the case that nobody doubts."""
        latest = {
            other.annotator: other
            for other in self._log.of_case(annotation.case_id)
            if other.tag == annotation.tag and not other.quarantine_reason and other.review is not ReviewState.FLAGGED
        }
        return [other for annotator, other in latest.items() if annotator != annotation.annotator]


def label_volume_ml(label_map: LabelMap | None) -> float:
    """Volume of everything labelled; 0 for None."""
    box = None if label_map is None else IndexBox.of_mask(label_map.labels)
    if label_map is None or box is None:
        return 0.0
    return int(np.count_nonzero(label_map.labels[box.slices])) * label_map.geometry.voxel_volume_mm3 / 1000.0
