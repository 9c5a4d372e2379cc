"""Where an annotation session stands: what is done, what it brought, whether more is worth it, who does what.

``medai status`` and the server's ``/medai/status`` show the same.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from medai.active_learning.pool import Pool
from medai.active_learning.reasons import UNCERTAIN_PROBABILITY, explain
from medai.active_learning.stopping import Advice, Progress, TrainingGain, advise
from medai.active_learning.strategies import DEFAULT_STRATEGY, STRATEGIES
from medai.domain.annotation import Annotation
from medai.errors import InputError
from medai.registry.history import EventKind, HistoryEvent
from medai.registry.model_registry import ModelRegistry
from medai.store.annotations import AnnotationLog, has_history
from medai.store.clients import Clients
from medai.store.patients import PatientIndex
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.study import FINAL, StudyStore
from medai.store.unreadable import UnreadableScans
from medai.workflows.annotation_cost import cost_of
from medai.workflows.case_queue import CaseQueue
from medai.workflows.families import CLICK_TASK, TASKS
from medai.workflows.models import open_registry
from medai.workflows.readable_cases import ReadableCases

QUEUE_LENGTH = 5
SHOWN_TRAININGS = 5
_QUEUE_SEED = 0
"""The queue is what one draw would give; a strategy with chance in it draws anew at each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWork:
    """An annotator with a case.

    Attributes:
        annotator: as the server knows the client.
        case_id: what is open.
        minutes: since it was handed out.
        skipped: cases this annotator has passed over and that still wait.
    """

    annotator: str
    case_id: str
    minutes: float
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedCase:
    """A case that would come next, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """Where a session stands.

    Attributes:
        total: cases of the study, labelled and left.
        labelled: with a label.
        left: without one, and with a scan that can be read.
        unreadable: cases whose scan cannot be read, with the reason; those without a label are in no other number.
        withheld: labels kept from training, by case, with the reason.
        scored: open cases that a model has looked at.
        minutes_left: what the open cases are expected to take; None where none is scored.
        trainings: of each task, the last ones, oldest first.
        advice: whether another case is worth it, by the click model's trainings.
        strategy: the queue's.
        queue: the cases that would come next.
        at_work: annotators with a case, longest first.
        skipped: by annotator, what they have passed over and still waits.
        passed_over: files of the study that nothing uses, each with the reason and what to do.
        warnings: what an operator should hear of, such as annotators nobody can tell apart.
    """

    total: int
    labelled: int
    left: int
    withheld: Mapping[str, str]
    scored: int
    minutes_left: float | None
    trainings: Mapping[str, Sequence[TrainingGain]]
    advice: Advice
    strategy: str
    queue: Sequence[QueuedCase]
    at_work: Sequence[AtWork]
    skipped: Mapping[str, Sequence[str]]
    passed_over: Sequence[str] = ()
    warnings: Sequence[str] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        content = asdict(self)
        content["trainings"] = {
            task: [{**asdict(training), "gain": training.gain} for training in found]
            for task, found in self.trainings.items()
        }
        return content


def study_status(studies: Path, *, strategy: str = DEFAULT_STRATEGY, queue_length: int = QUEUE_LENGTH) -> SessionStatus:
    """The status of a study folder, whether a server runs on it or not.

    Raises:
        NotFoundError: there is no such folder.
        InputError: no such strategy.
        StorageError: something of the study cannot be read.
    """
    study = StudyStore(studies, read_only=True)
    scores = ScoreStore(study.folder)
    annotations: list[Annotation] = []
    passed_over: list[str] = []
    try:
        if has_history(study.folder):
            log = AnnotationLog(study.folder)
            try:
                annotations, passed_over = log.all(), log.passed_over
            finally:
                log.close()
        cost = cost_of(annotations)
        readable = ReadableCases(study, UnreadableScans(study.folder, read_only=True))
        readable.look_through(study.unlabeled(FINAL))
        queue = CaseQueue(
            study=study,
            reservations=Reservations(study.folder),
            scores=scores,
            patients=PatientIndex(study.folder),
            cost=lambda: cost,
            readable=readable,
        )
        return session_status(
            queue,
            open_registry(study.folder),
            strategy=strategy,
            queue_length=queue_length,
            passed_over=passed_over,
            warnings=Clients(study.folder).warnings(),
        )
    finally:
        scores.close()


def session_status(
    queue: CaseQueue,
    registry: ModelRegistry,
    *,
    strategy: str = DEFAULT_STRATEGY,
    queue_length: int = QUEUE_LENGTH,
    passed_over: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> SessionStatus:
    """The status of a session.

    Args:
        queue: the study's cases that wait.
        registry: the study's models with their history.
        strategy: by which the queue is shown.
        queue_length: how much of it.
        passed_over: kept labels that the history cannot take up; the study's own files are added.
        warnings: what an operator should hear of.

    Raises:
        InputError: no such strategy.
        StorageError: something of the study cannot be read.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"There is no strategy '{strategy}': choose one of {', '.join(STRATEGIES)}.")
    study, pool = queue.study, queue.open_pool()
    labelled = study.labeled(FINAL)
    submitted_at_s = sorted(_submitted_at_s(study, labelled))
    trainings = {task: training_gains(registry.history(task), submitted_at_s) for task in TASKS}
    open_cases = [*pool.case_ids, *pool.in_work]
    scored = pool.scores.rows(open_cases) >= 0
    next_cases = STRATEGIES[strategy].select_batch(pool, queue_length, np.random.default_rng(_QUEUE_SEED))
    left = len(queue.open_cases())
    return SessionStatus(
        total=len(labelled) + left,
        labelled=len(labelled),
        left=left,
        withheld=study.withheld_labels(),
        scored=int(scored.sum()),
        minutes_left=float(pool.minutes().sum()) if scored.any() else None,
        trainings={task: found[-SHOWN_TRAININGS:] for task, found in trainings.items() if found},
        advice=_advice(queue, progress_of(pool, left=left, trainings=trainings[CLICK_TASK])),
        strategy=strategy,
        queue=[QueuedCase(case_id=case_id, reason=explain(pool, case_id)) for case_id in next_cases],
        at_work=_at_work(queue.reservations),
        skipped=_waiting_skips(queue.reservations, open_cases),
        passed_over=[*study.passed_over(), *passed_over],
        warnings=tuple(warnings),
        unreadable=queue.unreadable(),
    )


