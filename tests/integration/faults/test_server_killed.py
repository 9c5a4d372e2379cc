"""The real server killed while MONAI Label's own client submits, clicks, asks and trains; then started again."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import affines, make_study
from tests.integration.server.test_submit_killed import label_of
from tests.support.kills import KILLS
from tests.support.server_process import ServerProcess

from medai.registry import ModelRegistry
from medai.store.annotations import AnnotationLog
from medai.store.reservations import Reservations
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map

pytestmark = [pytest.mark.server, pytest.mark.timeout(7200)]

FEW, MANY = 2, 25
CASES = ("case.axial", "case_oblique", "case_flipped")


@dataclass(slots=True)
class Annotators:
    """Threads that work on a server until it does not answer any more, and what it has acknowledged."""

    folder: Path
    submitted: dict[str, int] = field(default_factory=dict)
    clicked: int = 0
    handed_out: dict[str, str] = field(default_factory=dict)
    trainings: set[str] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)

    def work_until_killed(self, server: ServerProcess, kill: int, rng: np.random.Generator) -> None:
        """Begin, wait for the first label to be acknowledged, and kill the server within three seconds."""
        # A stop of its own a round: what is late from the last one stays stopped.
        stop = threading.Event()
        before = len(self.submitted)
        work = [
            lambda: self._submit(server.url, 80 * kill),
            lambda: self._click(server.url),
            lambda: self._ask(server.url, kill),
            lambda: self._train(server.url, stop),
        ]
        threads = [threading.Thread(target=self._until_stopped, args=(each, stop)) for each in work]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + 120
        while len(self.submitted) == before:
            assert time.monotonic() < deadline_s, server.log[-3000:]
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0.0, 3.0)))
        stop.set()
        server.kill()
        KILLS["server"] += 1
        for thread in threads:
            thread.join(60)
        assert self.failures == []

    def _until_stopped(self, work: Callable[[], None], stop: threading.Event) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever ends a thread must reach the test
            # What the kill has cut off is no failure; what went wrong before it is.
            if not stop.is_set():
                self.failures.append(error)

    def _client(self, url: str, name: str) -> Any:
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(url, tmpdir=str(self.folder), client_id=name)

    def _submit(self, url: str, first: int) -> None:
        client = self._client(url, "ann")
        for number in range(first, first + 80):
            case_id = CASES[number % len(CASES)]
            path = self.folder / "sent.nii.gz"
            nib.save(nib.Nifti1Image(label_of(number).labels, affines()[case_id]), path)
            info = {"label_info": [{"name": "nodule malignancy 4", "idx": 1}]}
            reply = client.save_label(case_id, str(path), "final", info)
            self.submitted[reply["params"]["annotation_id"]] = number

    def _click(self, url: str) -> None:
        client = self._client(url, "ben")
        for _ in range(200):
            params = {"label": "nodule", "foreground": [[8, 9, 10]], "background": []}
            file, answer = client.infer("nodule_click", CASES[0], params)
            assert answer["label_names"] == {"nodule": 1}
            assert Path(file).stat().st_size > 0
            self.clicked += 1

    def _ask(self, url: str, kill: int) -> None:
        for number in range(2):
            name = f"reader {kill} {number}"
            given = self._client(url, name).next_sample("first", {})
            if given:
                self.handed_out[given["id"]] = name
            time.sleep(0.3)

    def _train(self, url: str, stop: threading.Event) -> None:
        # As soon as there are labels of two patients.
        while len(set(self.submitted.values())) < len(CASES):
            if stop.wait(0.05):
                return
        if stop.wait(0.5):
            return
        # The client's own call has no word for waiting behind one that an earlier server has left.
        request = urllib.request.Request(
            f"{url}/train/nodule_click?enqueue=true",
            json.dumps({"max_epochs": 1, "device": "cpu"}).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            told = json.load(reply)
        self.trainings.add(told["id"])
        assert told["status"] in ("SUBMITTED", "RUNNING")


@pytest.mark.parametrize("kills", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)])
def test_a_server_killed_while_requests_arrive_has_everything_that_it_acknowledged(tmp_path, kills, rng):
    study = make_study(tmp_path / "study")
    annotators = Annotators(tmp_path)
    for kill in range(kills + 1):
        open_trainings = _queued(study)
        with ServerProcess(
            study, conf={"tracking": "off"}, environment={"XDG_STATE_HOME": str(tmp_path / "state")}
        ) as server:
            _check_restarted(server, study, annotators, open_trainings)
            if kill == kills:
                break
            annotators.trainings.clear()
            annotators.work_until_killed(server, kill, rng)
        # A training takes longer than the server had: what was acknowledged still waits.
        assert annotators.trainings <= _queued(study)
    assert len(annotators.submitted) >= kills
    assert "Fault " not in server.log


def _check_restarted(server: ServerProcess, study: Path, annotators: Annotators, open_trainings: set[str]) -> None:
    """Everything acknowledged is there, and the champion answers."""
    listed = {each["annotation_id"]: each for each in server.get_json("/medai/annotations")["annotations"]}
    assert set(annotators.submitted) <= set(listed)
    log = AnnotationLog(study)
    try:
        for annotation in log.all():
            voxels = int(np.count_nonzero(read_label_map(log.path(annotation)).labels))
            assert voxels == annotators.submitted.get(annotation.annotation_id, voxels - 1) + 1
            if annotation.is_current:
                shown = StudyStore(study, read_only=True).label_path(annotation.case_id, "final")
                assert shown.read_bytes() == log.path(annotation).read_bytes()
    finally:
        log.close()
    info = server.get_json("/info/")
    assert set(info["models"]) >= {"nodule_segmentation", "nodule_click", "lungs"}
    assert info["datastore"]["completed"] == len({each["case_id"] for each in listed.values()})
    assert ModelRegistry(study / ".medai" / "models").champion("nodule_click").version_id == "starter"
    # What waited or ran is begun again, or reported as given up.
    records = {record["id"]: record for record in server.get_json("/train/?all=true")} if open_trainings else {}
    assert open_trainings <= set(records)
    for task_id in open_trainings:
        told = " ".join(records[task_id]["details"])
        assert "Begun again" in told or "Given up" in told, told
    held = {each.case_id: each.client_id for each in Reservations(study).active()}
    submitted = {each["case_id"] for each in listed.values()}
    for case_id, name in annotators.handed_out.items():
        # Submitting ends a reservation.
        assert case_id in submitted or name in held[case_id]


def _queued(study: Path) -> set[str]:
    path = study / ".medai" / "training" / "queue.json"
    return {entry["task_id"] for entry in json.loads(path.read_text())["trainings"]} if path.is_file() else set()
