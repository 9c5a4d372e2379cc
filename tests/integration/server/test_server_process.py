"""The real server process: its start, its end, and what its death leaves behind."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path

import pytest
from filelock import FileLock
from tests.integration.server.conftest import make_study
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.server


def post(server: ServerProcess, path: str, content: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(
        server.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def test_it_starts_without_a_python_path_trains_and_ends_in_order(tmp_path: Path):
    """MONAI Label's own training reads PYTHONPATH unguarded: without it, it stays SUBMITTED for ever."""
    study = make_study(tmp_path / "study")
    environment = {"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path / "state")}
    saved = os.environ.pop("PYTHONPATH", None)
    try:
        server = ServerProcess(study, conf={"train_epochs": "1"}, environment=environment).start()
    finally:
        if saved is not None:
            os.environ["PYTHONPATH"] = saved
    with server:
        assert set(server.get_json("/info/")["models"]) >= {"nodule_segmentation", "nodule_click", "lungs"}
        post(server, "/train/nodule_segmentation", {})
        ended = ""
        for _ in range(600):
            record = server.get_json("/train/")
            if record.get("end_ts"):
                ended = record["status"]
                break
            time.sleep(0.1)
        assert ended == "ERROR"
        assert "label" in record["result"]
        sample = post(server, "/activelearning/first", {"client_id": "u"})
        assert sample["id"] == "case.axial"
    assert not server.is_running
    assert "Application shutdown complete" in server.log
    assert "Traceback" not in server.log
    # Nothing of a case but its id is in the log, and no folder was made beside the app's main.py.
    assert {path.name for path in (Path(__file__).resolve().parents[3] / "apps" / "medai").iterdir()} <= {
        "main.py",
        "docs",
        "__pycache__",
    }


def test_a_killed_server_leaves_a_study_that_starts_again(tmp_path: Path):
    study = make_study(tmp_path / "study")
    environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with ServerProcess(study, environment=environment) as server:
        post(server, "/activelearning/first", {"client_id": "u"})
        server.kill()
    with ServerProcess(study, environment=environment) as server:
        assert server.get_json("/datastore/")["total"] == 3
        # The case is still held by the annotator who had it.
        assert post(server, "/activelearning/first", {"client_id": "v"})["id"] != "case.axial"
        queue = study / ".medai" / "training" / "queue.json"
        # Another process trains: the first waits for it, deaf to everything, and the others wait behind.
        queue.parent.mkdir(exist_ok=True)
        with FileLock(queue.parent / ".lock"):
            for _ in range(56):
                post(server, "/train/nodule_click?enqueue=true", {"max_epochs": 1})
            started = time.monotonic()
            server.terminate()
            assert time.monotonic() - started < 15
        # What was acknowledged and did not begin is the next server's.
        assert len(json.loads(queue.read_text())["trainings"]) == 56
    assert "Traceback" not in server.log
