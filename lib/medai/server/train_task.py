"""The trainer as MONAI Label lists it: its settings in the plugin's table, its progress in the plugin's bar."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import ValidationError

from medai.errors import InputError, StorageError
from medai.server.background import TIME_FORMAT, Trainings
from medai.server.settings import ServerSettings
from medai.server.train_worker import TrainJob
from medai.workflows.training_runs import RetrainProgress, latest_stats, train_stats

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")


class NoduleTrainTask(TrainTask):  # type: ignore[misc]  # monailabel's classes are untyped
    """Fine-tunes the click network on the submitted labels; a better one answers the next click.

    Args:
        studies: the study folder.
        options: the app's settings: default epochs, device, seed.
        trainings: runs it in a process.
    """

    def __init__(self, studies: Path, options: ServerSettings, trainings: Trainings) -> None:
        super().__init__("Learns from the submitted labels; a model that is no better on held-back patients is dropped")
        self._studies = studies
        self._options = options
        self._trainings = trainings

    def config(self) -> dict[str, Any]:
        """What the plugin offers: a number becomes a text field, a list a combo box with the first chosen."""
        devices = [self._options.device, *(name for name in DEVICES if name != self._options.device)]
        return {"max_epochs": self._options.train_epochs, "device": devices}

    def info(self) -> dict[str, Any]:
        """Description, settings and labels."""
        return {"description": self.description, "labels": ["nodule"], "config": self.config()}

    def stats(self) -> dict[str, Any]:
        """Progress of the latest training.

        The plugin shows 0 % as long as ``total_time`` says something, so that is left to a training that has ended.
        """
        try:
            stats = latest_stats(self._studies)
        except StorageError as error:
            # A damaged record of a past training must not take the whole of /info/ with it.
            logger.warning("%s", error)
            stats = {}
        running = self._trainings.running()
        if running is None:
            return stats
        began_s = datetime.strptime(running["start_ts"], TIME_FORMAT).astimezone().timestamp()
        if stats.get("start_ts", 0) < began_s:
            # Nothing of this run is on disk yet: without figures the plugin's bar stands at 100 %.
            progress = RetrainProgress(stage="collect", epoch=0, total_epochs=self.job(running["request"]).epochs)
            stats = train_stats(progress, started_s=began_s)
        return {**stats, "total_time": ""}

    def job(self, request: Mapping[str, Any]) -> TrainJob:
        """Read a client's request.

        Raises:
            InputError: epochs or device cannot be used.
        """
        device = request.get("device") or self._options.device
        # Stock clients send the devices of stock trainers, such as "cuda:0".
        device = device[0] if isinstance(device, list) and device else device
        device = "cuda" if str(device).startswith("cuda:") else device
        if device not in DEVICES:
            raise InputError(f"'device' is {device!r}; a training runs on one of {', '.join(DEVICES)}.")
        epochs = request.get("max_epochs", request.get("epochs", self._options.train_epochs))
        try:
            return TrainJob(studies=self._studies, epochs=epochs, device=device, seed=self._options.seed)
        except ValidationError as error:
            raise InputError(f"'max_epochs' is {epochs!r}; it takes a whole number from 1 to 10000.") from error

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train and wait for the end, as MONAI Label's own callers expect; returns the final ``train_stats``."""
        _, ended = self._trainings.start(self.job(request), dict(request))
        ended.result()
        return self.stats()
