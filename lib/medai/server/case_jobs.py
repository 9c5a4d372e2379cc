"""Work over many cases inside the server: batch inference and scoring, seen through MONAI Label's task records.

MONAI Label starts a process for each, which imports everything again (about 20 s) and cannot share the decoded scans.
Here a job's thread hands one case at a time to the scan lane and waits for it, so that a job is never more than one
case ahead of an annotator. One job of a kind at a time.

Threads: every method may be called from any thread; one lock guards the records, nothing is waited for inside it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal, Protocol

from fastapi import HTTPException

from medai.errors import ConflictError, MedaiError
from medai.server.lanes import Lane, Lanes

logger = logging.getLogger(__name__)

Status = Literal["SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"]
KEPT_JOBS = 20
KEPT_LINES = 20


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


@dataclass(slots=True, kw_only=True)
class _Job:
    job_id: str
    request: dict[str, Any]
    case_ids: Sequence[str]
    work: Callable[[str], dict[str, Any]]
    status: Status = "SUBMITTED"
    start_ts: str = field(default_factory=_now)
    end_ts: str = ""
    details: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    result: dict[str, Any] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def view(self) -> dict[str, Any]:
        """The record in MONAI Label's shape."""
        ended = {"end_ts": self.end_ts, "result": dict(self.result)} if self.end_ts else {}
        return {
            "id": self.job_id,
            "status": self.status,
            "request": self.request,
            "start_ts": self.start_ts,
            "details": list(self.details),
            "total": len(self.case_ids),
            "finished": len(self.result),
            **ended,
        }


class CaseJobs:
    """The jobs of one kind.

    Args:
        kind: for messages and thread names.
        lanes: where each case is worked on.
    """

    def __init__(self, kind: str, lanes: Lanes) -> None:
        self._kind = kind
        self._lanes = lanes
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque(maxlen=KEPT_JOBS)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"medai-{kind}")

    def start(
        self, case_ids: Sequence[str], work: Callable[[str], dict[str, Any]], request: dict[str, Any]
    ) -> tuple[str, Future[None]]:
        """Start a job.

        Args:
            case_ids: the cases, in order.
            work: called with each; what it returns is kept as the case's result.
            request: what the client asked, for the record.

        Returns:
            The job's id, and a future that is done when the job has ended.

        Raises:
            JobBusyError: one runs already.
        """
        with self._lock:
            if any(not job.end_ts for job in self._jobs):
                raise JobBusyError(f"A {self._kind} runs already: wait for it, or stop it first.")
            job = _Job(job_id=str(uuid.uuid4()), request=request, case_ids=tuple(case_ids), work=work)
            job.details.append(f"{len(case_ids)} cases to do")
            self._jobs.append(job)
        return job.job_id, self._executor.submit(self._run, job)

    def record(self, job_id: str) -> dict[str, Any]:
        """The present record of a job."""
        with self._lock:
            return next(job.view() for job in self._jobs if job.job_id == job_id)

    def records(self) -> list[dict[str, Any]]:
        """Every job since the server started, oldest first."""
        with self._lock:
            return [job.view() for job in self._jobs]

    def running(self) -> dict[str, Any] | None:
        """The job that runs, if one does."""
        with self._lock:
            return next((job.view() for job in self._jobs if not job.end_ts), None)

    def stop(self) -> dict[str, Any] | None:
        """End the running job after its present case; returns its record, None if none runs."""
        with self._lock:
            job = next((job for job in self._jobs if not job.end_ts), None)
            if job is None:
                return None
            job.stop.set()
            job.status = "STOPPED"
            return job.view()

    def close(self) -> None:
        """End everything."""
        self.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: _Job) -> None:
        failed = 0
        with self._lock:
            if job.status == "SUBMITTED":
                job.status = "RUNNING"
        for case_id in job.case_ids:
            if job.stop.is_set():
                break
            try:
                outcome = self._lanes.submit(Lane.SCAN, job.work, case_id).result()
            except (MedaiError, HTTPException) as error:
                failed += 1
                outcome = {"error": str(error)}
            except Exception as error:  # one broken case must not end the others
                logger.exception("%s of %s failed", self._kind, case_id)
                failed += 1
                outcome = {"error": f"{type(error).__name__}: see the server's log"}
            with self._lock:
                job.result[case_id] = outcome
                job.details.append(
                    f"{case_id}: {outcome.get('error', 'done') if isinstance(outcome, dict) else 'done'}"
                )
        with self._lock:
            job.end_ts = _now()
            if job.status != "STOPPED":
                job.status = "ERROR" if failed and failed == len(job.case_ids) else "DONE"
        logger.info("%s ended: %d of %d cases, %d failed", self._kind, len(job.result), len(job.case_ids), failed)
