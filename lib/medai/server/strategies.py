"""MONAI Label's active-learning strategies over ours: choose, reserve, and say where the scan is and why it comes next.

Each call is one step under the reservations' lock, so that two requests at once, in any process, never get one case.
Nothing is written into the study's index: who was served what lives in the reservations.

Whatever the strategy, two rules come first: the other study of the patient whom an annotator has just finished comes
next for the same annotator, and nobody is sent to a patient whom somebody else is at work on while there are others.

Threads: any. One lock guards the generator, taken inside the reservations' lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from medai.active_learning.cost import AnnotationCost
from medai.active_learning.nearest import NearestLabelled
from medai.active_learning.reasons import explain
from medai.active_learning.strategies import STRATEGIES, Pool
from medai.active_learning.strategies import Strategy as Choice
from medai.domain.score_table import ScoreTable
from medai.errors import StorageError
from medai.store.patients import PatientIndex
from medai.store.reservations import Offer, Reservations, next_of_patient, without_others_patients
from medai.store.scores import ScoreStore
from medai.store.study import FINAL, StudyStore

logger = logging.getLogger(__name__)

ANONYMOUS = "user-xyz"
"""What the Slicer plugin calls an annotator who gave no name."""

SHOWN_REASON = 100
"""Letters of a reason that 3D Slicer shows behind the case's name."""

PRIOR_WORDS = "the other study of the patient you have just finished"


@dataclass(slots=True, kw_only=True)
class CaseQueue:
    """What every strategy of a server chooses from.

    Attributes:
        study: where the cases are.
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

    def _table(self) -> ScoreTable:
        try:
            return self.scores.table()
        except StorageError as error:
            # Annotators go on; the next case is then as good as any.
            logger.warning("The next case is chosen without scores: %s", error)
            return ScoreTable()


class ReservingStrategy(Strategy):  # type: ignore[misc]  # monailabel's classes are untyped
    """One of our strategies behind MONAI Label's interface."""

    def __init__(
        self,
        name: str,
        choice: Choice,
        *,
        queue: CaseQueue,
        rng: np.random.Generator,
        rng_lock: threading.Lock,
        share_paths: bool,
    ) -> None:
        super().__init__(choice.description)
        self._name = name
        self._choice = choice
        self._queue = queue
        self._rng = rng
        self._rng_lock = rng_lock
        self._share_paths = share_paths

    def __call__(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any] | None:
        """Choose and reserve the next case.

        Args:
            request: ``client_id`` (who asks) and ``label_tag`` (what a finished case has; ``final``) are read.
            datastore: not needed: the study store is asked directly.

        Returns:
            ``id``, ``name`` (file name, by whose ending 3D Slicer picks its reader), ``ts`` and, where paths are
            shared, ``path``; ``strategy``, ``reason`` in words, ``expected_minutes`` and ``skipped_before``, which the
            plugin passes over, and ``PatientID``, which it names the volume by: the case and why it comes next. None
            where every open case is taken or done.
        """
        client_id = str(request.get("client_id") or ANONYMOUS)
        tag = str(request.get("label_tag") or FINAL)
        asked = _Asked()
        skipped = self._queue.reservations.skipped(client_id)
        case_id = self._queue.reservations.choose(
            client_id,
            open_cases=lambda: self._queue.study.unlabeled(tag),
            select=lambda offer: self._select(offer, tag, asked),
        )
        if case_id is None:
            return None
        return {**self._place(case_id), **self._why(case_id, asked, skipped_before=case_id in skipped)}

    def _select(self, offer: Offer, tag: str, asked: _Asked) -> str | None:
        queue = self._queue
        queue.patients.learn(offer.free)
        prior = next_of_patient(offer, queue.patients.siblings)
        free = without_others_patients(offer, queue.patients.siblings)
        asked.pool = queue.pool(free, held=offer.held, tag=tag)
        if prior is not None:
            asked.is_prior = True
            return prior
        with self._rng_lock:
            return self._choice.select(asked.pool, self._rng)

    def _place(self, case_id: str) -> dict[str, Any]:
        info = self._queue.study.image_info(case_id)
        reply = {"id": case_id, "name": info["name"], "ts": info["ts"]}
        # Without a checksum: hashing 150 MB is most of a second, and HTTP over TCP has its own.
        return {**reply, "path": str(self._queue.study.image_path(case_id))} if self._share_paths else reply

    def _why(self, case_id: str, asked: _Asked, *, skipped_before: bool) -> dict[str, Any]:
        pool = asked.pool or self._queue.pool([case_id], held=())
        reason = explain(pool, case_id)
        if asked.is_prior:
            reason = f"{PRIOR_WORDS}: {reason}"
        if skipped_before:
            reason = f"you have skipped it before: {reason}"
        score = pool.scores.case(case_id)
        return {
            "PatientID": f"{case_id} ({reason.split(';')[0].replace('–', '-')[:SHOWN_REASON]})",
            "strategy": self._name,
            "reason": reason,
            "expected_minutes": round(score.expected_minutes, 1) if score else None,
            "skipped_before": skipped_before,
        }


@dataclass(slots=True, kw_only=True)
class _Asked:
    """What one request was chosen from."""

    pool: Pool | None = None
    is_prior: bool = False


def build_strategies(queue: CaseQueue, *, rng: np.random.Generator, share_paths: bool = True) -> dict[str, Strategy]:
    """All strategies by name, for ``MONAILabelApp.init_strategies``.

    Args:
        queue: what they choose from.
        rng: what they draw from.
        share_paths: tell clients the scan's path, which the plugin opens directly where that file exists on its own
            machine. Right where client and server share the disk; with a remote client the same path might be another
            patient's scan.
    """
    rng_lock = threading.Lock()
    return {
        name: ReservingStrategy(name, choice, queue=queue, rng=rng, rng_lock=rng_lock, share_paths=share_paths)
        for name, choice in STRATEGIES.items()
    }
