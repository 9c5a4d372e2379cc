"""The scores of a whole study, kept up to date: new cases, and every case after a new champion.

The score store is the state. What is due is what it lacks or has from other models; a case is stored the moment its
score is known, so that a kill costs the cases at hand and nothing else, and whoever scores next goes on from there.

Order: cases that nobody has scored, then those whose score is the oldest; at the end labelled cases that never had one,
with which new cases are compared. It is decided anew while the work goes on: a case that came a moment ago is next, one
that was labelled meanwhile is left out, and a champion published meanwhile makes due again what its predecessor scored.

A worker (``MakeScorer``) is a process or thread anywhere that sees the study's folder; only the process that called
``score_pool`` writes into the store.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medai.domain.case_score import CaseScore, version_key
from medai.errors import NotFoundError, StorageError
from medai.store.scores import ScoreStore
from medai.store.scoring_turn import ScoringTurn
from medai.store.study import StudyStore
from medai.store.unreadable import UnreadableScans
from medai.workflows.executors import CaseExecutor, CaseOutcome
from medai.workflows.models import open_registry
from medai.workflows.present_models import PresentModels, read_case
from medai.workflows.readable_cases import ReadableCases
from medai.workflows.score_case import load_scoring_pipeline, model_disagreement, score_case, scored_versions
from medai.workflows.study_contents import missing_scans_words

LOOK_AGAIN_S = 5.0
"""How long a list of what is due is gone by. Making one takes milliseconds, a case takes seconds to a minute."""

TURN_WAIT_S = 600.0
"""A server in the background gives its turn back after the case at hand."""

_log = logging.getLogger(__name__)


class ScoringPool:
    """What of a study is to be scored next, and what became of it; for one thread.

    Args:
        study: the cases.
        scores: where their scores are kept.
        versions: the versions a score made now would name, by task.
        now: a clock, seconds.
        readable: learns which scans cannot be read.

    Attributes:
        scored: cases stored so far.
        failed: case to the reason why it has no score.
    """

    def __init__(
        self,
        study: StudyStore,
        scores: ScoreStore,
        versions: Callable[[], Mapping[str, str]],
        *,
        now: Callable[[], float] = time.monotonic,
        readable: ReadableCases | None = None,
    ) -> None:
        self._readable = readable
        self._study = study
        self._scores = scores
        self._versions = versions
        self._now = now
        self._tried: dict[str, tuple[str, int]] = {}
        self._at_hand: set[str] = set()
        self._list: deque[str] = deque()
        self._listed_for = ""
        self._listed_at_s = float("-inf")
        self.scored = 0
        self.failed: dict[str, str] = {}

    def due(self) -> list[str]:
        """The cases to score, in order. A case that failed is due again after a new champion, or as another file.

        Raises:
            ModelError: there is nothing to score with.
        """
        versions = self._versions()
        present, table = version_key(versions), self._scores.table()
        wanted = self._scores.outdated(self._study.unlabeled(), versions)
        wanted += [case_id for case_id in self._study.labeled() if case_id not in table]
        return [
            case_id
            for case_id in wanted
            if case_id not in self._at_hand
            and (case_id not in self._tried or self._tried[case_id] != (present, self._changed_ns(case_id)))
        ]

    @property
    def left(self) -> int:
        """How many cases are not done, those at hand included; of the last look."""
        return len(self._list) + len(self._at_hand)

    def look(self) -> int:
        """Look what is due; returns how many cases are left.

        Raises:
            ModelError: there is nothing to score with.
        """
        self._list = deque(self.due())
        self._listed_for, self._listed_at_s = version_key(self._versions()), self._now()
        return self.left

    def try_failed_again(self) -> None:
        """Make due what failed: somebody has asked for it."""
        self._tried = {case_id: tried for case_id, tried in self._tried.items() if case_id in self._at_hand}
        self.failed.clear()

    def cases(self) -> Iterator[str]:
        """What is due, one at a time: the next one is looked for when it is asked for."""
        while (case_id := self._next()) is not None:
            yield case_id

    def keep(self, outcome: CaseOutcome[CaseScore]) -> None:
        """Store a score, or remember why there is none.

        Raises:
            StorageError: the disk refused.
        """
        self._at_hand.discard(outcome.case_id)
        if outcome.result is None:
            self.failed[outcome.case_id] = outcome.error
            if outcome.is_bad_input and self._readable is not None:
                self._readable.failed(outcome.case_id, outcome.error)
            _log.warning("%s is not scored: %s", outcome.case_id, outcome.error)
            return
        try:
            score = compared(outcome.result, self._scores.get(outcome.case_id))
            self._scores.put(score)
        except StorageError:
            self._tried.pop(outcome.case_id, None)
            raise
        self.scored += 1
        self.failed.pop(outcome.case_id, None)
        if self._tried.get(outcome.case_id, ("", 0))[0] == score.version_key:
            # The store says it from now on. Where another version answered (the champion cannot be loaded), the case
            # would stay due for ever: then it counts as tried.
            del self._tried[outcome.case_id]

    def _next(self) -> str | None:
        present = version_key(self._versions())
        is_old = self._now() - self._listed_at_s > LOOK_AGAIN_S
        if not self._list or is_old or present != self._listed_for:
            self.look()
        if not self._list:
            return None
        case_id = self._list.popleft()
        self._at_hand.add(case_id)
        self._tried[case_id] = (present, self._changed_ns(case_id))
        return case_id

    def let_go(self) -> None:
        """Forget what is at hand: the work on it was stopped, it is due again."""
        for case_id in self._at_hand:
            self._tried.pop(case_id, None)
        self._at_hand.clear()

    def _changed_ns(self, case_id: str) -> int:
        try:
            return self._study.image_path(case_id).stat().st_mtime_ns
        except (OSError, NotFoundError):
            return 0


def compared(score: CaseScore, previous: CaseScore | None) -> CaseScore:
    """The score with how much it differs from the one that other models gave before; workers do not see that one."""
    if previous is None:
        return score
    if dict(previous.model_versions) == dict(score.model_versions):
        return replace(score, disagreement=previous.disagreement)
    return replace(score, disagreement=model_disagreement(score.candidates, previous.candidates))


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeScorer:
    """Makes a worker that scores cases: what executors are given. Picklable.

    Attributes:
        studies: the study folder, as the worker sees it.
        device: see ``medai.networks.engine.load_engine``.
    """

    studies: Path
    device: str = "auto"

    def __call__(self) -> Callable[[str], CaseScore]:
        """Load the present champions."""
        from medai.store.layout import engines_folder

        study, registry = StudyStore(self.studies, read_only=True), open_registry(self.studies)
        models = PresentModels(
            registry, lambda: load_scoring_pipeline(registry, device=self.device, cache_folder=engines_folder())
        )
        return lambda case_id: score_case(read_case(study, case_id), models.get())


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStep:
    """Where scoring stands after a case.

    Attributes:
        outcome: the case's.
        done: cases scored or failed.
        left: cases still to do.
    """

    outcome: CaseOutcome[CaseScore]
    done: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """What was scored.

    Attributes:
        scored: cases with a new score.
        failed: case to the reason why it has none.
        left: cases not reached, because it was stopped.
        seconds: wall time, the loading of models included.
        executor: who worked, in words.
        model_versions: task to version, as they are at the end.
        workers: who worked to how many cases.
        retried: cases that took more than one try.
        unreadable: case to the reason why its scan cannot be read; of the whole study.
        note: what is wrong with a study without cases; "" where it has some.
    """

    scored: int
    failed: Mapping[str, str]
    left: int
    seconds: float
    executor: str
    model_versions: Mapping[str, str]
    workers: Mapping[str, int] = field(default_factory=dict)
    retried: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "scored": self.scored,
            "failed": dict(self.failed),
            "unreadable": dict(self.unreadable),
            "left": self.left,
            "seconds": round(self.seconds, 2),
            "cases_per_minute": round(60 * self.scored / self.seconds, 2) if self.seconds > 0 else None,
            "executor": self.executor,
            "workers": dict(self.workers),
            "retried": self.retried,
            "model_versions": dict(self.model_versions),
        }


def score_pool(
    studies: Path,
    executor: CaseExecutor,
    *,
    device: str = "auto",
    on_begin: Callable[[int], None] = lambda due: None,
    on_step: Callable[[PoolStep], None] = lambda step: None,
    on_wait: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PoolReport:
    """Score what a study lacks.

    Args:
        studies: the study folder.
        executor: who works.
        device: see ``medai.networks.engine.load_engine``.
        on_begin: told how many cases are due.
        on_step: told of each case.
        on_wait: called where another process is scoring this study just now.
        should_stop: asked before each case.

    Raises:
        NotFoundError: no such study.
        ModelError: there is nothing to score with, or no worker can load it.
        ConflictError: another process went on scoring this study.
        StorageError: the disk refused.
    """
    begun = time.perf_counter()
    study = StudyStore(studies)
    registry = open_registry(study.folder)
    scores = ScoreStore(study.folder)
    readable = ReadableCases(study, UnreadableScans(study.folder))
    pool = ScoringPool(study, scores, lambda: scored_versions(registry), readable=readable)
    workers: Counter[str] = Counter()
    retried = 0
    try:
        with ScoringTurn(study.folder).taken(wait_s=TURN_WAIT_S, on_wait=on_wait):
            on_begin(len(pool.due()))
            make_work = MakeScorer(studies=study.folder, device=device)
            for outcome in executor.run(pool.cases(), make_work, should_stop=should_stop):
                pool.keep(outcome)
                workers[outcome.worker] += 1
                retried += outcome.attempts > 1
                on_step(PoolStep(outcome=outcome, done=pool.scored + len(pool.failed), left=pool.left))
            pool.let_go()
            left = len(pool.due())
    finally:
        scores.close()
    return PoolReport(
        scored=pool.scored,
        failed=pool.failed,
        left=left,
        seconds=time.perf_counter() - begun,
        executor=executor.description,
        model_versions=scored_versions(registry),
        workers=workers,
        retried=retried,
        unreadable=readable.unreadable(),
        note="" if study.image_ids() else missing_scans_words(study.folder),
    )
