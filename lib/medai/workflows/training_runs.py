"""What a training run leaves on disk, so that a server can show it after the process that trained has ended.

``<study>/.medai/training/<run id>/``: ``stats.json`` (progress, replaced after every epoch), ``report.json`` (the
outcome) and, only while it runs, ``work/`` (the challenger). One run at a time a study; the lock is the operating
system's, so a killed run leaves nothing locked. What a killed or interrupted run has reached is taken over by the next
one where both are the same training (``TrainingRun.claim_work``), and removed where they are not.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from medai.errors import ConflictError, StorageError
from medai.store.atomic import plain_json, write_json
from medai.store.layout import state_folder
from medai.volume_io.atomic import disk_words

TRAINING_FOLDER = "training"
CLICK_TASK = "nodule_click"
STATS_FILE = "stats.json"
REPORT_FILE = "report.json"
_WORK_FOLDER = "work"
_JOB_FILE = "job.json"
RESUME_WITHIN_S = 24 * 3600.0
"""Older work is nobody's any more: the labels have moved on, and it takes room."""

Stage = Literal["collect", "judge champion", "train", "judge challenger", "publish", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainProgress:
    """How far a training is.

    Attributes:
        stage: what it does now.
        epoch: epochs done, 0 before the first one.
        total_epochs: epochs to do.
        loss: mean training loss of the last epoch; None where there is none.
        score: best mean score on the held-back patients known so far; None before the champion has been judged.
        measure: what the score is.
        task: the model family that trains.
        eta_s: seconds until the last epoch ends; None where that is not known.
    """

    stage: Stage
    epoch: int
    total_epochs: int
    loss: float | None = None
    score: float | None = None
    eta_s: float | None = None
    measure: str = "Dice"
    task: str = CLICK_TASK

    def describe(self) -> str:
        """One short line for a progress bar."""
        words = {
            "collect": "Reading the submitted labels",
            "judge champion": "Judging the present model",
            "train": f"Training, epoch {self.epoch} of {self.total_epochs}",
            "judge challenger": "Judging the new model",
            "publish": "Publishing",
            "done": "Done",
        }
        loss = f", loss {self.loss:.3f}" if self.stage == "train" and self.loss is not None else ""
        return words[self.stage] + loss


class TrainingRun:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_id = folder.name
        self.work_folder = folder / _WORK_FOLDER
        self.started_s = time.time()
        self.keeps_work = False

    def claim_work(self, job: dict[str, Any]) -> bool:
        """Say what this run does, take over what a dead run has reached on the same, and remove all other leftovers.

        Only the run that holds the study's lock may call it: whatever lies about is a dead run's then.

        Args:
            job: plain values; equal ones mean the same training.

        Returns:
            True where the work folder holds a state to go on from.

        Raises:
            StorageError: the work folder cannot be written.
        """
        resumed = False
        for leftover in sorted(self.folder.parent.glob(f"*/{_WORK_FOLDER}"), reverse=True):
            if not resumed and _job_of(leftover) == plain_json(job):
                self.folder.mkdir(exist_ok=True)
                leftover.rename(self.work_folder)
                resumed = True
            else:
                shutil.rmtree(leftover, ignore_errors=True)
        if not resumed:
            write_json(self.work_folder / _JOB_FILE, plain_json(job))
        return resumed

    def write_stats(self, progress: RetrainProgress) -> None:
        """Replace the run's ``stats.json``."""
        write_json(self.folder / STATS_FILE, train_stats(progress, started_s=self.started_s))

    def write_report(self, report: dict[str, Any]) -> None:
        """Write the outcome; numbers that are not finite become null."""
        write_json(self.folder / REPORT_FILE, plain_json(report))


@contextlib.contextmanager
def training_run(study_folder: Path, *, wait_s: float = 0.0) -> Iterator[TrainingRun]:
    """Start the study's one training run; its working files are removed at the end, unless ``keeps_work`` is set.

    Args:
        study_folder: the study.
        wait_s: how long another run may take to end.

    Raises:
        ConflictError: a training of this study runs already, in this process or another one.
        StorageError: the folder cannot be made.
    """
    trainings = state_folder(study_folder) / TRAINING_FOLDER
    try:
        trainings.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{trainings} cannot be made: {disk_words(error)}.") from error
    try:
        with FileLock(trainings / ".lock", timeout=wait_s):
            for leftover in trainings.glob(f"*/{_WORK_FOLDER}"):
                if _job_of(leftover) is None:
                    shutil.rmtree(leftover, ignore_errors=True)
            # To the microsecond: under the lock that is unique, and names sort by time.
            run = TrainingRun(trainings / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"))
            try:
                yield run
            finally:
                if not run.keeps_work:
                    shutil.rmtree(run.work_folder, ignore_errors=True)
    except Timeout as error:
        raise ConflictError("A training of this study runs already: wait for it, or stop it first.") from error


def train_stats(progress: RetrainProgress, *, started_s: float) -> dict[str, Any]:
    """Progress in the words of MONAI Label's ``train_stats``; never a NaN or a null, which its clients cannot read.

    Args:
        progress: how far the run is.
        started_s: when it began, seconds since 1970.
    """
    stats: dict[str, Any] = {
        "task": progress.task,
        "stage": progress.stage,
        "epoch": progress.epoch,
        "current_epoch": progress.epoch,
        "total_epochs": progress.total_epochs,
        "start_ts": int(started_s),
        "total_time": time.strftime("%H:%M:%S", time.gmtime(max(0.0, time.time() - started_s))),
        "best_metric": _finite_or(progress.score, 0.0),
        "train": {},
        "eval": {},
    }
    if progress.loss is not None and math.isfinite(progress.loss):
        stats["train"]["loss"] = progress.loss
    if progress.score is not None and math.isfinite(progress.score):
        stats["eval"][f"mean_{progress.measure.lower().replace(' ', '_')}"] = progress.score
    if progress.eta_s is not None and math.isfinite(progress.eta_s):
        stats["eta_s"] = progress.eta_s
    return stats


def latest_stats(study_folder: Path, task: str | None = None) -> dict[str, Any]:
    """The ``train_stats`` of the study's latest run, of one task or of any; empty where there was none."""
    return _read_latest(study_folder, STATS_FILE, task)


def latest_report(study_folder: Path, task: str | None = None) -> dict[str, Any]:
    """The outcome of the study's latest run that came to one, of one task or of any; empty where there is none."""
    return _read_latest(study_folder, REPORT_FILE, task)


def _read_latest(study_folder: Path, name: str, task: str | None) -> dict[str, Any]:
    """The newest file of that name among the runs; run ids begin with the time they started."""
    for path in sorted((state_folder(study_folder) / TRAINING_FOLDER).glob(f"*/{name}"), reverse=True):
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # Runs of the first releases were all of the click network and do not say so.
            of_task = content.get("task", CLICK_TASK)
        except (OSError, ValueError, AttributeError) as error:
            raise StorageError(f"{path} is damaged ({error}); it can be removed.") from error
        if task in (None, of_task):
            return content
    return {}


def _job_of(work_folder: Path) -> Any:
    """What a dead run was doing; None where that is not known or too long ago."""
    with contextlib.suppress(OSError, ValueError):
        # The folder's own time is that of the last file put into it.
        if time.time() - work_folder.stat().st_mtime < RESUME_WITHIN_S:
            return json.loads((work_folder / _JOB_FILE).read_text(encoding="utf-8"))
    return None


def _finite_or(value: float | None, otherwise: float) -> float:
    return value if value is not None and math.isfinite(value) else otherwise
