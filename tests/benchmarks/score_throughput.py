"""How many cases a minute are scored: by one and two workers, in this process and on Ray. No test: it measures.

``PYTHONPATH=lib python -m tests.benchmarks.score_throughput [--cases 8] [--json FILE]``

The scans are phantoms of 96×90×60 voxels with two nodules each, the models the packaged starters, the machine this one.
A figure is of one run; the starting of workers and the loading of models stand apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.scan_factory import make_scan, named_geometry

from medai.store.layout import state_folder
from medai.volume_io.writers import write_volume
from medai.workflows.executors import CaseExecutor, InProcessExecutor
from medai.workflows.ray_executor import RayExecutor
from medai.workflows.score_pool import PoolStep, score_pool

EXECUTORS: dict[str, Callable[[], CaseExecutor]] = {
    "in process, 1 worker": lambda: InProcessExecutor(workers=1),
    "in process, 2 workers": lambda: InProcessExecutor(workers=2),
    "Ray, 1 worker": lambda: RayExecutor(workers=1),
    "Ray, 2 workers": lambda: RayExecutor(workers=2),
}


def make_study(folder: Path, cases: int) -> None:
    """Scans that differ in noise and in the places of their nodules."""
    folder.mkdir(parents=True)
    for number in range(cases):
        scan = make_scan(named_geometry("axial"), np.random.default_rng(number))
        write_volume(scan.volume, folder / f"scan{number:03d}.nii.gz")


def measure(study: Path, executor: CaseExecutor) -> dict[str, Any]:
    """Score a study from nothing."""
    shutil.rmtree(state_folder(study), ignore_errors=True)
    begun, at = time.perf_counter(), list[float]()

    def note(_: PoolStep) -> None:
        at.append(time.perf_counter() - begun)

    report = score_pool(study, executor, on_step=note)
    # From the first result on, all workers are at it.
    rate = (len(at) - 1) / (at[-1] - at[0]) if len(at) > 1 else float("nan")
    return {
        "scored": report.scored,
        "seconds": round(report.seconds, 1),
        "first_result_s": round(at[0], 1),
        "cases_per_minute_once_running": round(60 * rate, 2),
        "workers": dict(report.workers),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--niceness", default="0", help="of Ray's workers; Ray's own is 15: they give way to others")
    options = parser.parse_args()
    os.environ["RAY_worker_niceness"] = options.niceness  # noqa: SIM112 - Ray spells it so
    results: dict[str, Any] = {"cases": options.cases, "cores": len(os.sched_getaffinity(0)), "load_1_min": {}}
    with tempfile.TemporaryDirectory(prefix="medai-throughput-") as folder:
        study = Path(folder) / "study"
        make_study(study, options.cases)
        measure(study, InProcessExecutor())  # converts the networks, if that was never done on this machine
        for name, make in EXECUTORS.items():
            results["load_1_min"][name] = round(os.getloadavg()[0], 2)
            results[name] = measure(study, make())
            sys.stdout.write(f"{name}: {json.dumps(results[name])}\n")
            sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
