"""What a label costs in this study: learnt from how long its annotators took."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from medai.active_learning.cost import AnnotationCost, fit_cost
from medai.domain.annotation import Annotation
from medai.errors import StorageError
from medai.store.study import FINAL

logger = logging.getLogger(__name__)

REFIT_AFTER = 5
"""Labels after which the cost is learnt anew: one more changes it little."""


def cost_of(annotations: Iterable[Annotation]) -> AnnotationCost:
    """Learn the cost from a history; labels whose time is not known, and quarantined ones, say nothing."""
    timed = [a for a in annotations if a.seconds_spent and a.tag == FINAL and not a.quarantine_reason]
    return fit_cost(
        [(a.seconds_spent or 0.0) / 60.0 for a in timed],
        [float(a.nodules) for a in timed],
        [a.volume_ml for a in timed],
    )


class LearntCost:
    """The cost in one study, learnt anew as labels come in.

    Threads: any; one lock, held while the history is read. Asking for the present cost waits for nothing.

    Args:
        history: gives every annotation of the study.
    """

    def __init__(self, history: Callable[[], Iterable[Annotation]]) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._cost: AnnotationCost | None = None
        self._learnt_from: int | None = None

    @property
    def present(self) -> AnnotationCost | None:
        """The cost as it is known by now; None before anything was learnt."""
        return self._cost

    def learn(self, labels: int) -> None:
        """Learn it anew where ``REFIT_AFTER`` labels have come in since.

        Args:
            labels: how many there are now.
        """
        with self._lock:
            if self._learnt_from is not None and 0 <= labels - self._learnt_from < REFIT_AFTER:
                return
            try:
                self._cost = cost_of(self._history())
            except StorageError as error:
                logger.warning("What a label costs is not learnt from the history: %s", error)
                return
            self._learnt_from = labels
