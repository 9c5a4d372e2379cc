"""``/train``, ``/batch/infer`` and ``/scoring``: what Slicer's Train button and other clients see."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from medai.server.background import LONGEST_QUEUE
from medai.store.atomic import write_json
from medai.volume_io.readers import read_label_map

OK = HTTPStatus.OK
FAMILIES = ["nodule_click", "nodule_detection", "nodule_classification"]

# Writes progress as a training does, then goes on until it is stopped.
WORKER = """
import json, pathlib, sys
from medai.workflows.training_runs import RetrainProgress, training_run
job = json.loads(sys.stdin.readline())
with training_run(pathlib.Path(job["studies"])) as run:
    run.write_stats(
        RetrainProgress(
            stage="train", epoch=2, total_epochs=job["epochs"], loss=float("nan"), score=0.5, task=job["task"]
        )
    )
    print("epoch 2", flush=True)
    sys.stdin.read()
sys.exit(3)
"""


@pytest.fixture
def training(served) -> Any:
    """The served study, whose trainings go on until they are stopped."""
    served.app.trainings._command = [sys.executable, "-c", WORKER]
    return served


def wait_until(check: Any, what: str) -> Any:
    for _ in range(600):
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} never came")


def first_stats(served: Any) -> dict[str, Any]:
    info = served.client.get("/info/").json()
    stats: dict[str, Any] = info["train_stats"][next(iter(info["trainers"]))]
    return stats


def test_training_as_the_plugin_sees_it(training):
    client = training.client
    assert client.get("/train/?check_if_running=true").status_code == HTTPStatus.NOT_FOUND
    started = client.post("/train/nodule_click", json={"max_epochs": 4, "device": "cpu", "client_id": "u"})
    assert started.status_code == OK
    assert started.json()["status"] in ("SUBMITTED", "RUNNING")
    assert started.json()["start_ts"]
    wait_until(lambda: first_stats(training).get("epoch") == 2, "the second epoch")
    stats = first_stats(training)
    # What the plugin's progress bar computes.
    current = 0 if stats.get("total_time") else stats.get("epoch", 1)
    assert 100 * current / stats.get("total_epochs", 1) == 50
    assert stats["best_metric"] == 0.5
    running = client.get("/train/").json()
    assert running["status"] == "RUNNING"
    assert running["id"] == started.json()["id"]
    assert client.get("/train/?check_if_running=true").status_code == OK

    again = client.post("/train/nodule_click", json={})
    assert again.status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert "runs already" in again.json()["detail"]

    before = time.monotonic()
    stopped = client.delete("/train/").json()
    assert time.monotonic() - before < 5
    assert stopped["status"] == "STOPPED"
    # The plugin reads these without asking whether they are there.
    assert stopped.get("result", stopped.get("details", [])[-1])
    assert client.get("/train/").json()["status"] == "STOPPED"
    assert first_stats(training)["total_time"]
    assert [record["status"] for record in client.get("/train/?all=true").json()] == ["STOPPED"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"max_epochs": 0}, "from 1 to 10000"),
        ({"max_epochs": "many"}, "'many'"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
    ],
)
def test_bad_training_parameters_are_named(training, params: dict[str, Any], says: str):
    reply = training.client.post("/train/nodule_click", json=params)
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert says in reply.json()["detail"]
    assert training.client.get("/train/").status_code == HTTPStatus.NOT_FOUND


def test_old_clients_start_all_trainers(training):
    records = training.client.post("/train/", json={"nodule_segmentation": {"max_epochs": 7}}).json()
    assert list(records) == FAMILIES
    assert records["nodule_click"]["result"]["request"]["max_epochs"] == 7
    running = "/train/?check_if_running=true"
    wait_until(lambda: training.client.get(running).json()["status"] == "RUNNING", "the start")
    assert training.client.get(running).json()["request"]["model"] == "nodule_click"
    training.client.delete("/train/")
    assert [r["status"] for r in training.client.get("/train/?all=true").json()] == ["STOPPED"] * 3


def test_all_trainers_take_flat_parameters_and_those_of_their_own(training):
    """As the stock server does: what stands beside the trainers' names is meant for all of them."""
    params = {"max_epochs": 3, "device": "cpu", "nodule_detection": {"max_epochs": 5}}
    records = training.client.post("/train/", json=params).json()
    jobs = {task.request["model"]: task.job for task in training.app.trainings._tasks}
    training.client.delete("/train/")
    assert {model: job.epochs for model, job in jobs.items()} == dict(zip(FAMILIES, (3, 5, 3), strict=True))
    assert {job.device for job in jobs.values()} == {"cpu"}
    assert records["nodule_click"]["result"]["request"] == {"model": "nodule_click", "max_epochs": 3, "device": "cpu"}


