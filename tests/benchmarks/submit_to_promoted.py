"""How long it takes from Submit to a promoted model on the demo study. No test: it measures.

``PYTHONPATH=lib python -m tests.benchmarks.submit_to_promoted [--cases 8] [--train-after 4] [--json FILE]``

The real server in a process of its own, asked by MONAI Label's own client as the Slicer plugin does: next sample, the
truth of the phantom as the annotator's label, Submit. The server trains by itself after so many labels
(``--conf train_after``), with its default number of epochs. Times count from the moment the last of these Submits is
sent; a promoted model counts from the click that it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from typing import Any

from monailabel.client import MONAILabelClient
from tests.support.server_process import ServerProcess

from medai.phantom.study import TRUTH_FOLDER, make_demo_study
from medai.volume_io.readers import read_label_map
from medai.workflows.families import CLICK_TASK
from medai.workflows.models import open_registry

_POLL_S = 0.25
_LONGEST_S = 3600.0


def submit_truth(client: MONAILabelClient, study: Path) -> str:
    """Ask for the next case and submit its truth; the case's id, "" where none is left."""
    sample = client.next_sample("default", {})
    if not sample.get("id"):
        return ""
    case_id = str(sample["id"])
    path = study / TRUTH_FOLDER / f"{case_id}.nii.gz"
    names = [{"name": segment.name, "idx": segment.value} for segment in read_label_map(path).segments]
    client.save_label(case_id, str(path), params={"label_info": names})
    return case_id


def click_answered_by(client: MONAILabelClient, study: Path, case_id: str) -> str:
    """Click on the middle voxel of a case's scan: which version of the click network answers."""
    truth = read_label_map(study / TRUTH_FOLDER / f"{case_id}.nii.gz")
    middle = [n // 2 for n in truth.geometry.shape_ijk]
    _, params = client.infer(CLICK_TASK, case_id, {"label": "nodule", "foreground": [middle], "background": []})
    return str(params["model_version"])


def ended_trainings(server: ServerProcess) -> list[dict[str, Any]]:
    """What the server's Train panel knows of trainings that are over."""
    try:
        records = server.get_json("/train/?all=true")
    except urllib.error.HTTPError:
        return []
    return [record for record in records if record["status"] in ("DONE", "ERROR", "STOPPED")]


def wait_for_training(server: ServerProcess, ended: int, decided: int) -> dict[str, Any]:
    """Wait for the end of a training more; gives what was decided, or why nothing could be."""
    begun = time.monotonic()
    while time.monotonic() - begun < _LONGEST_S:
        records = ended_trainings(server)
        if len(records) > ended:
            events = open_registry(server.studies).history(CLICK_TASK)
            if len(events) > decided:
                return {"kind": str(events[-1].kind), "reason": events[-1].reason}
            return {"kind": "not trained", "reason": str(records[-1].get("result") or records[-1].get("details"))}
        time.sleep(_POLL_S)
    raise RuntimeError(f"No training ended within {_LONGEST_S:g} s:\n{server.log[-4000:]}")


def play(study: Path, server: ServerProcess, train_after: int) -> list[dict[str, Any]]:
    """Submit case by case, wait after each batch for what the server makes of it."""
    client = MONAILabelClient(server.url, str(study.parent), "ann")
    rounds: list[dict[str, Any]] = []
    submitted = 0
    while True:
        before = len(ended_trainings(server)), len(open_registry(study).history(CLICK_TASK))
        begun = time.monotonic()
        case_id = submit_truth(client, study)
        if not case_id:
            return rounds
        replied_s = time.monotonic() - begun
        submitted += 1
        if submitted % train_after:
            continue
        verdict = wait_for_training(server, *before)
        judged_s = time.monotonic() - begun
        version = open_registry(study).champion(CLICK_TASK).version_id
        answered = ""
        while answered != version:
            answered = click_answered_by(client, study, case_id)
        rounds.append(
            {
                "labels": submitted,
                "submit_s": round(replied_s, 2),
                "verdict_s": round(judged_s, 1),
                "first_click_of_champion_s": round(time.monotonic() - begun, 1),
                "champion": version,
                **verdict,
            }
        )
        sys.stdout.write(json.dumps(rounds[-1], ensure_ascii=False) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--train-after", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medai-promoted-") as folder:
        study = Path(folder) / "study"
        make_demo_study(study, case_count=options.cases, seed=1)
        with ServerProcess(study, conf={"train_after": str(options.train_after)}) as server:
            rounds = play(study, server, options.train_after)
    if options.json:
        result = {"cores": len(os.sched_getaffinity(0)), "rounds": rounds}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
