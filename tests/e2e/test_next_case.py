"""The next case as MONAI Label's own client gets it from the real server, by each strategy, with its reason."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient
from tests.support.scan_factory import make_scan, named_geometry, write_file
from tests.support.server_process import ServerProcess

from medai.active_learning.strategies import STRATEGIES
from medai.store.reservations import Reservations

pytestmark = [pytest.mark.server]
GRIDS = ("axial", "oblique", "flipped")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Three scans with nodules and one without, scored by the starter models."""
    folder: Path = tmp_path_factory.mktemp("next_case")
    rng = np.random.default_rng(20240304)
    for grid in GRIDS:
        scan = make_scan(named_geometry(grid), rng)
        write_file(scan.volume.image_hu, scan.geometry, folder / f"{grid}.nii.gz")
    healthy = make_scan(named_geometry("axial"), rng, diameters_mm=None)
    write_file(healthy.volume.image_hu, healthy.geometry, folder / "healthy.nii.gz")
    with ServerProcess(folder) as process:
        reply = requests.post(f"{process.url}/scoring/uncertainty?run_sync=true", timeout=500)
        assert reply.json()["status"] == "DONE", reply.text
        yield process


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_answers_the_stock_client_in_words(server: ServerProcess, strategy: str) -> None:
    client = MONAILabelClient(server.url, client_id=f"annotator of {strategy}")
    sample = client.next_sample(strategy, {})
    assert sample["id"] in {*GRIDS, "healthy"}
    assert Path(sample["path"]).is_file()
    assert sample["strategy"] == strategy
    if sample["id"] == "healthy":
        assert "nodule" in sample["reason"] or "candidate" in sample["reason"]
    else:
        assert " mm" in sample["reason"]
    assert sample["PatientID"].startswith(f"{sample['id']} (")
    # Asking again skips it, and frees it for the next strategy's annotator.
    assert client.next_sample(strategy, {})["id"] != sample["id"]
    for case_id in (*GRIDS, "healthy"):
        # The next strategy finds every case free, as after an hour of silence.
        Reservations(server.studies).release(case_id)


def test_the_status_names_the_queue_and_who_is_at_work(server: ServerProcess) -> None:
    MONAILabelClient(server.url, client_id="ann").next_sample("default", {})
    status = requests.get(f"{server.url}/medai/status", timeout=60).json()
    assert status["scored"] == status["left"] == 4
    assert [each["annotator"] for each in status["at_work"]] == ["ann"]
    assert len(status["queue"]) == 3
    assert all(case["reason"] for case in status["queue"])
    assert status["advice"]["summary"]