def test_a_misspelt_parameter_is_told_and_not_passed_over_in_silence(training):
    record = training.client.post("/train/nodule_click", json={"max_epoch": 3, "val_split": 0.2}).json()
    assert record["details"][0] == "Not used here: max_epoch, val_split. A training takes max_epochs and device"
    records = training.client.post("/train/", json={"max_epochs": 3, "nodule_detection": {"gpus": "all"}}).json()
    assert "Not used here" not in " ".join(records["nodule_click"]["result"]["details"])
    assert "Not used here: gpus." in records["nodule_detection"]["result"]["details"][0]


def test_all_trainers_are_waited_for_where_that_is_asked(training):
    training.app.trainings._command = [sys.executable, "-c", "import sys; sys.stdin.readline(); print('learnt')"]
    records = training.client.post("/train/?run_sync=true", json={"max_epochs": 1}).json()
    assert [record["result"]["status"] for record in records.values()] == ["DONE"] * 3
    assert [record["result"]["result"] for record in records.values()] == ["learnt"] * 3


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"nodule_clack": {"max_epochs": 2}}, "'nodule_clack' is no trainer; they are nodule_click"),
        ({"max_epochs": 0}, "from 1 to 10000"),
        ({"nodule_classification": {"device": "tpu"}}, "auto, cpu, cuda"),
    ],
)
def test_one_wrong_parameter_starts_no_trainer(training, params: dict[str, Any], says: str):
    reply = training.client.post("/train/", json=params)
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert says in reply.json()["detail"]
    assert training.client.get("/train/").status_code == HTTPStatus.NOT_FOUND


def test_a_full_queue_is_told(training):
    for _ in range(LONGEST_QUEUE):
        assert training.client.post("/train/nodule_click?enqueue=true", json={}).status_code == OK
    refused = training.client.post("/train/nodule_click?enqueue=true", json={})
    assert refused.status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert "which is the most" in refused.json()["detail"]
    every = training.client.post("/train/", json={}).json()
    assert [record["result"] for record in every.values()] == [None] * 3
    assert "which is the most" in every["nodule_click"]["detail"]
    assert training.client.delete("/train/").json()["status"] == "STOPPED"


def test_what_waits_is_shown_in_the_train_panel_and_stopped_there(training):
    client = training.client
    for model in ("nodule_click", "nodule_detection"):
        assert client.post(f"/train/{model}?enqueue=true", json={"max_epochs": 4}).status_code == OK
    wait_until(lambda: first_stats(training).get("epoch") == 2, "the second epoch")
    assert first_stats(training)["waiting"] == 1
    queue = training.study / ".medai" / "training" / "queue.json"
    assert len(json.loads(queue.read_text())["trainings"]) == 2
    client.delete("/train/")
    assert "waiting" not in first_stats(training)
    assert json.loads(queue.read_text())["trainings"] == []


