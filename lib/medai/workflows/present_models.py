"""The present champions of a study, loaded once by a worker that may outlive them.

A run over a large study takes hours, in which better models are published: a worker asks which ones answer before each
case (a ``stat`` a task) and loads anew when they have changed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from medai.domain import Prediction, Volume
from medai.errors import ModelError
from medai.store.study import StudyStore
from medai.workflows.infer_case import Registry, load_pipeline
from medai.workflows.models import open_registry
from medai.workflows.score_case import scored_versions

P = TypeVar("P")

_log = logging.getLogger(__name__)


class PresentModels(Generic[P]):
    """The champions as one loaded thing; any thread.

    Args:
        registry: says which versions answer.
        load: loads them.

    Raises:
        ModelError: they cannot be loaded, when it is made. Later ones that cannot leave the former ones answering.
    """

    def __init__(self, registry: Registry, load: Callable[[], P]) -> None:
        self._registry = registry
        self._load = load
        self._lock = threading.Lock()
        self._loaded_for = scored_versions(registry)
        self._loaded = load()

    def get(self) -> P:
        """The present ones."""
        wanted = scored_versions(self._registry)
        with self._lock:
            if wanted != self._loaded_for:
                self._loaded_for = wanted
                try:
                    self._loaded = self._load()
                except ModelError as error:
                    _log.warning("A new champion cannot be loaded, the former one goes on: %s", error)
            return self._loaded


def read_case(study: StudyStore, case_id: str) -> Volume:
    """Read a case's scan from its file, past the scan cache, whose room is the annotators'."""
    from medai.volume_io.plausibility import read_chest_ct

    return replace(read_chest_ct(study.image_path(case_id)), case_id=case_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePredictor:
    """Makes a worker that predicts whole scans of a study: what executors are given. Picklable.

    Attributes:
        studies: the study folder, as the worker sees it.
        device: see ``medai.networks.engine.load_engine``.
    """

    studies: Path
    device: str = "auto"

    def __call__(self) -> Callable[[str], Prediction]:
        """Load the present champions."""
        from medai.store.layout import engines_folder

        study, registry = StudyStore(self.studies, read_only=True), open_registry(self.studies)
        models = PresentModels(
            registry, lambda: load_pipeline(registry, device=self.device, cache_folder=engines_folder())
        )
        return lambda case_id: models.get().predict(read_case(study, case_id))
