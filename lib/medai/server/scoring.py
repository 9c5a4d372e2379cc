"""What the models make of each case, kept up to date in the background while annotators work.

MONAI Label starts a process of about 20 s for every method at each Next Sample. Here one thread of the server scores
with the models that are loaded anyway; Next Sample reads what is there and starts nothing.

What is due, and in which order, is decided by ``workflows.score_pool``: new cases and every case after a new champion.
The score store on disk is the whole state, so that a restart goes on where the last server was.

Giving way: scoring is in none of the lanes. While a click or a whole scan runs or waits there, it pauses between two
steps of the network (not only between cases), and goes on after ``QUIET_S`` without any. While ``medai score`` scores
the same study, it rests.

Threads: ``PoolScoring`` has a thread that looks whether something is due; the work is done in the thread of the job
(``case_jobs``), which alone asks the pool for cases while it runs. Routes may call anything. One lock is held while a
job is begun; ``case_jobs`` takes its own inside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from medai.domain.case_score import CaseScore
from medai.errors import MedaiError, ModelError
from medai.server.case_jobs import CaseJob, CaseJobs, JobBusyError
from medai.server.lanes import Lane, Lanes
from medai.store.scores import ScoreStore
from medai.store.scoring_turn import ScoringTurn
from medai.store.study import StudyStore
from medai.workflows.executors import CaseOutcome
from medai.workflows.present_models import read_case
from medai.workflows.readable_cases import ReadableCases
from medai.workflows.score_case import score_prediction
from medai.workflows.score_pool import ScoringPool

if TYPE_CHECKING:
    from medai.inference.scan import ScanPipeline

logger = logging.getLogger(__name__)

LOOK_S = 15.0
"""How often it is looked whether something is due; a look costs milliseconds."""

QUIET_S = 2.0
"""An annotator's clicks come in rows: scoring goes on when none came for so long."""

TELL_EVERY_S = 60.0

OTHERS_TURN_S = 0.5
"""Between two cases the turn is free for so long: ``medai score`` looks every 0.2 s."""

METHOD = "uncertainty"


class GivingWay:
    """Pauses the work of a thread while somebody waits for an inference.

    Args:
        is_busy: whether somebody waits.
        quiet_s: how long nobody must have waited before it goes on.

    Attributes:
        is_paused: whether it pauses just now.
    """

    def __init__(self, is_busy: Callable[[], bool], *, quiet_s: float = QUIET_S) -> None:
        self._is_busy = is_busy
        self._quiet_s = quiet_s
        self.is_paused = False

    def wait(self, stop: threading.Event) -> bool:
        """Come back when nobody waits; True where the work is to stop. Called between two steps."""
        if not self._is_busy():
            return stop.is_set()
        self.is_paused = True
        quiet_since = None
        while not stop.wait(0.05):
            if self._is_busy():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= self._quiet_s:
                break
        self.is_paused = False
        return stop.is_set()


def lanes_are_busy(lanes: Lanes) -> bool:
    """Whether somebody waits for an inference."""
    waiting = lanes.waiting()
    return waiting[Lane.CLICK] + waiting[Lane.SCAN] > 0


class UncertaintyScoring(ScoringMethod):  # type: ignore[misc]  # monailabel's classes are untyped
    """Scores the cases that the present models have not seen.

    Args:
        study: where the cases are.
        scores: where their scores are kept.
        model: gives the pipeline that scores, of the present versions.
        versions: the present versions by task; loads nothing.
        readable: learns which scans cannot be read.
    """

    def __init__(
        self,
        study: StudyStore,
        scores: ScoreStore,
        *,
        model: Callable[[], ScanPipeline],
        versions: Callable[[], Mapping[str, str]],
        readable: ReadableCases | None = None,
    ) -> None:
        super().__init__("Runs the whole-scan model on the cases; what a label of each would teach is read off it")
        self._study = study
        self._model = model
        self.pool = ScoringPool(study, scores, versions, readable=readable)
        self.status: Callable[[], dict[str, Any]] = dict

    def info(self) -> dict[str, Any]:
        """For ``/info``: what is offered, and how far it is."""
        return {"description": self.description, "status": self.status()}

    def score(self, case_id: str, should_stop: Callable[[], bool] = lambda: False) -> CaseScore:
        """Score one case.

        Raises:
            CancelledByUserError: ``should_stop`` said so.
        """
        volume = read_case(self._study, case_id)
        return score_prediction(self._model().predict(volume, should_stop=should_stop), volume)

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """MONAI Label's convention: score all that is due, one after the other."""
        results = {}
        for case_id in self.pool.cases():
            score = self.score(case_id)
            self.pool.keep(CaseOutcome(case_id=case_id, result=score))
            results[case_id] = summary(score)
        return results


def summary(score: CaseScore) -> dict[str, float]:
    """What a record says of a case."""
    return {
        METHOD: max((candidate.entropy for candidate in score.candidates), default=0.0),
        "candidates": float(len(score.candidates)),
        "expected_minutes": score.expected_minutes,
    }


