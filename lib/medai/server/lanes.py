"""Where blocking work runs, so that no request waits behind another's inference or training.

The event loop runs no blocking call. Every endpoint hands its work to one of five pools of threads:

- ``quick``: information, next sample, small reads and writes of the index. Never waits for a network or a decoder.
- ``transfer``: uploads and downloads: checking and storing scans and labels, archives.
- ``click``: interactive inference. Whole scans cannot get in front of it.
- ``scan``: whole-scan inference, scribbles, batches. Long, first come first served.
- ``login``: fetching a token from the hospital's realm, which may be slow or away.

A lane takes a bounded number of waiting requests and refuses more with 429. Threads of one lane share nothing with
those of another but the locks of the library code they call: loading a model (one lock a task), decoding a scan (one
lock a scan) and the study's write lock, which is held for milliseconds. Lock order: model, then scan, then study.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from http import HTTPStatus
from typing import ParamSpec, TypeVar

from fastapi import HTTPException

P = ParamSpec("P")
T = TypeVar("T")

QUICK_WORKERS = 8
TRANSFER_WORKERS = 4
LOGIN_WORKERS = 4
LONGEST_QUEUE = 64
"""Requests that may wait in a lane; an annotation team is smaller, a broken client is not."""


class Lane(StrEnum):
    """The five pools."""

    QUICK = "quick"
    TRANSFER = "transfer"
    CLICK = "click"
    SCAN = "scan"
    LOGIN = "login"


class _Pool:
    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.workers = workers
        self.executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix=f"medai-{name}")
        self._lock = threading.Lock()
        self._inside = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._inside >= self.workers + LONGEST_QUEUE:
                raise HTTPException(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"{self._inside} requests of this kind ('{self.name}') are waiting already: try again later.",
                )
            self._inside += 1
        try:
            future = self.executor.submit(call)
        except RuntimeError:
            self._left(None)
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "The server is shutting down.") from None
        future.add_done_callback(self._left)
        return future

    def _left(self, _: object) -> None:
        with self._lock:
            self._inside -= 1

    @property
    def inside(self) -> int:
        return self._inside


class Lanes:
    """The thread pools of one server process."""

    def __init__(self, *, click_workers: int, scan_workers: int) -> None:
        self._pools = {
            Lane.QUICK: _Pool(Lane.QUICK, QUICK_WORKERS),
            Lane.TRANSFER: _Pool(Lane.TRANSFER, TRANSFER_WORKERS),
            Lane.CLICK: _Pool(Lane.CLICK, click_workers),
            Lane.SCAN: _Pool(Lane.SCAN, scan_workers),
            Lane.LOGIN: _Pool(Lane.LOGIN, LOGIN_WORKERS),
        }

    async def run(self, lane: Lane, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function in a lane; what it raises is raised here.

        Raises:
            HTTPException: 429 where the lane's queue is full, 503 while shutting down.
        """
        return await asyncio.wrap_future(self.submit(lane, function, *args, **kwargs))

    def submit(self, lane: Lane, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a blocking function in a lane, for callers that are threads themselves."""
        return self._pools[lane].submit(lambda: function(*args, **kwargs))

    def waiting(self) -> dict[str, int]:
        """Requests running or waiting in each lane."""
        return {str(lane): pool.inside for lane, pool in self._pools.items()}

    def close(self) -> None:
        """Let running work finish, drop what waits."""
        for pool in self._pools.values():
            pool.executor.shutdown(wait=False, cancel_futures=True)
