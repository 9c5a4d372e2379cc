"""Work over many cases inside the server: batch inference and scoring, seen through MONAI Label's task records.

MONAI Label starts a process for each, which imports everything again (about 20 s) and cannot share the loaded models.
Here a job is a run of an executor (``workflows.executors``) in a thread of the job's own. A batch hands one case at a
time to the scan lane and waits for it, so that it is never more than one case ahead of an annotator; scoring stays out
of the lanes and gives way to them (``scoring``). One job of a kind at a time.

Threads: every method may be called from any thread; one lock guards the records, nothing is waited for inside it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal, Protocol

from fastapi import HTTPException

from medai.errors import ConflictError, MedaiError, NotFoundError, StorageError
from medai.server.lanes import Lane, Lanes
from medai.workflows.executors import CaseExecutor, CaseOutcome, InProcessExecutor, MakeWork

logger = logging.getLogger(__name__)

Status = Literal["SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"]
KEPT_JOBS = 20
KEPT_LINES = 20
ATTEMPTS = 2
"""A fault of ours is tried once more; whoever waits for a batch is told soon."""


class Records(Protocol):
    """Task records, of trainings or of jobs."""

    def records(self) -> list[dict[str, Any]]:
        """All, oldest first."""
        ...

    def running(self) -> dict[str, Any] | None:
        """The running one."""
        ...


def wanted_record(records: Records, kind: str, *, every: bool, only_running: bool) -> Any:
    """The latest record, every one, or the running one: what GET of a kind of task answers.

    Raises:
        HTTPException: 404 where there is none, by which clients know that nothing runs.
    """
    if only_running:
        found: Any = records.running()
    else:
        past = records.records()
        found = past if every else past[-1] if past else None
    if not found:
        state = "runs now" if only_running else "has run since the server started"
        raise HTTPException(HTTPStatus.NOT_FOUND, f"No {kind} {state}.")
    return found


class JobBusyError(ConflictError):
    """A job of this kind runs already."""


def _now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseJob:
    """What a job is to do.

    Attributes:
        case_ids: the cases, in order; taken one at a time.
        work: called with each.
        request: what the client asked, for the record.
        left: how many cases are still to do, those at hand included, where nobody knows how many there will be.
        keep: what the record says of a case, from its outcome; called once a case, in the job's thread. What it raises
            is the case's error, but for a StorageError, which ends the job.
        stop: ends the job.
        elsewhere: who works on the cases instead of this server, and what makes a worker ready; None: this server.
    """

    case_ids: Iterable[str]
    work: Callable[[str], Any]
    request: dict[str, Any] = field(default_factory=dict)
    left: Callable[[], int] | None = None
    keep: Callable[[CaseOutcome[Any]], Any] = lambda outcome: outcome.result
    stop: threading.Event = field(default_factory=threading.Event)
    elsewhere: tuple[CaseExecutor, MakeWork[Any]] | None = None


@dataclass(slots=True, kw_only=True)
class _Record:
    job_id: str
    job: CaseJob
    total: int
    status: Status = "SUBMITTED"
    start_ts: str = field(default_factory=_now)
    end_ts: str = ""
    details: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    result: dict[str, Any] = field(default_factory=dict)

    def view(self) -> dict[str, Any]:
        """The record in MONAI Label's shape."""
        ended = {"end_ts": self.end_ts, "result": dict(self.result)} if self.end_ts else {}
        left = 0 if self.end_ts or self.job.left is None else self.job.left()
        return {
            "id": self.job_id,
            "status": self.status,
            "request": self.job.request,
            "start_ts": self.start_ts,
            "details": list(self.details),
            "total": max(self.total, len(self.result) + left),
            "finished": len(self.result),
            "failed": sum(isinstance(found, dict) and "error" in found for found in self.result.values()),
            **ended,
        }