@pytest.mark.parametrize("task", FAMILIES)
def test_each_family_trains_and_the_first_trainer_tells_of_it(training, task: str):
    """The plugin's bar shows the first trainer's figures, whichever family trains."""
    assert training.client.post(f"/train/{task}", json={"max_epochs": 4}).status_code == OK
    wait_until(lambda: first_stats(training).get("epoch") == 2, "the second epoch")
    shown = training.client.get("/info/").json()["train_stats"]
    assert shown["nodule_click"]["task"] == shown[task]["task"] == task
    others = [name for name in FAMILIES[1:] if name != task]
    assert [shown[name] for name in others] == [{} for _ in others]
    again = training.client.post("/train/nodule_click", json={})
    assert again.status_code == HTTPStatus.TOO_MANY_REQUESTS
    training.client.delete("/train/")


@pytest.mark.parametrize("task", FAMILIES)
def test_each_family_says_what_it_learns_from_and_what_is_missing(served, task: str):
    """The real worker process; it refuses before it loads a network."""
    offered = served.client.get("/info/").json()["trainers"][task]
    assert set(offered["config"]) == {"max_epochs", "device"}
    assert "submitted" in offered["description"]
    record = served.client.post(f"/train/{task}?run_sync=true", json={"max_epochs": 1}).json()
    assert record["status"] == "ERROR"
    assert "No case of this study" in record["result"]


def test_the_last_trainings_figures_are_shown_after_a_restart(served):
    folder = served.study / ".medai" / "training" / "20260101T000000.000000Z"
    folder.mkdir(parents=True)
    write_json(folder / "stats.json", {"epoch": 5, "total_epochs": 5, "total_time": "00:01:00", "best_metric": 0.7})
    assert first_stats(served)["best_metric"] == 0.7


def test_a_damaged_record_does_not_take_the_information_with_it(served):
    folder = served.study / ".medai" / "training" / "20260101T000000.000000Z"
    folder.mkdir(parents=True)
    (folder / "stats.json").write_text("{")
    assert first_stats(served) == {}


def test_a_batch_keeps_proposals_for_unlabelled_cases(served):
    record = served.client.post("/batch/infer/nodule_segmentation?images=unlabeled", json={}).json()
    assert record["total"] == 3
    wait_until(lambda: served.client.get("/batch/infer").json()["status"] == "DONE", "the end")
    assert served.client.get("/datastore/").json()["label_tags"] == {"original": 3}
    info = served.client.get("/datastore/label/info?label=case_oblique&tag=original").json()
    assert list(info["params"]["label_names"].values()) == [1]
    # In the scans' own ending, as a stock batch keeps them.
    kept = sorted(path.name for path in (served.study / "labels" / "original").iterdir())
    assert kept == ["case.axial.nii.gz", "case_flipped.nii.gz", "case_oblique.nii.gz"]
    assert read_label_map(served.study / "labels" / "original" / "case_oblique.nii.gz").labels.any()
    assert served.client.get("/batch/infer?check_if_running=true").status_code == HTTPStatus.NOT_FOUND
    assert served.client.delete("/batch/infer").json() == {}


def test_a_batch_may_be_bounded_and_waited_for(served):
    result = served.client.post("/batch/infer/lungs?run_sync=true", json={"max_batch_size": 1}).json()
    assert list(result) == ["case.axial"]
    refused = served.client.post("/batch/infer/lungs", json={"max_batch_size": -1})
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert served.client.post("/batch/infer/lungs?images=some").status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert served.client.post("/batch/infer/nope").status_code == HTTPStatus.NOT_FOUND


