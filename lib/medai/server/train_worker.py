"""One training, in a process of its own: ``python -m medai.server.train_worker``.

The first line on standard input is the job (JSON, ``TrainJob``). The end of standard input means stop: the server
closes it to stop a training, and the operating system closes it when the server dies, however it dies. The process
then stops at the next step; if it does not within ``GRACE_S``, it ends itself. Nothing is published by halves: see
``medai.registry.model_registry``. Where ``STOP_WORD`` came before the end somebody wanted the stop and nothing is kept;
without it the server is gone, and what was reached is kept for the training that the next server begins.

Progress goes to the study's folder (``medai.workflows.training_runs``), words go to standard output. Exit code 0:
trained (published or refused by the gate), 2: cannot be done and says why, 3: stopped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field

from medai.errors import CancelledByUserError, MedaiError
from medai.workflows.families import CLICK_TASK, family_of

EXIT_DONE = 0
EXIT_REFUSED = 2
EXIT_STOPPED = 3
GRACE_S = 20.0
STOP_WORD = "stop"
NICENESS = 10
"""The annotator's clicks come first."""


class TrainJob(BaseModel):
    """What a training process is told: everything it needs, nothing from the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: Path
    task: str = CLICK_TASK
    epochs: int = Field(ge=1, le=10_000)
    device: str
    seed: int = Field(ge=0)
    keep_models: int = Field(default=5, ge=2)
    keep_models_mb: int = Field(default=0, ge=0)
    tracking: str = "off"
    processes: int = Field(default=1, ge=1)


def main(source: IO[str] = sys.stdin) -> int:
    """Train as told on ``source``; returns the exit code."""
    # What the annotator reads is said by ``_say``; the engines' own lines are not for them.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    job = TrainJob.model_validate(json.loads(source.readline()))
    os.nice(NICENESS)
    stop, for_good = threading.Event(), threading.Event()
    threading.Thread(target=_watch, args=(source, stop, for_good), name="watch", daemon=True).start()
    try:
        return _train(job, stop, for_good)
    except CancelledByUserError as error:
        _say(str(error))
        return EXIT_STOPPED
    except MedaiError as error:
        _say(str(error))
        return EXIT_REFUSED


def _train(job: TrainJob, stop: threading.Event, for_good: threading.Event) -> int:
    from medai.store.study import StudyStore
    from medai.workflows.annotation_history import recorded_annotations
    from medai.workflows.found_labels import look_for_labels
    from medai.workflows.models import open_registry
    from medai.workflows.retrain import RetrainConfig, RetrainProgress, retrain
    from medai.workflows.run_tracking import trackers_for

    said = ""

    def tell(progress: RetrainProgress) -> None:
        nonlocal said
        if progress.describe() != said:
            said = progress.describe()
            _say(said)

    study = StudyStore(job.studies)
    look_for_labels(study, should_stop=stop.is_set)
    report = retrain(
        study,
        open_registry(job.studies, keep=job.keep_models, keep_mb=job.keep_models_mb or None),
        RetrainConfig(epochs=job.epochs, device=job.device, seed=job.seed, processes=job.processes),
        on_progress=tell,
        should_stop=stop.is_set,
        family=family_of(job.task),
        tracker=trackers_for(job.studies, job.tracking),
        annotation_of=recorded_annotations(job.studies),
        # The training of a server that was killed may still be on its way out.
        wait_s=GRACE_S + 5.0,
        is_interrupted=lambda: not for_good.is_set(),
    )
    if report.resumed:
        _say("Went on from an interrupted training")
    _say(f"{'Published' if report.published else 'Not published'}: {report.reason}")
    return EXIT_DONE


def _watch(source: IO[str], stop: threading.Event, for_good: threading.Event) -> None:
    """Ask for a stop when the server closes its end; leave for good where that is not heeded."""
    if STOP_WORD in source.read():
        for_good.set()
    stop.set()
    overdue = threading.Timer(GRACE_S, os._exit, (EXIT_STOPPED,))
    overdue.daemon = True
    overdue.start()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
