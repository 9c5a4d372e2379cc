"""Loaded networks, one version a task, replaced when a better one is published.

Every request asks the registry which version is champion (one ``stat``). Where that is not the loaded one, the request
loads it; others of the task wait for it, those of other tasks do not. A version that cannot be loaded leaves the former
one answering. Lock: one a task, held while its network loads; nothing else is locked inside it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from medai.errors import ModelError, NotFoundError
from medai.registry.version_files import ModelVersion

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ModelSource(Protocol):
    """Says which version answers; ``registry.model_registry.ModelRegistry`` is one."""

    def champion(self, task: str) -> ModelVersion:
        """The champion of a task, or ModelError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(Generic[T]):
    """A network ready to answer, and which one it is."""

    version_id: str
    model: T


class ModelShelf:
    """Champions, loaded.

    Args:
        registry: says which version answers.
        loaders: task to the function that loads a version of it.
    """

    def __init__(self, registry: ModelSource, loaders: Mapping[str, Callable[[ModelVersion], Any]]) -> None:
        self.registry = registry
        self._loaders = dict(loaders)
        self._locks = {task: threading.Lock() for task in loaders}
        self._loaded: dict[str, LoadedModel[Any]] = {}
        self._refused: dict[str, str] = {}

    def get(self, task: str) -> LoadedModel[Any]:
        """The champion of a task, loaded now if need be.

        Raises:
            ModelError: there are no usable weights and none were loaded before.
        """
        if task not in self._loaders:
            raise NotFoundError(f"No network of task '{task}' is served; there are {', '.join(self._loaders)}.")
        version = self.registry.champion(task)
        loaded = self._loaded.get(task)
        if loaded and version.version_id in (loaded.version_id, self._refused.get(task)):
            return loaded
        with self._locks[task]:
            loaded = self._loaded.get(task)
            if loaded and version.version_id in (loaded.version_id, self._refused.get(task)):
                return loaded
            return self._load(task, version, loaded)

    def get_loaded(self, task: str) -> LoadedModel[Any] | None:
        """The champion of a task where some version of it is loaded already, else None: waits for no first load."""
        return self.get(task) if task in self._loaded else None

    def version_id(self, task: str) -> str:
        """The champion's version, "" where there is none; loads nothing."""
        try:
            return self.registry.champion(task).version_id
        except ModelError:
            return ""

    def _load(self, task: str, version: ModelVersion, former: LoadedModel[Any] | None) -> LoadedModel[Any]:
        try:
            model = self._loaders[task](version)
        except ModelError:
            if former is None:
                raise
            logger.exception(
                "Version %s of '%s' cannot be loaded: %s answers on", version.version_id, task, former.version_id
            )
            self._refused[task] = version.version_id
            return former
        logger.info("Loaded %s of '%s'", version.version_id, task)
        self._loaded[task] = LoadedModel(version_id=version.version_id, model=model)
        return self._loaded[task]
