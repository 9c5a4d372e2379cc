"""The same work on Ray: processes on this machine, or on every machine of a cluster. The only module that imports Ray.

An actor is a worker: it loads the models once and then does one case after the other, on a GPU of its own where the
cluster has some, else on a core of its own. Results come back as each case ends; only the driver, the process that
called ``run``, stores anything, so that a case is stored once however often it was tried.

When an actor dies (killed, out of memory, its machine gone) its case goes to the next free one and another actor takes
its place. Ray's own restarts and retries are off: they would do a case again without the driver knowing how often.

Without an address a cluster of this machine is started for the run and ended with it: on the loopback address, behind a
token that lies in no file, without dashboard and without Ray's usage reports; it dies with this process, also by ``kill
-9``. On a cluster elsewhere, medai must be installed on every machine, and the study's folder lie at the same path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from medai.errors import InputError, MedaiError, ModelError
from medai.workflows.executors import MOST_ATTEMPTS, CaseOutcome, MakeWork, Trial, drive, tried, unless_empty

R = TypeVar("R")

OBJECT_STORE_BYTES = 80 << 20
"""The least that Ray takes: what travels are scores and outlines, kilobytes each. Scans are read by the workers."""

FOLDER_PREFIX = "medai-ray-"

SOCKET_PATH_ROOM = 36
"""Longest name of a local cluster's folder, less eight characters: sockets below it may have 107 in all."""

REPLACEMENTS = 3
"""Actors that may take the place of dead ones, per worker; where more die, the machine fails and not a case."""

TELL_WAITING_AFTER_S = 60.0

_log = logging.getLogger(__name__)


class RayExecutor:
    """Works on Ray.

    Args:
        address: "auto" or HOST:PORT of a running cluster, from one of its machines; None: RAY_ADDRESS where that is
            set, else a cluster of this machine for the time of each run.
        workers: actors; None: one a GPU where the cluster has some, else one a core.
        use_gpus: give each actor a GPU where the cluster has some.
        attempts: tries a case in all.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        use_gpus: bool = True,
        attempts: int = MOST_ATTEMPTS,
    ) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or None
        self._workers = workers
        self._use_gpus = use_gpus
        self._attempts = attempts

    @property
    def description(self) -> str:
        """Who works, in words."""
        where = f"at {self._address}" if self._address else "on this machine"
        return f"Ray {where}" if self._workers is None else f"{self._workers} workers of Ray {where}"

    def run(
        self, case_ids: Iterable[str], make_work: MakeWork[R], *, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[CaseOutcome[R]]:
        """Do the work on each case, see ``CaseExecutor``.

        Raises:
            InputError: Ray is not installed, the cluster cannot be reached or has nothing to work with.
            ModelError: no worker lives long enough to load the models.
            MedaiError: what ``make_work`` raised on a worker.
        """
        wanted = unless_empty(case_ids)
        if wanted is None:
            return
        with connected(self._address, workers=self._workers) as ray:
            workers, share = self._shares(ray)
            crew: _Actors[R] = _Actors(ray, make_work, workers=workers, share=share)
            try:
                yield from drive(wanted, crew, attempts=self._attempts, should_stop=should_stop)
            finally:
                crew.close()

    def _shares(self, ray: Any) -> tuple[int, dict[str, float]]:
        """How many actors, and what each of them takes."""
        there = ray.cluster_resources()
        gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
        on_gpus = self._use_gpus and gpus > 0
        most = min(gpus, cores) if on_gpus else cores
        if most < 1:
            raise InputError(f"The Ray cluster {self._address or ''} offers no core to work on: {dict(there)}.")
        workers = min(self._workers or most, most)
        if self._workers and workers < self._workers:
            _log.warning("%d workers were asked for; the Ray cluster has room for %d", self._workers, workers)
        return workers, {"num_cpus": 1, "num_gpus": 1 if on_gpus else 0}


@contextlib.contextmanager
def connected(address: str | None = None, *, workers: int | None = None) -> Iterator[Any]:
    """Be a driver of a Ray cluster; the one this process has joined already is used and left as it is.

    Args:
        address: of a running cluster; None starts one on this machine and ends it afterwards.
        workers: cores that a cluster of this machine offers; None: those of this process.

    Yields:
        The module ``ray``.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None and "ray" not in sys.modules:
        # Both are read when Ray is imported. The first, named for another purpose, keeps Ray to the loopback address;
        # the token keeps out other users of this machine.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "Ray is not installed: pip install 'medai[ray]', or use '--executor inprocess' on this machine."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    with _joined(ray, address) if address is not None else _local(ray, workers):
        yield ray


QUIETLY = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}


