"""The trainers as MONAI Label lists them: settings in the plugin's table, progress in the plugin's bar.

One trainer a model family (``medai.workflows.families``); one training at a time a study, whichever family it is of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import ValidationError

from medai.errors import InputError, StorageError
from medai.server.background import Trainings
from medai.server.settings import ServerSettings
from medai.server.train_worker import TrainJob
from medai.workflows.families import CLASSIFICATION_TASK, CLICK_TASK, DETECTION_TASK
from medai.workflows.run_tracking import resolve_tracking
from medai.workflows.training_runs import RetrainProgress, latest_stats, train_stats

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """What a trainer is listed as.

    Attributes:
        task: the model family.
        description: what it learns from, for the annotator.
        leads: True for the first trainer: the plugin's bar and Dice show its figures, so it tells of any training that
            runs.
    """

    task: str
    description: str
    leads: bool = False


TRAINERS = (
    Trainer(
        task=CLICK_TASK,
        description="Learns outlines from the submitted labels; a model that is no better on held-back patients is "
        "dropped",
        leads=True,
    ),
    Trainer(
        task=DETECTION_TASK,
        description="Learns to find nodules from the submitted labels and boxes; every nodule of a scan must be in its "
        "label",
    ),
    Trainer(
        task=CLASSIFICATION_TASK,
        description="Learns malignancy from ratings typed into the submitted segments' names, such as 'malignancy 4'",
    ),
)


_TAKEN = frozenset({"model", "max_epochs", "epochs", "device", "client_id"})
_MOST_NAMED = 8


class NoduleTrainTask(TrainTask):  # type: ignore[misc]  # monailabel's classes are untyped
    """Fine-tunes one family's network on the submitted labels; a better one answers the next request.

    Args:
        trainer: which family, and how it is listed.
        studies: the study folder.
        options: the app's settings: default epochs, device, seed.
        trainings: runs it in a process.
        told: what else the first trainer's figures say: the policy, and how many trainings wait.
    """

    def __init__(
        self,
        trainer: Trainer,
        studies: Path,
        options: ServerSettings,
        trainings: Trainings,
        told: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        super().__init__(trainer.description)
        self._trainer = trainer
        self._studies = studies
        self._options = options
        self._trainings = trainings
        self._told = told

    def config(self) -> dict[str, Any]:
        """What the plugin offers: a number becomes a text field, a list a combo box with the first chosen."""
        devices = [self._options.device, *(name for name in DEVICES if name != self._options.device)]
        return {"max_epochs": self._options.train_epochs, "device": devices}

    def info(self) -> dict[str, Any]:
        """Description, settings and labels."""
        return {"description": self.description, "labels": ["nodule"], "config": self.config()}

    def stats(self) -> dict[str, Any]:
        """Progress of the family's latest training; the first trainer's while any other runs.

        The plugin shows 0 % as long as ``total_time`` says something, so that is left to a training that has ended.
        """
        return {**self._progress(), **(self._told() if self._trainer.leads else {})}

    def _progress(self) -> dict[str, Any]:
        running = self._trainings.running_job()
        if running is None or (running[0].task != self._trainer.task and not self._trainer.leads):
            return self._latest(self._trainer.task)
        job, began_s = running
        stats = self._latest(job.task)
        if stats.get("start_ts", 0) < began_s:
            # Nothing of this run is on disk yet: without figures the plugin's bar stands at 100 %.
            progress = RetrainProgress(stage="collect", epoch=0, total_epochs=job.epochs, task=job.task)
            stats = train_stats(progress, started_s=began_s)
        return {**stats, "total_time": ""}

    def _latest(self, task: str) -> dict[str, Any]:
        try:
            return latest_stats(self._studies, task)
        except StorageError as error:
            # A damaged record of a past training must not take the whole of /info/ with it.
            logger.warning("%s", error)
            return {}

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
        tracking = resolve_tracking(self._options.tracking)
        epochs = request.get("max_epochs", request.get("epochs", self._options.train_epochs))
        try:
            return TrainJob(
                studies=self._studies,
                task=self._trainer.task,
                epochs=epochs,
                device=device,
                seed=self._options.seed,
                keep_models=self._options.keep_models,
                keep_models_mb=self._options.keep_models_mb,
                tracking=tracking,
                processes=self._options.train_processes if self._trainer.task == CLICK_TASK else 1,
            )
        except ValidationError as error:
            raise InputError(f"'max_epochs' is {epochs!r}; it takes a whole number from 1 to 10000.") from error

    def unused_words(self, request: Mapping[str, Any]) -> str:
        """What of a client's request a training does not go by, a misspelt name say; "" where there is nothing."""
        unused = sorted(ascii(name)[1:-1][:40] for name in request.keys() - _TAKEN)
        more = f" and {len(unused) - _MOST_NAMED} more" if len(unused) > _MOST_NAMED else ""
        named = ", ".join(unused[:_MOST_NAMED]) + more
        return f"Not used here: {named}. A training takes max_epochs and device" if unused else ""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train and wait for the end, as MONAI Label's own callers expect; returns the final ``train_stats``."""
        _, ended = self._trainings.start(self.job(request), dict(request))
        ended.result()
        return self.stats()
