"""How long the next case takes, by strategy and size of the study.

    python tests/benchmarks/next_sample.py --cases 2000 20000

Every tenth case has a label, every case up to five candidates. Each request is a new annotator's. Between requests
nothing changes ("still"), or one more case was scored ("scored"), or a label was submitted ("submitted"), which is what
a running session does. The first request of a process reads every score and is told apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medai.domain.case_score import CandidateScore, CaseScore
from medai.evaluation.information import entropy_bits
from medai.server.strategies import build_strategies
from medai.store.patients import PatientIndex
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore
from medai.store.unreadable import UnreadableScans
from medai.workflows.case_queue import CaseQueue
from medai.workflows.readable_cases import ReadableCases

CLASSES = ("solid, suspicious", "solid, benign", "part-solid, suspicious", "non-solid, benign")
LABEL = b"label"


def small_scan() -> bytes:
    """A readable ``.nii.gz`` as small as they come."""
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    return gzip.compress(nib.Nifti1Image(voxels, np.diag([-0.7, -0.8, 2.5, 1.0])).to_bytes())


def made_score(case_id: str, rng: np.random.Generator) -> CaseScore:
    """A score as a scan with up to five candidates gets it."""
    candidates = []
    for _ in range(int(rng.integers(0, 6))):
        probability = float(rng.beta(0.6, 0.6))
        candidates.append(
            CandidateScore(
                centre_ras_mm=(0.0, 0.0, 0.0),
                diameter_mm=float(rng.uniform(3, 30)),
                volume_ml=float(rng.uniform(0.02, 3)),
                probability=probability,
                predicted_class=CLASSES[int(rng.integers(len(CLASSES)))],
                malignancy=float(rng.random()),
                entropy=float(entropy_bits(probability)),
                mutual_information=float(rng.random()),
                test_time_variation=float(rng.random()),
                outline_doubt=float(rng.random()),
            )
        )
    return CaseScore(
        case_id=case_id,
        model_versions={"nodule_click": "v1", "nodule_detection": "v1"},
        scored_at_s=1.0,
        candidates=tuple(candidates),
        embedding=rng.normal(size=16).astype(np.float32) if candidates else None,
        expected_minutes=float(rng.uniform(2, 12)),
        disagreement=float(rng.random()),
    )


def made_study(folder: Path, count: int) -> StudyStore:
    """A study of so many scans, every tenth labelled, with scores of all."""
    (folder / "labels" / "final").mkdir(parents=True)
    scan = small_scan()
    for n in range(count):
        (folder / f"1.2.840.{n:05d}.nii.gz").write_bytes(scan)
        if n % 10 == 0:
            (folder / "labels" / "final" / f"1.2.840.{n:05d}.nii.gz").write_bytes(LABEL)
    study = StudyStore(folder)
    study.refresh()
    # Folders that changed within the last two seconds are listed anew at each look.
    settled = time.time() - 60
    for path in (folder, folder / "labels", folder / "labels" / "final"):
        os.utime(path, (settled, settled))
    rng = np.random.default_rng(1)
    scores = ScoreStore(folder)
    scores.put_all(made_score(case_id, rng) for case_id in study.image_ids())
    scores.close()
    return study


def measured_ms(call: Callable[[int], Any], before: Callable[[int], None], repeats: int) -> dict[str, float]:
    """Median and longest wall time of several calls and their median processor time, milliseconds.

    What happens before each is not counted.
    """
    spent, worked = [], []
    for n in range(repeats):
        before(n)
        started, started_cpu = time.perf_counter(), time.process_time()
        call(n)
        spent.append(1000 * (time.perf_counter() - started))
        worked.append(1000 * (time.process_time() - started_cpu))
    return {
        "median_ms": round(statistics.median(spent), 1),
        "longest_ms": round(max(spent), 1),
        "median_cpu_ms": round(statistics.median(worked), 1),
    }


def benchmark(count: int, repeats: int) -> dict[str, Any]:
    """Every strategy on a study of so many cases."""
    with tempfile.TemporaryDirectory(prefix="medai-bench-") as name:
        folder = Path(name) / "study"
        folder.mkdir()
        study = made_study(folder, count)
        scores, reservations = ScoreStore(folder), Reservations(folder)
        readable = ReadableCases(study, UnreadableScans(folder))
        queue = CaseQueue(
            study=study, reservations=reservations, scores=scores, patients=PatientIndex(folder), readable=readable
        )
        served = build_strategies(queue, rng=np.random.default_rng(1))
        started = time.perf_counter()
        queue.patients.learn(study.image_ids())
        scores.table()
        warm_up_ms = 1000 * (time.perf_counter() - started)
        rng, label = np.random.default_rng(2), Path(name) / "label.nii.gz"
        label.write_bytes(LABEL)
        unlabelled = iter(study.unlabeled())
        last: list[str] = []

        def score_one(n: int) -> None:
            scores.put(replace(made_score(next(unlabelled), rng), scored_at_s=float(n)))

        def submit_one(_: int) -> None:
            if last:
                study.save_label(last[-1], label)
                reservations.submitted(last[-1])

        found: dict[str, Any] = {"cases": count, "warm_up_ms": round(warm_up_ms), "strategies": {}}
        for strategy, adapter in served.items():

            def ask(n: int, adapter: Any = adapter, strategy: str = strategy) -> None:
                last.append(adapter({"client_id": f"{strategy} {len(last)}"})["id"])

            first = measured_ms(ask, lambda n: None, 1)["median_ms"]
            found["strategies"][strategy] = {
                "first_ms": first,
                "still": measured_ms(ask, lambda n: None, repeats),
                "scored": measured_ms(ask, score_one, repeats),
                "submitted": measured_ms(ask, submit_one, repeats),
            }
        scores.close()
        return found


def show(found: dict[str, Any]) -> None:
    """One table a study."""
    lines = [
        f"{found['cases']} cases; reading patients and scores once: {found['warm_up_ms']} ms",
        f"{'':26}{'first':>8}{'still':>20}{'scored':>20}{'submitted':>20}   median / longest, processor; ms",
    ]
    for name, row in found["strategies"].items():
        kinds = (row[key] for key in ("still", "scored", "submitted"))
        cells = [f"{k['median_ms']:.0f} / {k['longest_ms']:.0f}, {k['median_cpu_ms']:.0f}" for k in kinds]
        lines.append(f"{name:26}{row['first_ms']:8.0f}" + "".join(f"{cell:>20}" for cell in cells))
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    for count in arguments.cases:
        results.append(benchmark(count, arguments.repeats))
        show(results[-1])
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