@contextlib.contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    """A driver of the cluster at an address."""
    try:
        ray.init(address=address, **QUIETLY)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"There is no Ray cluster at '{address}' ({error}). Start one with 'ray start --head', and run this on one "
            "of its machines; without --address the work is done on this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _local(ray: Any, workers: int | None) -> Iterator[None]:
    """A cluster of this machine, ended with the context."""
    folder = _cluster_folder()
    try:
        ray.init(
            address="local",
            num_cpus=workers or len(os.sched_getaffinity(0)),
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            **QUIETLY,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _cluster_folder() -> Path:
    """A folder for a cluster's sockets and logs; those that killed processes left are swept up on the way."""
    parent = Path(tempfile.gettempdir())
    prefix = f"{FOLDER_PREFIX}{os.getpid()}-"
    if len(str(parent / prefix)) > SOCKET_PATH_ROOM:
        parent = Path("/tmp")  # noqa: S108 - a folder of its own in it, with a name that cannot be foreseen
    for left in parent.glob(f"{FOLDER_PREFIX}*-*"):
        process = left.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


class _Worker(Generic[R]):
    """What an actor is: the models, loaded once, and the work on one case at a time."""

    def __init__(self, make_work: MakeWork[R]) -> None:
        self._make_work = make_work
        self._work: Callable[[str], R] | None = None
        self._name = f"{socket.gethostname()} process {os.getpid()}"

    def load(self) -> MedaiError | None:
        """Load the models; an error of the user's is given back as it is."""
        try:
            self._work = self._make_work()
        except MedaiError as error:
            return error
        return None

    def do(self, case_id: str) -> Trial[R]:
        """Do one case."""
        if self._work is None:
            raise ModelError(f"{self._name} was given case '{case_id}' before it had loaded its models.")
        return tried(self._work, case_id, self._name)


class _Actors(Generic[R]):
    """The actors of one run: those that load, those that are free, and those that work on a case."""

    def __init__(self, ray: Any, make_work: MakeWork[R], *, workers: int, share: dict[str, float]) -> None:
        self._ray = ray
        # A replacement is made by the same class: what the work needs is sent to the cluster once.
        self._actor_class = ray.remote(max_restarts=0, max_task_retries=0, **share)(_Worker)
        self._make_work = ray.put(make_work)
        self._loading: dict[Any, Any] = {}
        self._free: list[Any] = []
        self._running: dict[Any, tuple[Any, str]] = {}
        self._replacements = REPLACEMENTS * workers
        self._waits_since = time.monotonic()
        self._has_told = False
        for _ in range(workers):
            self._hire()

    def has_room(self) -> bool:
        return bool(self._free)

    def is_busy(self) -> bool:
        return bool(self._running)

    def begin(self, case_id: str) -> None:
        actor = self._free.pop(0)
        self._running[actor.do.remote(case_id)] = (actor, case_id)

    def finished(self, timeout_s: float) -> list[Trial[R]]:
        """Cases that have ended; actors that have loaded, or died, are looked after on the way."""
        pending = [*self._running, *self._loading]
        if not pending and not self._free:
            raise ModelError(
                "All workers have died again and again, and there is none left: look at the memory of the machines. "
                "What was finished is kept; asking again goes on from there."
            )
        ready, _ = self._ray.wait(pending, num_returns=1, timeout=timeout_s) if pending else ([], [])
        if ready:
            ready, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        self._tell_waiting()
        trials = []
        for reference in ready:
            if reference in self._loading:
                self._loaded(reference)
            else:
                trials.append(self._ended(reference))
        return trials

    def close(self) -> None:
        """End every actor; what one of them works on is lost."""
        actors = [*self._loading.values(), *self._free, *(actor for actor, _ in self._running.values())]
        for actor in actors:
            self._fire(actor)
        self._loading, self._free, self._running = {}, [], {}

    def _hire(self) -> None:
        actor = self._actor_class.remote(self._make_work)
        self._loading[actor.load.remote()] = actor

    def _fire(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def _replace(self, actor: Any) -> None:
        self._fire(actor)
        if self._replacements > 0:
            self._replacements -= 1
            self._hire()

    def _loaded(self, reference: Any) -> None:
        actor = self._loading.pop(reference)
        try:
            refused = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise ModelError(f"A worker could not load its models: {error.cause!r}.") from error
        except self._ray.exceptions.RayError as error:
            _log.warning("A worker died while it loaded its models: %s", _first_line(error))
            self._replace(actor)
            return
        if refused is not None:
            raise refused
        self._free.append(actor)

    def _ended(self, reference: Any) -> Trial[R]:
        actor, case_id = self._running.pop(reference)
        try:
            trial: Trial[R] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            # Not the work's own exceptions, which are in the trial: its result could not be sent, say.
            self._free.append(actor)
            return Trial(
                case_id=case_id, error=f"{type(error.cause).__name__}: see the log", is_fault=True, trace=str(error)
            )
        except self._ray.exceptions.RayError as error:
            _log.warning("The worker of %s died: %s", case_id, _first_line(error))
            self._replace(actor)
            return Trial(case_id=case_id, error="its worker died", is_fault=True)
        self._free.append(actor)
        return trial

    def _tell_waiting(self) -> None:
        if self._free or self._running or self._has_told:
            return
        if time.monotonic() - self._waits_since > TELL_WAITING_AFTER_S:
            self._has_told = True
            _log.warning("No worker is ready yet: its models load slowly, or the cluster is busy with other work")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