def test_scoring_makes_uncertainty_choose(served):
    served.candidates.probabilities = (0.55,)
    assert served.client.get("/scoring/").status_code == HTTPStatus.NOT_FOUND
    record = served.client.post("/scoring/uncertainty?run_sync=true").json()
    assert record["status"] == "DONE"
    # -0.55 log2 0.55 - 0.45 log2 0.45
    assert {case: round(score["uncertainty"], 3) for case, score in record["result"].items()} == {
        "case.axial": 0.993,
        "case_flipped": 0.993,
        "case_oblique": 0.993,
    }
    score = served.app.scores.get("case_oblique")
    assert [candidate.predicted_class for candidate in score.candidates] == ["part-solid, suspicious"]
    sure = [replace(candidate, entropy=0.1) for candidate in score.candidates]
    for case_id in ("case.axial", "case_flipped"):
        served.app.scores.put(replace(score, case_id=case_id, candidates=tuple(sure)))
    sample = served.client.post("/activelearning/uncertainty", json={"client_id": "u"}).json()
    assert sample["id"] == "case_oblique"
    # The present models have seen every case: nothing is left to do.
    assert served.client.post("/scoring/uncertainty?run_sync=true").json()["total"] == 0
    served.registry.versions["nodule_click"] = "v2"
    assert served.client.post("/scoring/?run_sync=true").json()["uncertainty"]["result"]["total"] == 3


def test_worker_reads_its_job_and_nothing_else(tmp_path: Path):
    import io

    from pydantic import ValidationError

    from medai.server import train_worker

    with pytest.raises(ValidationError, match="epochs"):
        train_worker.main(io.StringIO(json.dumps({"studies": str(tmp_path), "device": "cpu", "seed": 1}) + "\n"))


def test_a_batch_may_be_predicted_by_other_processes(served, monkeypatch: pytest.MonkeyPatch):
    """The predictions come from elsewhere; what is stored is made of them here, as of the server's own."""
    from medai.domain import Prediction
    from medai.errors import InputError
    from medai.server.app import MedaiApp
    from medai.volume_io.readers import read_volume
    from medai.workflows.executors import InProcessExecutor

    elsewhere = []

    class Elsewhere(InProcessExecutor):
        def run(self, case_ids, make_work, **options):
            assert make_work.studies == served.app.study.folder

            def predict(case_id: str) -> Prediction:
                if case_id == "case_flipped":
                    raise InputError("its machine has gone")
                elsewhere.append(case_id)
                path = served.app.study.image_path(case_id)
                versions, pipeline = served.app._scan_model()
                return replace(pipeline.predict(read_volume(path)), model_versions=versions)

            return super().run(case_ids, lambda: predict, **options)

    monkeypatch.setattr(MedaiApp, "batch_executor", Elsewhere())
    here = []
    served.candidates.before = lambda: here.append(1)
    result = served.client.post("/batch/infer/nodule_segmentation?run_sync=true", json={}).json()
    assert elsewhere == ["case.axial", "case_oblique"]
    assert len(here) == 2, "the server predicted nothing itself"
    assert result["case_flipped"] == {"error": "its machine has gone"}
    assert result["case_oblique"]["tag"] == "original"
    assert served.client.get("/datastore/").json()["label_tags"] == {"original": 2}
    # Lungs are no prediction: the server's own work.
    assert served.client.post("/batch/infer/lungs?run_sync=true", json={"max_batch_size": 1}).json()
    assert len(elsewhere) == 2


@pytest.mark.slow
def test_a_batch_on_ray_stores_what_the_server_itself_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import urllib.request

    import numpy as np
    from tests.support.scan_factory import make_scan, named_geometry
    from tests.support.server_process import ServerProcess

    from medai.volume_io.readers import read_label_map
    from medai.volume_io.writers import write_volume

    monkeypatch.setenv("RAY_worker_niceness", "0")
    study = tmp_path / "study"
    study.mkdir()
    for name in ("a", "b"):
        write_volume(make_scan(named_geometry("oblique"), np.random.default_rng(3)).volume, study / f"{name}.nii.gz")
    labels = []
    for conf in ({}, {"batch_executor": "ray"}):
        with ServerProcess(study, conf=conf) as server:
            address = f"{server.url}/batch/infer/nodule_segmentation?run_sync=true"
            with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=500) as reply:
                result = json.load(reply)
            assert all(each["label"] for each in result.values()), result
        labels.append(read_label_map(study / "labels" / "original" / "b.nrrd").labels)
    assert labels[0].any()
    assert np.array_equal(labels[0], labels[1])
