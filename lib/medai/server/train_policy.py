"""Trainings that begin by themselves: after so many labels, by the clock, or because a server died under them.

By hand alone is the default (``train_after`` and ``train_every_minutes`` are 0): a training takes the processor from
the annotators' clicks for minutes on a small machine and may change the proposals in the middle of a session, so that
somebody should have wanted it. Only the click network trains by itself: it learns from every outline, while the others
need whole scans or ratings of which nobody knows whether they are complete.

Threads: ``label_submitted`` is called from request threads, ``_watch`` is a daemon thread that wakes every
``WATCH_S``, ``begin`` and ``close`` are the server's start and end. Lock order: this module's lock, then that of
``background.Trainings``, then the queue's on disk; none of them calls back. No lock is held while a process starts or
ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from medai.errors import MedaiError
from medai.server.background import Trainings
from medai.server.train_worker import TrainJob
from medai.workflows.training_policy import TrainingFacts, TrainingPolicy, training_due
from medai.workflows.training_queue import TrainingQueue

logger = logging.getLogger(__name__)

WATCH_S = 15.0
"""The clock's rule is in minutes."""
STARTED_BY = "started_by"
"""Key of a record's request: "policy" where nobody pressed Train."""
INTERRUPTED_WORDS = "Begun again: the server ended before this training did"
GIVEN_UP_WORDS = "Given up: the server ended twice while this training ran; start it again by hand"


class TrainPolicy:
    """When one study trains by itself.

    Args:
        policy: the rule.
        trainings: runs them, one at a time.
        queue: counts the labels and keeps what waits.
        make_job: reads a request, as if it came from the Train button.
        task: what is trained.
        now: the clock, seconds since 1970.
    """

    def __init__(
        self,
        policy: TrainingPolicy,
        trainings: Trainings,
        queue: TrainingQueue,
        make_job: Callable[[dict[str, Any]], TrainJob],
        *,
        task: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._trainings = trainings
        self._queue = queue
        self._make_job = make_job
        self._task = task
        self._now = now
        self._began_s = now()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def begin(self) -> None:
        """Begin again what a dead server has left, and watch the clock where the policy goes by it."""
        try:
            self._restore()
        except MedaiError as error:
            logger.warning("Trainings of an earlier server are not begun again: %s", error)
        if self.policy.every_minutes:
            threading.Thread(target=self._watch, name="medai-train-policy", daemon=True).start()

    def label_submitted(self) -> None:
        """Count a submitted label, and train where that makes one due; never fails the submission."""
        if self.policy.by_hand_only:
            return
        try:
            self._queue.label_submitted()
        except MedaiError as error:
            logger.warning("A submitted label is not counted for the training policy: %s", error)
            return
        self.check()

    def check(self) -> bool:
        """Ask for a training if one is due; where one runs the new one waits. Returns whether one was asked for."""
        try:
            with self._lock:
                if self._ended.is_set():
                    return False
                why = training_due(self.policy, self._facts())
                if not why:
                    return False
                request = {"model": self._task, STARTED_BY: "policy"}
                self._trainings.start(self._make_job(request), request, enqueue=True, words=why)
        except MedaiError as error:
            logger.warning("A training that is due is not started: %s", error)
            return False
        logger.info("%s", why)
        return True

    def view(self) -> dict[str, Any]:
        """What the Train panel's figures say of it; empty where it trains by hand only and nothing waits."""
        waiting = self._trainings.waiting()
        told: dict[str, Any] = {"waiting": waiting} if waiting else {}
        if not self.policy.by_hand_only:
            told |= {"policy": self.policy.describe(), "labels_since_training": self._queue.labels_since()}
        return told

    def close(self) -> None:
        """Ask for nothing more."""
        self._ended.set()
        with self._lock:
            pass

    def _facts(self) -> TrainingFacts:
        asked_s = self._queue.asked_at_s()
        return TrainingFacts(
            labels_since=self._queue.labels_since(),
            minutes_since=(self._now() - (self._began_s if asked_s is None else asked_s)) / 60.0,
            waiting=self._trainings.waiting(),
        )

    def _restore(self) -> None:
        again, given_up = self._queue.adopt()
        for entry in given_up:
            logger.error("Training %s: %s", entry.task_id, GIVEN_UP_WORDS)
            self._trainings.report_lost(entry.task_id, entry.request, entry.asked_at_s, GIVEN_UP_WORDS)
        for entry in again:
            try:
                job = TrainJob.model_validate(entry.job)
            except ValidationError as error:
                logger.warning("Training %s cannot be begun again: %s", entry.task_id, error)
                self._queue.ended(entry.task_id)
                continue
            logger.info("Training %s: %s", entry.task_id, INTERRUPTED_WORDS)
            self._trainings.start(job, entry.request, enqueue=True, words=INTERRUPTED_WORDS, task_id=entry.task_id)

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            self.check()
