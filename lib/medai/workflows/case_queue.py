"""Which case an annotator gets next, and why: the pool, the rules that come before any strategy, and the words.

1. The other study of the patient whom the annotator has just finished comes next.
2. Nobody is sent to a patient whom somebody else is at work on while there are others.
3. The strategy chooses among the rest; what the annotator has skipped comes last.

Threads: any. Choosing and reserving are one step under the reservations' lock; whoever shares a generator between
threads guards it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from medai.active_learning.cost import AnnotationCost
from medai.active_learning.nearest import NearestLabelled
from medai.active_learning.pool import Pool
from medai.active_learning.reasons import explain
from medai.domain.score_table import ScoreTable
from medai.errors import StorageError
from medai.store.patients import PatientIndex
from medai.store.reservations import Offer, Reservations, next_of_patient, without_others_patients
from medai.store.scores import ScoreStore
from medai.store.study import FINAL, StudyStore
from medai.workflows.readable_cases import ReadableCases
from medai.workflows.study_contents import missing_scans_words

logger = logging.getLogger(__name__)

PRIOR_WORDS = "the other study of the patient you have just finished"
SKIPPED_WORDS = "you have skipped it before"

Choose = Callable[[Pool], str | None]
"""Picks one case of a pool: a strategy with its generator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextCase:
    """What an annotator gets.

    Attributes:
        case_id: the case, reserved.
        reason: why, in words.
        expected_minutes: what its label is expected to take; None where no model has looked at it.
        skipped_before: whether this annotator has passed over it.
    """

    case_id: str
    reason: str
    expected_minutes: float | None
    skipped_before: bool


@dataclass(slots=True, kw_only=True)
class CaseQueue:
    """The cases of a study that wait for a label.

    Attributes:
        study: where they are.
        reservations: who has which.
        scores: what the models make of them.
        patients: whose they are.
        cost: what a label costs, as far as it is known by now.
        nearest: remembers distances from one choice to the next.
        readable: which of them can be read; None takes all for readable.
        shows_paths: whether whoever reads its words may see where the study lies.
    """

    study: StudyStore
    reservations: Reservations
    scores: ScoreStore
    patients: PatientIndex
    cost: Callable[[], AnnotationCost | None] = lambda: None
    nearest: NearestLabelled = field(default_factory=NearestLabelled)
    readable: ReadableCases | None = None
    shows_paths: bool = True

    def unreadable(self) -> dict[str, str]:
        """Case to the reason why its scan cannot be read."""
        return {} if self.readable is None else self.readable.unreadable()

    def open_cases(self, tag: str = FINAL) -> list[str]:
        """Every case that needs a label and whose scan can be read."""
        unreadable = self.unreadable()
        return [case_id for case_id in self.study.unlabeled(tag) if case_id not in unreadable]

    def next_case(self, client_id: str, choose: Choose, *, tag: str = FINAL) -> NextCase | None:
        """Choose a case for a client and reserve it.

        Args:
            client_id: who asks; what it holds it has skipped.
            choose: picks one case of a pool.
            tag: of the labels that make a case done.

        Returns:
            None where every open case is held by someone else, or done, or cannot be read.
        """
        skipped = self.reservations.skipped(client_id)
        while True:
            asked = _Asked()
            case_id = self.reservations.choose(
                client_id,
                open_cases=lambda: self.open_cases(tag),
                select=partial(self._select, choose=choose, tag=tag, asked=asked),
            )
            if case_id is None:
                return None
            if self.readable is None or self.readable.can_be_read(case_id):
                break
            self.reservations.release(case_id)
            # Where one is a pointer, others often are: looked at all at once, they cost nobody a choice each.
            self.readable.look_through(self.open_cases(tag))
        pool = asked.pool or self.pool([case_id], held=(), tag=tag)
        reason = explain(pool, case_id)
        if asked.is_prior:
            reason = f"{PRIOR_WORDS}: {reason}"
        if case_id in skipped:
            reason = f"{SKIPPED_WORDS}: {reason}"
        score = pool.scores.case(case_id)
        return NextCase(
            case_id=case_id,
            reason=reason,
            expected_minutes=score.expected_minutes if score else None,
            skipped_before=case_id in skipped,
        )

    def open_pool(self, *, tag: str = FINAL) -> Pool:
        """Every case that needs a label and that no one holds."""
        held = [reservation.case_id for reservation in self.reservations.active()]
        taken = set(held)
        return self.pool([c for c in self.open_cases(tag) if c not in taken], held=held, tag=tag)

    def nothing_left_words(self, *, tag: str = FINAL) -> str:
        """Why there is no case to label although not every one is labelled; "" where every one is."""
        if not self.study.image_ids():
            return missing_scans_words(self.study.folder, shows_path=self.shows_paths)
        unreadable = self.unreadable().keys() & set(self.study.unlabeled(tag))
        if not unreadable:
            return ""
        case_id = min(unreadable)
        others = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        labelled = "Every other case is labelled" if self.study.labeled(tag) else "No case can be labelled"
        return f"{labelled}: {case_id}{others} cannot be read. {self.unreadable()[case_id]}"

    def pool(self, free: Sequence[str], *, held: Sequence[str], tag: str = FINAL) -> Pool:
        """The pool of some free cases."""
        return Pool(
            case_ids=tuple(free),
            scores=self._table(),
            labelled=tuple(self.study.labeled(tag)),
            in_work=tuple(held),
            cost=self.cost(),
            nearest=self.nearest,
        )

    def _select(self, offer: Offer, *, choose: Choose, tag: str, asked: _Asked) -> str | None:
        self.patients.learn(offer.free)
        prior = next_of_patient(offer, self.patients.siblings)
        free = without_others_patients(offer, self.patients.siblings)
        asked.pool = self.pool(free, held=offer.held, tag=tag)
        asked.is_prior = prior is not None
        return prior if prior is not None else choose(asked.pool)

    def _table(self) -> ScoreTable:
        try:
            return self.scores.table()
        except StorageError as error:
            # Annotators go on; the next case is then as good as any.
            logger.warning("The next case is chosen without scores: %s", error)
            return ScoreTable()


@dataclass(slots=True, kw_only=True)
class _Asked:
    """What one request was chosen from."""

    pool: Pool | None = None
    is_prior: bool = False
