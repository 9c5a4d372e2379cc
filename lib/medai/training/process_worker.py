"""One of several processes that train one click network: ``torchrun … -m medai.training.process_worker JOB``.

``JOB`` is the ``job.json`` that ``medai.training.several_processes`` writes, beside the data set. The process of rank 0
writes there what it has reached (``told.jsonl``) and how it ended (``result.json``). All stop at the next batch where
the file ``stop`` appears, or where the process that began the training on this machine is gone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from medai.errors import MedaiError
from medai.training.click_trainer import EpochReport, train_click_network
from medai.training.several_processes import (
    RESULT_FILE,
    STOP_FILE,
    TOLD_FILE,
    outcome_of,
    plain_report,
    read_job,
)
from medai.volume_io.atomic import atomic_path

_EVERY_S = 0.5
"""How often the fraction that is done is told at most."""
NICENESS = 10


def main(job_path: Path) -> int:
    """Train as told; exit code 0 also where the training was refused, which the result says."""
    os.nice(NICENESS)
    folder = job_path.parent
    leads = int(os.environ.get("RANK", "0")) == 0
    dataset, config, job = read_job(job_path)
    telling = _Telling(folder / TOLD_FILE)
    try:
        result = train_click_network(
            dataset,
            config,
            start_from=Path(job["start_from"]) if job["start_from"] else None,
            output_folder=Path(job["output_folder"]),
            on_epoch=telling.epoch,
            on_iteration=telling.iteration,
            should_stop=lambda: (folder / STOP_FILE).exists() or not _is_alive(job["started_by"]),
            resume=bool(job["resume"]),
        )
        outcome: dict[str, Any] = outcome_of(result)
    except MedaiError as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    if leads:
        with atomic_path(folder / RESULT_FILE) as temporary:
            temporary.write_text(json.dumps(outcome), encoding="utf-8")
    _leave()
    return 0


class _Telling:
    """Lines for the process that began the training."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told_s = 0.0

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done."""
        self._tell(plain_report(report))

    def iteration(self, fraction: float) -> None:
        """A batch is done."""
        if time.monotonic() - self._told_s > _EVERY_S:
            self._told_s = time.monotonic()
            self._tell({"fraction": fraction})

    def _tell(self, record: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")


def _is_alive(process_id: int | None) -> bool:
    """Whether a process of this machine still runs; None: nobody waits, as on a second machine."""
    if process_id is None:
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _leave() -> None:
    """Part from the other processes."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
