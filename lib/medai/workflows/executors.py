"""Where independent work over many cases is done: in this process, or by others that the caller knows nothing of.

An executor takes cases in the caller's order, each when a worker is free for it, and gives back what became of each as
soon as it is known. That is all the caller sees: scoring the pool, whole-scan inference over a folder and the server's
batches are written against ``CaseExecutor`` and store what comes, whoever worked.

What holds for each executor (``tests/integration/workflows/test_executors.py`` asks it of all):

- Every case has exactly one outcome. What is stored by the caller is stored once, however often it was tried.
- One that cannot be used (a ``MedaiError``) is final. A fault of ours, or a worker that died, is tried again on a
  free worker, ``attempts`` times in all; then it is an outcome with an error. The others go on.
- Cases are taken from an iterator one at a time: what is due may be decided anew whenever a worker is free.
- A stop begins nothing new; what runs is finished and given back. A case that would be tried again has no outcome.
- Where there is no case, no worker is made ready.

Threads: ``run`` is a generator for one thread; ``should_stop`` and the iterator are asked in that thread.
"""

from __future__ import annotations

import itertools
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from medai.errors import CancelledByUserError, InputError, MedaiError

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

MOST_ATTEMPTS = 3
"""One for the case, one for bad luck, and one that tells a case that kills its workers from a machine that fails."""

POLL_S = 0.2
"""How often a stop is looked for while all workers are busy."""

_log = logging.getLogger(__name__)

Work = Callable[[str], R]
"""Does one case, by its id."""

MakeWork = Callable[[], Callable[[str], R]]
"""Makes a worker ready: loads its models, once. Picklable where workers are other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseOutcome(Generic[R_co]):
    """What became of one case.

    Attributes:
        case_id: the case.
        result: what the work gave; None where there is an error.
        error: why there is no result, in words; "" where there is one.
        is_fault: the error is ours or a machine's, not the case's.
        is_bad_input: the error is the case's own: its scan cannot be used.
        attempts: how often it was tried.
        seconds: wall time of the last try.
        worker: who did it.
    """

    case_id: str
    result: R_co | None = None
    error: str = ""
    is_fault: bool = False
    is_bad_input: bool = False
    attempts: int = 1
    seconds: float = 0.0
    worker: str = ""


class CaseExecutor(Protocol):
    """Does the same work on many cases."""

    @property
    def description(self) -> str:
        """Who works, in words."""
        ...

    def run(
        self, case_ids: Iterable[str], make_work: MakeWork[R], *, should_stop: Callable[[], bool] = ...
    ) -> Iterator[CaseOutcome[R]]:
        """Do the work on each case.

        Args:
            case_ids: distinct, in the order in which they are begun; taken one at a time.
            make_work: makes a worker ready.
            should_stop: asked before each case and while workers are busy.

        Returns:
            The outcomes, in the order in which they become known.

        Raises:
            MedaiError: no worker could be made ready; what was given back before stands.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Generic[R_co]):
    """One try at a case, as a worker reports it: picklable.

    Attributes:
        case_id: the case.
        result: what the work gave.
        error: in words; "" where it worked.
        is_fault: worth another try.
        is_bad_input: the case cannot be used.
        is_stopped: the work itself was told to stop: there is no outcome, the case is left as it was.
        trace: of a fault, for the log.
        seconds: wall time.
        worker: who tried.
    """

    case_id: str
    result: R_co | None = None
    error: str = ""
    is_fault: bool = False
    is_bad_input: bool = False
    is_stopped: bool = False
    trace: str = ""
    seconds: float = 0.0
    worker: str = ""


def tried(work: Work[R], case_id: str, worker: str) -> Trial[R]:
    """Do one case; whatever is raised becomes part of the report."""
    begun = time.perf_counter()
    error, trace, is_fault, is_bad_input, is_stopped, result = "", "", False, False, False, None
    try:
        result = work(case_id)
    except CancelledByUserError:
        is_stopped = True
    except MedaiError as raised:
        error, is_bad_input = str(raised), isinstance(raised, InputError)
    except Exception as raised:  # noqa: BLE001 - one broken case must not end the others; the trace is logged
        error, trace, is_fault = f"{type(raised).__name__}: see the log", traceback.format_exc(), True
    return Trial(
        case_id=case_id,
        result=result,
        error=error,
        is_fault=is_fault,
        is_bad_input=is_bad_input,
        is_stopped=is_stopped,
        trace=trace,
        seconds=time.perf_counter() - begun,
        worker=worker,
    )


class Crew(Protocol[R]):
    """The workers of one run: what executors differ in."""

    def has_room(self) -> bool:
        """Whether a case may be begun."""
        ...

    def is_busy(self) -> bool:
        """Whether a case is being worked on."""
        ...

    def begin(self, case_id: str) -> None:
        """Give a case to a free worker."""
        ...

    def finished(self, timeout_s: float) -> list[Trial[R]]:
        """What has ended since the last call; waits for something, at most so long."""
        ...


