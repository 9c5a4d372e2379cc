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
    """

    study: StudyStore
    reservations: Reservations
    scores: ScoreStore
    patients: PatientIndex
    cost: Callable[[], AnnotationCost | None] = lambda: None
    nearest: NearestLabelled = field(default_factory=NearestLabelled)

    def next_case(self, client_id: str, choose: Choose, *, tag: str = FINAL) -> NextCase | None:
        """Choose a case for a client and reserve it.

        Args:
            client_id: who asks; what it holds it has skipped.
            choose: picks one case of a pool.
            tag: of the labels that make a case done.

        Returns:
            None where every open case is held by someone else, or done.
        """
        asked = _Asked()
        skipped = self.reservations.skipped(client_id)
        case_id = self.reservations.choose(
            client_id,
            open_cases=lambda: self.study.unlabeled(tag),
            select=lambda offer: self._select(offer, choose, tag, asked),
        )
        if case_id is None:
            return None
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
        return self.pool([c for c in self.study.unlabeled(tag) if c not in taken], held=held, tag=tag)

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

    def _select(self, offer: Offer, choose: Choose, tag: str, asked: _Asked) -> str | None:
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
