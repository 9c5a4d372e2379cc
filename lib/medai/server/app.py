"""The app that MONAI Label loads: what is served, by explicit dicts, over one study.

``apps/medai/main.py`` re-exports ``MedaiApp``; MONAI Label takes the first class whose direct base is named
``MONAILabelApp``, so there is exactly one here. Its constructor is the only place where ``conf`` strings are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask

import medai
from medai.errors import InputError, NotFoundError
from medai.registry.model_registry import ModelRegistry
from medai.server.datastore import MedaiDatastore
from medai.server.model_shelf import ModelShelf
from medai.server.settings import ServerSettings
from medai.store.layout import models_folder, state_folder
from medai.store.study import StudyStore

logger = logging.getLogger(__name__)

APP_LABELS = ("nodule",)
"""The empty segments that the Slicer plugin makes for a new scan, and the key by which it finds the task that runs by
itself on Next Sample: the first one in ``info.models`` with this label."""


class MedaiApp(MONAILabelApp):  # type: ignore[misc]  # monailabel's classes are untyped
    """Lung-nodule annotation over one study folder.

    Args:
        app_dir: folder of ``main.py``; nothing is written there.
        studies: study folder in MONAI Label's local layout.
        conf: ``--conf`` strings, see ``ServerSettings``.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None) -> None:
        self.options = ServerSettings.from_conf(conf)
        if studies.startswith(("http://", "https://")):
            raise InputError(f"medai serves a folder of scans; '{studies}' is an address, which is not supported yet.")
        self.study = StudyStore(Path(studies))
        self.state_folder = state_folder(self.study.folder)
        self.registry = ModelRegistry(models_folder(self.study.folder))
        self.shelf = ModelShelf(self.registry, {})
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf={key: str(value) for key, value in (conf or {}).items()},
            name="medai",
            description="Lung-nodule annotation on chest CT: propose, outline by click, retrain.",
            version=medai.__version__,
            labels=list(APP_LABELS),
        )

    def init_datastore(self) -> MedaiDatastore:
        """Our store behind MONAI Label's interface."""
        return MedaiDatastore(self.study)

    def init_infers(self) -> dict[str, InferTask]:
        """What is served, in the order in which the plugin lists it; the first runs by itself on Next Sample."""
        return {}

    def init_trainers(self) -> dict[str, Any]:
        """One trainer; the plugin shows the progress of the first."""
        return {}

    def init_strategies(self) -> dict[str, Any]:
        """How the next case is chosen."""
        return {}

    def on_init_complete(self) -> None:
        """Nothing: sessions are cleaned and models warmed by the server's own tasks, not by a polling thread."""

    def infer_task(self, model: str) -> InferTask:
        """The task of that name.

        Raises:
            NotFoundError: there is none; the message lists what there is.
        """
        task = self._infers.get(model)
        if task is None:
            raise NotFoundError(f"There is no model '{model}'. The server has {', '.join(self._infers)}.")
        return task

    @property
    def strategies(self) -> Mapping[str, Any]:
        """Strategies by name."""
        strategies: dict[str, Any] = self._strategies
        return strategies

    @property
    def process_id(self) -> int:
        """The server's process."""
        return os.getpid()