class CaseJobs:
    """The jobs of one kind.

    Args:
        kind: for messages and thread names.
        lanes: where each case is worked on, in the scan lane; None: in the job's own thread.
        executor: who works on the cases.
    """

    def __init__(self, kind: str, lanes: Lanes | None, *, executor: CaseExecutor | None = None) -> None:
        self._kind = kind
        self._lanes = lanes
        self._executor = executor or InProcessExecutor(attempts=ATTEMPTS)
        self._lock = threading.Lock()
        self._records: list[_Record] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"medai-{kind}")

    def start(self, job: CaseJob) -> tuple[str, Future[None]]:
        """Start a job.

        Returns:
            The job's id, and a future that is done when the job has ended.

        Raises:
            JobBusyError: one runs already. One that was stopped and ends its present case does not count: the new
                one begins after it.
        """
        with self._lock:
            if self._has_work():
                raise JobBusyError(f"A {self._kind} runs already: wait for it, or stop it first.")
            if len(self._unended()) >= KEPT_JOBS:
                raise JobBusyError(
                    f"{KEPT_JOBS} stopped jobs of {self._kind} still end the case at hand: try again later."
                )
            total = len(job.case_ids) if isinstance(job.case_ids, list | tuple) else 0
            record = _Record(job_id=str(uuid.uuid4()), job=job, total=total)
            record.details.append(f"{total if job.left is None else job.left()} cases to do")
            self._records.append(record)
            ended = [known for known in self._records if known.end_ts]
            for known in ended[: max(0, len(self._records) - KEPT_JOBS)]:
                self._records.remove(known)
        return record.job_id, self._thread.submit(self._run, record)

    def record(self, job_id: str) -> dict[str, Any]:
        """The present record of a job.

        Raises:
            NotFoundError: no such job, or one that ended so long ago that its record is forgotten.
        """
        with self._lock:
            found = next((record.view() for record in self._records if record.job_id == job_id), None)
        if found is None:
            raise NotFoundError(f"There is no record of a {self._kind} {job_id}; only the latest {KEPT_JOBS} are kept.")
        return found

    def records(self) -> list[dict[str, Any]]:
        """Every job since the server started, oldest first."""
        with self._lock:
            return [record.view() for record in self._records]

    def running(self) -> dict[str, Any] | None:
        """The job that runs, if one does; a new one rather than a stopped one that it waits for."""
        with self._lock:
            unended = self._unended()
            return unended[-1].view() if unended else None

    def is_busy(self) -> bool:
        """Whether a job runs that nobody has stopped."""
        with self._lock:
            return self._has_work()

    def stop(self) -> dict[str, Any] | None:
        """End the running job after its present case; returns its record, None if none runs."""
        with self._lock:
            unended = self._unended()
            for record in unended:
                record.job.stop.set()
                record.status = "STOPPED"
            return unended[-1].view() if unended else None

    def close(self) -> None:
        """End everything."""
        self.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _unended(self) -> list[_Record]:
        return [record for record in self._records if not record.end_ts]

    def _has_work(self) -> bool:
        return any(record.status != "STOPPED" for record in self._unended())

    def _run(self, record: _Record) -> None:
        with self._lock:
            if record.status == "SUBMITTED":
                record.status = "RUNNING"
        failed, why = 0, ""
        try:
            failed = self._work_off(record)
        except MedaiError as error:
            why = str(error)
        except Exception as error:
            logger.exception("%s failed", self._kind)
            why = f"{type(error).__name__}: see the log"
        with self._lock:
            if why:
                record.details.append(why)
            record.end_ts = _now()
            if record.status != "STOPPED":
                all_failed = failed and failed == len(record.result)
                record.status = "ERROR" if why or all_failed else "DONE"
        logger.info("%s ended: %d cases, %d failed. %s", self._kind, len(record.result), failed, why)

    def _work_off(self, record: _Record) -> int:
        """Do the cases; returns how many failed."""
        job, failed = record.job, 0
        executor, make_work = job.elsewhere or (self._executor, lambda: self._placed(job.work))
        for outcome in executor.run(job.case_ids, make_work, should_stop=job.stop.is_set):
            error, kept = outcome.error, None
            try:
                kept = job.keep(outcome)
            except StorageError:
                raise
            except MedaiError as raised:
                error = str(raised)
            failed += bool(error)
            with self._lock:
                record.result[outcome.case_id] = {"error": error} if error else kept
                record.details.append(f"{outcome.case_id}: {error or 'done'}")
        return failed

    def _placed(self, work: Callable[[str], Any]) -> Callable[[str], Any]:
        """The work, done in the scan lane where there is one."""
        lanes = self._lanes
        return work if lanes is None else lambda case_id: in_scan_lane(lanes, work, case_id)


def in_scan_lane(lanes: Lanes, work: Callable[[str], Any], case_id: str) -> Any:
    """Do the work on a case in the lane of the whole scans, and wait for it.

    Raises:
        ConflictError: the lane is full, or the server ends.
    """
    try:
        return lanes.submit(Lane.SCAN, work, case_id).result()
    except HTTPException as error:
        raise ConflictError(str(error.detail)) from error
