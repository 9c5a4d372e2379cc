"""MONAI Label's active-learning strategies over ours: choose, reserve, and say where the scan is and why it comes next.

Each call is one step under the reservations' lock, so that two requests at once, in any process, never get one case.
Nothing is written into the study's index: who was served what lives in the reservations.

Threads: any. One lock guards the generator, taken inside the reservations' lock.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from medai.active_learning.strategies import STRATEGIES, Pool
from medai.active_learning.strategies import Strategy as Choice
from medai.store.clients import ANONYMOUS
from medai.store.study import FINAL
from medai.workflows.case_queue import CaseQueue

SHOWN_REASON = 100
"""Letters of a reason that 3D Slicer shows behind the case's name."""


class ReservingStrategy(Strategy):  # type: ignore[misc]  # monailabel's classes are untyped
    """One of our strategies behind MONAI Label's interface."""

    def __init__(
        self,
        name: str,
        choice: Choice,
        *,
        queue: CaseQueue,
        rng: np.random.Generator,
        rng_lock: threading.Lock,
        share_paths: bool,
    ) -> None:
        super().__init__(choice.description)
        self._name = name
        self._choice = choice
        self._queue = queue
        self._rng = rng
        self._rng_lock = rng_lock
        self._share_paths = share_paths

    def __call__(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any] | None:
        """Choose and reserve the next case.

        Args:
            request: ``client_id`` (who asks) and ``label_tag`` (what a finished case has; ``final``) are read.
            datastore: not needed: the study store is asked directly.

        Returns:
            ``id``, ``name`` (file name, by whose ending 3D Slicer picks its reader), ``ts`` and, where paths are
            shared, ``path``; ``strategy``, ``reason`` in words, ``expected_minutes`` and ``skipped_before``, which the
            plugin passes over, and ``PatientID``, which it names the volume by: the case and why it comes next. None
            where every open case is taken or done.
        """
        given = self._queue.next_case(
            str(request.get("client_id") or ANONYMOUS), self._choose, tag=str(request.get("label_tag") or FINAL)
        )
        if given is None:
            return None
        study = self._queue.study
        info = study.image_info(given.case_id)
        shown = given.reason.split(";")[0].replace("–", "-")[:SHOWN_REASON]
        reply = {
            "id": given.case_id,
            "name": info["name"],
            "ts": info["ts"],
            "PatientID": f"{given.case_id} ({shown})",
            "strategy": self._name,
            "reason": given.reason,
            "expected_minutes": None if given.expected_minutes is None else round(given.expected_minutes, 1),
            "skipped_before": given.skipped_before,
        }
        # Without a checksum: hashing 150 MB is most of a second, and HTTP over TCP has its own.
        return {**reply, "path": str(study.image_path(given.case_id))} if self._share_paths else reply

    def _choose(self, pool: Pool) -> str | None:
        with self._rng_lock:
            return self._choice.select(pool, self._rng)


def build_strategies(queue: CaseQueue, *, rng: np.random.Generator, share_paths: bool = True) -> dict[str, Strategy]:
    """All strategies by name, for ``MONAILabelApp.init_strategies``.

    Args:
        queue: what they choose from.
        rng: what they draw from.
        share_paths: tell clients the scan's path, which the plugin opens directly where that file exists on its own
            machine. Right where client and server share the disk; with a remote client the same path might be another
            patient's scan.
    """
    rng_lock = threading.Lock()
    return {
        name: ReservingStrategy(name, choice, queue=queue, rng=rng, rng_lock=rng_lock, share_paths=share_paths)
        for name, choice in STRATEGIES.items()
    }