def drive(
    case_ids: Iterable[str], crew: Crew[R], *, attempts: int, should_stop: Callable[[], bool]
) -> Iterator[CaseOutcome[R]]:
    """Keep a crew busy until every case has its outcome: the part that all executors share."""
    source = iter(case_ids)
    tries: dict[str, int] = {}
    again: deque[str] = deque()
    is_stopped = is_empty = False
    while True:
        is_stopped = is_stopped or should_stop()
        while not is_stopped and crew.has_room() and (again or not is_empty):
            case_id = again.popleft() if again else next(source, None)
            if case_id is None:
                is_empty = True
                break
            tries[case_id] = tries.get(case_id, 0) + 1
            crew.begin(case_id)
            is_stopped = should_stop()
        if not crew.is_busy() and (is_stopped or (is_empty and not again)):
            return
        for trial in crew.finished(POLL_S):
            if trial.trace:
                _log.error("%s failed on %s:\n%s", trial.case_id, trial.worker, trial.trace)
            is_stopped = is_stopped or trial.is_stopped
            if trial.is_stopped:
                continue
            if trial.is_fault and tries[trial.case_id] < attempts:
                # After a stop it is left as it was: no outcome, due again next time.
                _log.warning("%s failed (try %d of %d): %s", trial.case_id, tries[trial.case_id], attempts, trial.error)
                again.append(trial.case_id)
                continue
            yield CaseOutcome(
                case_id=trial.case_id,
                result=trial.result,
                error=trial.error,
                is_fault=trial.is_fault,
                is_bad_input=trial.is_bad_input,
                attempts=tries.pop(trial.case_id),
                seconds=trial.seconds,
                worker=trial.worker,
            )


def unless_empty(case_ids: Iterable[str]) -> Iterator[str] | None:
    """The cases, or None where there is none: then nobody loads a model."""
    source = iter(case_ids)
    first = next(source, None)
    return None if first is None else itertools.chain((first,), source)


class InProcessExecutor:
    """Works in this process: one case at a time in the calling thread, or several in threads.

    The models are loaded once and shared by the threads: the work must be safe for as many of them.

    Args:
        workers: cases worked on at the same time. One leaves the cores to the networks' own threads; more pay where
            decoding and writing take as long as the networks.
        attempts: tries a case in all.
    """

    def __init__(self, *, workers: int = 1, attempts: int = MOST_ATTEMPTS) -> None:
        self.workers = workers
        self._attempts = attempts

    @property
    def description(self) -> str:
        """Who works, in words."""
        return "this process" if self.workers == 1 else f"{self.workers} threads of this process"

    def run(
        self, case_ids: Iterable[str], make_work: MakeWork[R], *, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[CaseOutcome[R]]:
        """Do the work on each case, see ``CaseExecutor``."""
        wanted = unless_empty(case_ids)
        if wanted is None:
            return
        work = make_work()
        if self.workers == 1:
            yield from drive(wanted, _Alone(work), attempts=self._attempts, should_stop=should_stop)
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="medai-case") as threads:
            crew = _Threads(work, threads, self.workers)
            yield from drive(wanted, crew, attempts=self._attempts, should_stop=should_stop)


class _Alone(Generic[R]):
    """The calling thread: an interrupt from the keyboard ends a case at once, not after it."""

    def __init__(self, work: Work[R]) -> None:
        self._work = work
        self._case_id: str | None = None

    def has_room(self) -> bool:
        return self._case_id is None

    def is_busy(self) -> bool:
        return self._case_id is not None

    def begin(self, case_id: str) -> None:
        self._case_id = case_id

    def finished(self, timeout_s: float) -> list[Trial[R]]:
        if self._case_id is None:
            return []
        case_id, self._case_id = self._case_id, None
        return [tried(self._work, case_id, "this process")]


class _Threads(Generic[R]):
    """Threads of this process."""

    def __init__(self, work: Work[R], threads: ThreadPoolExecutor, workers: int) -> None:
        self._work = work
        self._threads = threads
        self._workers = workers
        self._running: set[Future[Trial[R]]] = set()

    def has_room(self) -> bool:
        return len(self._running) < self._workers

    def is_busy(self) -> bool:
        return bool(self._running)

    def begin(self, case_id: str) -> None:
        self._running.add(self._threads.submit(tried, self._work, case_id, "this process"))

    def finished(self, timeout_s: float) -> list[Trial[R]]:
        done, self._running = wait(self._running, timeout=timeout_s, return_when=FIRST_COMPLETED)
        return [future.result() for future in done]
