"""Trainings started by the server: one at a time, in a process, seen through MONAI Label's task records.

The server's threads never train: a process is started, a thread of its own reads what it says, and its progress is read
from the study's folder. Stopping says so on the process's standard input and closes it (it stops at the next step),
then terminates, then kills it with everything it started. A server that dies or is closed closes the same pipe without
a word: the process then keeps what it has reached, and the queue on disk keeps what was asked for.

The queue is bounded. Records of ended trainings are forgotten, oldest first, those of open ones never. However a
training ends, by a fault of ours too, its record says so.

Threads: every method may be called from any thread; ``stop`` and ``close`` wait for the process, ``start`` writes the
queue, so none of them is called from the event loop. One lock guards the records; nothing is waited for inside it, and
the queue's lock on disk is never taken inside it. A second, taken before it, lets one thread at a time close.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from medai.errors import ConflictError, NotFoundError, StorageError
from medai.server.train_worker import EXIT_DONE, EXIT_STOPPED, STOP_WORD, TrainJob
from medai.workflows.training_queue import TrainingQueue

logger = logging.getLogger(__name__)

Status = Literal["SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"]

WORKER = (sys.executable, "-m", "medai.server.train_worker")
STOP_S = 5.0
"""How long a training may take to stop by itself; an epoch on the demo study takes a few seconds."""
TERMINATE_S = 2.0
STOPPED_WORDS = "Stopped; the model in use stays"
KEPT_TASKS = 50
LONGEST_QUEUE = 64
"""Trainings that may run or wait: a team asks for one at a time, a broken client for thousands."""
KEPT_LINES = 20
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
"""MONAI Label's, local time."""


def _now() -> str:
    return datetime.now().astimezone().strftime(TIME_FORMAT)


class TrainingBusyError(ConflictError):
    """A training runs already, or too many wait."""


@dataclass(slots=True, kw_only=True)
class _Task:
    task_id: str
    request: dict[str, Any]
    job: TrainJob
    status: Status = "SUBMITTED"
    start_ts: str = field(default_factory=_now)
    end_ts: str = ""
    details: deque[str] = field(default_factory=lambda: deque(["Waiting to start"], maxlen=KEPT_LINES))
    process: subprocess.Popen[str] | None = None
    stop_asked: bool = False

    @property
    def waits(self) -> bool:
        return self.status == "SUBMITTED" and not self.stop_asked

    @property
    def is_open(self) -> bool:
        return self.status in ("SUBMITTED", "RUNNING")

    def view(self) -> dict[str, Any]:
        """The record in MONAI Label's shape."""
        ended = {"end_ts": self.end_ts, "result": self.details[-1]} if self.end_ts else {}
        return {
            "id": self.task_id,
            "status": self.status,
            "request": self.request,
            "start_ts": self.start_ts,
            "details": list(self.details),
            **ended,
        }