def _advice(queue: CaseQueue, progress: Progress) -> Advice:
    advice = advise(progress)
    nothing = "" if progress.left else queue.nothing_left_words()
    return replace(advice, summary=nothing) if nothing else advice


def progress_of(pool: Pool, *, left: int, trainings: Sequence[TrainingGain]) -> Progress:
    """What the stopping rule goes by."""
    scores = pool.scores
    rows = scores.rows((*pool.case_ids, *pool.in_work))
    rows = rows[rows >= 0]
    low, high = UNCERTAIN_PROBABILITY
    probability = scores.columns["probability"]
    doubtful = scores.sum_over(((probability >= low) & (probability < high)).astype(np.float64)) > 0
    change = scores.disagreement[rows]
    change = change[~np.isnan(change)]
    return Progress(
        labelled=len(pool.labelled),
        left=left,
        trainings=trainings,
        scored=len(rows),
        doubtful=int(doubtful[rows].sum()),
        compared=len(change),
        mean_change=float(change.mean()) if change.size else None,
    )


def training_gains(events: Iterable[HistoryEvent], submitted_at_s: Sequence[float]) -> list[TrainingGain]:
    """What each training gained, and how many labels there were by then.

    Args:
        events: of one task, oldest first; what a person decided is no training.
        submitted_at_s: when each label came in, rising, seconds since 1970.
    """
    found = []
    for event in events:
        figures = event.verdict.get("figures", {})
        if event.kind not in (EventKind.PUBLISHED, EventKind.REFUSED) or "challenger_mean" not in figures:
            continue
        at_s = datetime.fromisoformat(event.at.replace("Z", "+00:00")).timestamp()
        gain = TrainingGain(
            labels=bisect.bisect_right(submitted_at_s, at_s),
            champion_score=float(figures["champion_mean"]),
            challenger_score=float(figures["challenger_mean"]),
            published=event.kind is EventKind.PUBLISHED,
            measure=str(event.verdict.get("measure", "score")),
        )
        found.append(gain)
    return found


def _submitted_at_s(study: StudyStore, labelled: Sequence[str]) -> list[float]:
    """When the labels came in, as far as the study knows."""
    return [float(study.label_info(case_id, FINAL).get("ts") or 0.0) for case_id in labelled]


def _at_work(reservations: Reservations) -> list[AtWork]:
    skipped = reservations.all_skipped()
    return [
        AtWork(
            annotator=reservation.client_id,
            case_id=reservation.case_id,
            minutes=round(reservations.seconds_held(reservation) / 60, 1),
            skipped=tuple(skipped.get(reservation.client_id, ())),
        )
        for reservation in sorted(reservations.active(), key=lambda r: r.since_s)
    ]


def _waiting_skips(reservations: Reservations, open_cases: Iterable[str]) -> dict[str, list[str]]:
    """What was passed over and still waits."""
    waiting = set(open_cases)
    found = {
        client: [case_id for case_id in cases if case_id in waiting]
        for client, cases in reservations.all_skipped().items()
    }
    return {client: cases for client, cases in found.items() if cases}
