"""MONAI Label's active-learning strategies over ours: choose, reserve, and say where the scan is.

Each call is one step under the reservations' lock, so that two requests at once, in any process, never get one case.
Nothing is written into the study's index: who was served what lives in the reservations.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from medai.active_learning.strategies import STRATEGIES, Pool
from medai.active_learning.strategies import Strategy as Choice
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.study import FINAL, StudyStore

ANONYMOUS = "user-xyz"
"""What the Slicer plugin calls an annotator who gave no name."""


class ReservingStrategy(Strategy):  # type: ignore[misc]  # monailabel's classes are untyped
    """One of our strategies behind MONAI Label's interface."""

    def __init__(
        self,
        choice: Choice,
        *,
        study: StudyStore,
        reservations: Reservations,
        scores: ScoreStore,
        rng: np.random.Generator,
        rng_lock: threading.Lock,
        share_paths: bool,
    ) -> None:
        super().__init__(choice.description)
        self._choice = choice
        self._study = study
        self._reservations = reservations
        self._scores = scores
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
            shared, ``path``; None where every open case is taken or done.
        """
        client_id = str(request.get("client_id") or ANONYMOUS)
        tag = str(request.get("label_tag") or FINAL)
        case_id = self._reservations.choose(
            client_id, open_cases=lambda: self._study.unlabeled(tag), select=self._select
        )
        return None if case_id is None else self._reply(case_id)

    def _select(self, case_ids: Sequence[str]) -> str | None:
        pool = Pool(case_ids=tuple(case_ids), scores=self._scores.table())
        with self._rng_lock:
            return self._choice.select(pool, self._rng)

    def _reply(self, case_id: str) -> dict[str, Any]:
        info = self._study.image_info(case_id)
        reply = {"id": case_id, "name": info["name"], "ts": info["ts"]}
        # Without a checksum: hashing 150 MB is most of a second, and HTTP over TCP has its own.
        return {**reply, "path": str(self._study.image_path(case_id))} if self._share_paths else reply


def build_strategies(
    study: StudyStore,
    reservations: Reservations,
    scores: ScoreStore,
    *,
    rng: np.random.Generator,
    share_paths: bool = True,
) -> dict[str, Strategy]:
    """All strategies by name, for ``MONAILabelApp.init_strategies``.

    Args:
        study: where the cases are.
        reservations: who has which.
        scores: what ``uncertainty`` goes by.
        rng: what ``random`` draws from.
        share_paths: tell clients the scan's path, which the plugin opens directly where that file exists on its own
            machine. Right where client and server share the disk; with a remote client the same path might be another
            patient's scan.
    """
    rng_lock = threading.Lock()
    return {
        name: ReservingStrategy(
            choice,
            study=study,
            reservations=reservations,
            scores=scores,
            rng=rng,
            rng_lock=rng_lock,
            share_paths=share_paths,
        )
        for name, choice in STRATEGIES.items()
    }