class Trainings:
    """The trainings of one server.

    Args:
        command: starts the worker process; it is told its job on standard input.
        queue: keeps what was asked for until it has ended; None: nothing outlives the server.
    """

    def __init__(self, command: Sequence[str] = WORKER, *, queue: TrainingQueue | None = None) -> None:
        self._command = list(command)
        self._queue = queue
        self._closing = False
        self._ending = threading.Lock()
        self._lock = threading.Lock()
        self._tasks: list[_Task] = []
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="medai-training")

    def start(
        self,
        job: TrainJob,
        request: dict[str, Any],
        *,
        enqueue: bool = False,
        words: str = "",
        task_id: str | None = None,
    ) -> tuple[dict[str, Any], Future[None]]:
        """Start a training.

        Args:
            job: what the process is told.
            request: what the client asked, for the record.
            enqueue: wait for a running one instead of being refused.
            words: why it was started, the record's first detail.
            task_id: of one that the queue holds already; None for a new one.

        Returns:
            The task's record, and a future that is done when the training has ended.

        Raises:
            TrainingBusyError: one runs already, or ``LONGEST_QUEUE`` are open.
            StorageError: the queue cannot be written; nothing was started.
        """
        task = _Task(task_id=task_id or str(uuid.uuid4()), request=request, job=job)
        if words:
            task.details.appendleft(words)
        with self._lock:
            if self._closing:
                raise TrainingBusyError("The server is shutting down: nothing is started any more.")
            open_tasks = sum(known.is_open for known in self._tasks)
            if open_tasks and not enqueue:
                raise TrainingBusyError("A training runs already: wait for it, or stop it first (DELETE /train/).")
            # What an earlier server has accepted is never turned away.
            if open_tasks >= LONGEST_QUEUE and task_id is None:
                raise TrainingBusyError(
                    f"{open_tasks} trainings run or wait already, which is the most: wait for one to end, or stop them "
                    "(DELETE /train/)."
                )
            self._add(task)
            view = task.view()
        if self._queue is not None and task_id is None:
            try:
                self._queue.add(task.task_id, job.model_dump(mode="json"), request)
            except BaseException:
                with self._lock:
                    self._tasks.remove(task)
                raise
        try:
            return view, self._executor.submit(self._run, task)
        except RuntimeError:
            # The server began to end in this moment: the next one trains, as the queue says.
            with self._lock:
                if task.is_open:
                    self._finish(task, "STOPPED", "Left to the next server")
                view = task.view()
            never: Future[None] = Future()
            never.cancel()
            return view, never

    def report_lost(self, task_id: str, request: dict[str, Any], asked_at_s: float, words: str) -> None:
        """Add the record of a training that an earlier server could not bring to its end."""
        asked = datetime.fromtimestamp(asked_at_s).astimezone().strftime(TIME_FORMAT)
        job = TrainJob(studies=Path(), epochs=1, device="cpu", seed=0)
        task = _Task(task_id=task_id, request=request, job=job, start_ts=asked)
        with self._lock:
            self._finish(task, "ERROR", words)
            self._add(task)

    def waiting(self) -> int:
        """How many trainings wait for the running one."""
        with self._lock:
            return sum(task.waits for task in self._tasks)

    def records(self) -> list[dict[str, Any]]:
        """Every training since the server started, oldest first."""
        with self._lock:
            return [task.view() for task in self._tasks]

    def running(self) -> dict[str, Any] | None:
        """The training that runs or waits to, if any."""
        with self._lock:
            return next((task.view() for task in self._tasks if task.is_open), None)

    def running_job(self) -> tuple[TrainJob, float] | None:
        """What the running training was told, and when it was asked for, seconds since 1970."""
        with self._lock:
            task = next((task for task in self._tasks if task.is_open), None)
        if task is None:
            return None
        return task.job, datetime.strptime(task.start_ts, TIME_FORMAT).astimezone().timestamp()

    def record(self, task_id: str) -> dict[str, Any]:
        """The present record of a task.

        Raises:
            NotFoundError: no such task, or one that ended so long ago that its record is forgotten.
        """
        with self._lock:
            found = next((task.view() for task in self._tasks if task.task_id == task_id), None)
        if found is None:
            raise NotFoundError(f"There is no record of a training {task_id}; GET /train/?all=true lists them.")
        return found

    def stop(self) -> dict[str, Any] | None:
        """Stop the running training and those waiting; returns the running one's last record, None if none was.

        Returns when the process has ended, at most ``STOP_S`` + ``TERMINATE_S`` seconds later. They are stopped for
        good: a later server does not begin them again.
        """
        stopped = self._stop()
        return stopped[0].view() if stopped else None

    def close(self) -> None:
        """End everything; called when the server ends, more than once too. What is open is left to the next server."""
        with self._lock:
            self._closing = True
        with self._ending:
            self._stop()
            self._executor.shutdown(wait=True, cancel_futures=True)
            if self._queue is not None:
                self._queue.close()

    def _stop(self) -> list[_Task]:
        """Stop what is open; returns it, the running one first."""
        with self._lock:
            open_tasks = [task for task in self._tasks if task.is_open]
            for task in open_tasks:
                task.stop_asked = True
                if task.process is None:
                    self._finish(task, "STOPPED", "Stopped before it began")
            process = next((task.process for task in open_tasks if task.process), None)
        if not self._closing:
            # Before the process is ended: were this server killed meanwhile, the next one must not begin them again.
            self._forget(*open_tasks)
        if process is not None:
            _end(process, for_good=not self._closing)
        with self._lock:
            for task in open_tasks:
                if task.is_open:
                    self._finish(task, "STOPPED", STOPPED_WORDS)
        return open_tasks

    def _add(self, task: _Task) -> None:
        """Append a record, and forget the oldest of those that have ended; called with the lock held."""
        self._tasks.append(task)
        ended = [known for known in self._tasks if not known.is_open]
        for known in ended[: max(0, len(self._tasks) - KEPT_TASKS)]:
            self._tasks.remove(known)

    def _forget(self, *tasks: _Task) -> None:
        """Take trainings out of the queue on disk; a server that closes leaves unfinished ones to the next server."""
        ended = [task.task_id for task in tasks if not self._closing or task.status in ("DONE", "ERROR")]
        if self._queue is None or not ended:
            return
        try:
            self._queue.ended(*ended)
        except StorageError as error:
            logger.warning("Trainings %s may be begun again by the next server: %s", ", ".join(ended), error)

    def _run(self, task: _Task) -> None:
        """Bring one training to its end; raises nothing, the record says what went wrong."""
        try:
            self._train(task)
        except Exception:
            logger.exception("Training %s failed", task.task_id)
            if task.process is not None:
                _end(task.process, for_good=False)
            with self._lock:
                if task.is_open:
                    self._finish(task, "ERROR", "The server failed on this training; its log says why.")
        self._forget(task)

    def _train(self, task: _Task) -> None:
        process = self._begin(task)
        if process is None:
            # Stopped before, perhaps between its record and its note in the queue.
            return
        logger.info("Training %s runs in process %d", task.task_id, process.pid)
        if self._queue is not None:
            with contextlib.suppress(StorageError):
                self._queue.begun(task.task_id)
        with contextlib.suppress(OSError, ValueError):
            _write(process, task.job.model_dump_json() + "\n")
        for line in process.stdout or ():
            if text := line.rstrip():
                logger.info("Training: %s", text)
                with self._lock:
                    task.details.append(text)
        code = process.wait()
        with self._lock:
            if task.is_open:
                status = _status(code, stop_asked=task.stop_asked)
                # One that stopped by itself has said so; one that had to be killed has not.
                said = status != "STOPPED" or code == EXIT_STOPPED
                self._finish(task, status, "" if said else STOPPED_WORDS)
        logger.info("Training %s ended with code %d: %s", task.task_id, code, task.status)

    def _begin(self, task: _Task) -> subprocess.Popen[str] | None:
        """Start the process; None where the task was stopped meanwhile."""
        with self._lock:
            if task.stop_asked:
                return None
            task.status = "RUNNING"
            task.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            return task.process

    @staticmethod
    def _finish(task: _Task, status: Status, words: str) -> None:
        task.status, task.end_ts = status, _now()
        if words:
            task.details.append(words)


def _status(code: int, *, stop_asked: bool) -> Status:
    if code == EXIT_DONE:
        return "DONE"
    return "STOPPED" if stop_asked or code == EXIT_STOPPED else "ERROR"


def _write(process: subprocess.Popen[str], text: str) -> None:
    if process.stdin:
        process.stdin.write(text)
        process.stdin.flush()


def _end(process: subprocess.Popen[str], *, for_good: bool) -> None:
    """Ask, then insist, then kill with everything the process started."""
    if process.stdin:
        if for_good:
            with contextlib.suppress(OSError, ValueError):
                _write(process, STOP_WORD + "\n")
        with contextlib.suppress(OSError):
            process.stdin.close()
    for patience_s, insist in ((STOP_S, signal.SIGTERM), (TERMINATE_S, signal.SIGKILL)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, insist)
    process.wait()
    # What it started may outlive it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