class PoolScoring:
    """Scoring as jobs of the server: when asked, and by itself.

    Args:
        method: what scores.
        jobs: the records; one job at a time.
        turn: the right to score this study, which another process may have.
        giving_way: pauses the work.
    """

    def __init__(self, method: UncertaintyScoring, jobs: CaseJobs, turn: ScoringTurn, giving_way: GivingWay) -> None:
        self.jobs = jobs
        self._method = method
        self._pool = method.pool
        self._turn = turn
        self._giving_way = giving_way
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None
        self._rests = False
        self._is_others_turn = False
        self._told_at_s = time.monotonic()
        self._seconds = 0.0
        self._trouble = ""
        method.status = self.status

    def begin(self) -> None:
        """Score by itself from now on."""
        self._watcher = threading.Thread(target=self._watch, name="medai-scoring-watch", daemon=True)
        self._watcher.start()

    def start(self, request: Mapping[str, Any], *, by_itself: bool = False) -> tuple[str, Future[None]]:
        """Score what is due now; returns the job's id, and a future that is done when it has ended.

        A job that was stopped and is still in the middle of a case is waited for by the new one.

        Raises:
            JobBusyError: scoring runs already, or was stopped by somebody while it was to begin by itself.
            ModelError: there is nothing to score with.
        """
        with self._starting:
            if self.jobs.is_busy() or (by_itself and self._rests):
                raise JobBusyError("Scoring runs already, or was stopped.")
            if not by_itself:
                self._rests = False
                self._pool.try_failed_again()
            self._pool.look()
            stop = threading.Event()
            source = self._cases(stop)
            job = CaseJob(
                case_ids=source,
                work=lambda case_id: self._method.score(case_id, lambda: self._giving_way.wait(stop)),
                request={**request, "by_itself": by_itself},
                left=lambda: self._pool.left,
                keep=self._keep,
                stop=stop,
            )
            job_id, ended = self.jobs.start(job)
            logger.info("Scoring begins: %d cases are due", self._pool.left)
            ended.add_done_callback(lambda _: self._has_ended(source))
            return job_id, ended

    def stop(self) -> dict[str, Any] | None:
        """End the scoring; it does not begin again by itself until somebody asks for it, or a restart."""
        with self._starting:
            self._rests = True
            return self.jobs.stop()

    def close(self) -> None:
        """End everything; the case at hand is scored by the next server."""
        self._closing.set()
        self.jobs.close()

    def status(self) -> dict[str, Any]:
        """How far it is: for ``/info``."""
        running = self.jobs.running()
        if running is None:
            state = "stopped" if self._rests else "idle"
        elif self._is_others_turn:
            state = "another process scores this study"
        else:
            state = "paused" if self._giving_way.is_paused else "running"
        return {
            "state": state,
            "by_itself": self._watcher is not None,
            "scored": self._pool.scored,
            "left": self._pool.left,
            "failed": len(self._pool.failed),
            "minutes_left": self._minutes_left(),
            "trouble": self._trouble,
        }

    def _minutes_left(self) -> float | None:
        """By the cases scored so far, pauses included; None before there was one."""
        kept = self._pool.scored + len(self._pool.failed)
        return round(self._seconds / kept * self._pool.left / 60, 1) if kept and self._pool.left else None

    def _cases(self, stop: threading.Event) -> Generator[str, None, None]:
        """What is due, each in a turn of its own; waits for the turn, and while somebody waits for an inference."""
        due = self._pool.cases()
        while not self._giving_way.wait(stop):
            self._is_others_turn = not self._turn.take()
            if self._is_others_turn:
                stop.wait(OTHERS_TURN_S)
                continue
            try:
                case_id = next(due, None)
                if case_id is None:
                    return
                yield case_id
            finally:
                self._turn.give_back()
            stop.wait(OTHERS_TURN_S)

    def _keep(self, outcome: CaseOutcome[CaseScore]) -> Any:
        self._pool.keep(outcome)
        self._seconds += outcome.seconds
        if time.monotonic() - self._told_at_s > TELL_EVERY_S:
            self._told_at_s = time.monotonic()
            minutes = self._minutes_left()
            left = (
                f"{self._pool.left} left" if minutes is None else f"{self._pool.left} left, about {minutes:g} minutes"
            )
            logger.info("Scoring: %d cases done, %s", self._pool.scored, left)
        return summary(outcome.result) if outcome.result is not None else None

    def _has_ended(self, source: Generator[str, None, None]) -> None:
        # Gives the turn back where the job was stopped in the middle of a case.
        source.close()
        self._is_others_turn = False
        self._pool.let_go()

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                if not self._rests and self.jobs.running() is None and self._pool.look():
                    self.start({"method": METHOD}, by_itself=True)
                self._trouble = ""
            except JobBusyError:
                continue
            except ModelError as error:
                self._say(str(error), logging.WARNING)
            except MedaiError as error:
                if not self._closing.is_set():
                    self._say(str(error), logging.ERROR)
            except Exception:
                logger.exception("Scoring by itself failed; it is tried again")

    def _say(self, trouble: str, level: int) -> None:
        """Say what is wrong once, not every fifteen seconds."""
        if trouble != self._trouble:
            logger.log(level, "Cases are not scored: %s", trouble)
        self._trouble = trouble
