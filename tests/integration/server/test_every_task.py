"""Every task of the real server with the packaged networks, through MONAI Label's own client: one contract for all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monailabel.client import MONAILabelClient
from tests.support.scan_factory import SyntheticScan, make_scan, named_geometry, write_file
from tests.support.server_process import ServerProcess

from medai.domain import LabelMap, Segment
from medai.volume_io.readers import read_geometry, read_label_map
from medai.volume_io.writers import write_label_map

pytestmark = pytest.mark.server

CASES = ("axial", "flipped", "oblique")
LABEL_MAPS = ("nodule_segmentation", "nodule_classification", "nodule_click", "lungs")
RATINGS = {"axial": 4, "flipped": 2, "oblique": 5}


@pytest.fixture(scope="module")
def scans() -> dict[str, SyntheticScan]:
    rng = np.random.default_rng(7)
    return {name: make_scan(named_geometry(name), rng) for name in CASES}


@pytest.fixture(scope="module")
def server(scans: dict[str, SyntheticScan], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of three scans, each submitted with a rated segment a nodule."""
    study = tmp_path_factory.mktemp("study")
    for name, scan in scans.items():
        write_file(scan.volume.image_hu, scan.geometry, study / f"{name}.nii.gz")
    state = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    with ServerProcess(study, environment=state) as process:
        client = client_of(process, tmp_path_factory.mktemp("client"))
        for name, scan in scans.items():
            submit(client, process.studies, scan, name, tmp_path_factory.mktemp("label") / "label.nii.gz")
        yield process


@pytest.fixture
def client(server: ServerProcess, tmp_path: Path) -> MONAILabelClient:
    return client_of(server, tmp_path)


def client_of(server: ServerProcess, folder: Path) -> MONAILabelClient:
    return MONAILabelClient(server.url, str(folder), "annotator")


def submit(client: MONAILabelClient, study: Path, scan: SyntheticScan, name: str, path: Path) -> None:
    labels = np.zeros(scan.geometry.shape_ijk, np.uint8)
    for value, nodule in enumerate(scan.nodules, start=1):
        labels[nodule.mask] = value
    names = [f"{nodule.side} nodule, malignancy {RATINGS[name]}" for nodule in scan.nodules]
    segments = tuple(Segment(value=value, name=text) for value, text in enumerate(names, start=1))
    geometry = read_geometry(study / f"{name}.nii.gz")
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=segments), path)
    info = [{"name": text, "idx": value} for value, text in enumerate(names, start=1)]
    client.save_label(name, str(path), params={"label_info": info})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("task", [*LABEL_MAPS, "nodule_detection"])
def test_every_task_answers_in_the_clients_words(client, server, scans, task: str, case: str):
    assert task in client.info()["models"]
    params: dict[str, Any] = {"result_extension": ".nrrd", "result_dtype": "uint8"}
    geometry = read_geometry(server.studies / f"{case}.nii.gz")
    if task == "nodule_click":
        index = np.rint(geometry.ras_to_ijk(scans[case].nodules[0].centre_ras_mm)).astype(int).tolist()
        params |= {"label": "nodule", "foreground": [index], "background": [], "index_frame": "file"}
    file, answer = client.infer(task, case, params)
    json.dumps(answer, allow_nan=False)
    assert answer["latencies"]["total"] >= 0
    if task == "nodule_detection":
        markups = json.loads(Path(file).read_text())["markups"]
        assert len(markups) >= 1
        assert all("malignancy" in m["controlPoints"][0]["label"] for m in markups)
        return
    label_map = read_label_map(Path(file))
    assert label_map.geometry.shape_ijk == geometry.shape_ijk
    values = sorted(answer["label_names"].values())
    assert values == list(range(1, len(values) + 1))
    assert set(np.unique(label_map.labels)) <= {0, *values}
    # A click that is late on a busy machine is not made later by a rating.
    rated = [row for row in answer.get("nodules", []) if task != "nodule_click" or "assessment" in row]
    for row in rated:
        assert 0 < row["assessment"]["malignancy"]["probability"] < 1
        assert row["assessment"]["malignancy"]["low"] <= row["assessment"]["malignancy"]["high"]
    if task in ("nodule_segmentation", "nodule_classification"):
        assert all(f"malignancy {round_percent(row)} %" in row["name"] for row in answer["nodules"])
    if task == "nodule_classification":
        assert answer["nodules_of"] == "submitted label"
        assert [row["typed_ratings"]["malignancy"] for row in answer["nodules"]] == [RATINGS[case]] * 2


def round_percent(row: dict[str, Any]) -> int:
    return min(99, max(1, round(100 * row["assessment"]["malignancy"]["probability"])))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "task",
    # With their judgement on whole scans these take minutes; tests/e2e/test_loop_story.py trains the click network.
    [
        pytest.param("nodule_click", marks=pytest.mark.slow),
        pytest.param("nodule_detection", marks=pytest.mark.slow),
        "nodule_classification",
    ],
)
def test_every_family_learns_from_what_was_submitted(client, task: str):
    before = client.info()["trainers"][task]
    assert before["description"]
    started = client.train_start(task, {"max_epochs": 1, "device": "cpu"})
    assert started["status"] in ("SUBMITTED", "RUNNING")
    record = ended(client)
    assert record["status"] == "DONE", record
    assert record["result"].startswith(("Published: Better", "Not published: Refused")), record["result"]
    stats = client.info()["train_stats"]
    assert stats[task]["task"] == task
    assert stats[task]["stage"] == "done"
    assert 0 < stats[task]["best_metric"] <= 1


def ended(client: MONAILabelClient, timeout_s: float = 900.0) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        record = client.train_status(False)
        if record.get("end_ts"):
            return dict(record)
        time.sleep(0.5)
    raise TimeoutError(f"still training: {record}")
