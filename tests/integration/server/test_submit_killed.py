"""Submissions killed at every step and at random moments: no answered label is lost, none comes back halved."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines, make_study
from tests.support.server_process import ServerProcess

from medai.domain import LabelMap, Segment, Volume
from medai.geometry import VolumeGeometry
from medai.server.annotation_recorder import AnnotationRecorder
from medai.server.uploads import CheckedLabel
from medai.store.reservations import Reservations
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map, read_volume
from medai.volume_io.writers import write_label_map

CASE = "case.axial"
RANDOM_KILLS = 10
SERVER_KILLS = 2
KILLED_BY_ITSELF = 77

context = multiprocessing.get_context("fork")


class PlainScans:
    """Decodes a scan each time."""

    def get(self, path: Path, case_id: str = "") -> Volume:
        return read_volume(path)

    def find_open(self, path: Path, case_id: str = "") -> Volume | None:
        return None


def recorder_of(study: Path) -> AnnotationRecorder:
    return AnnotationRecorder(StudyStore(study), Reservations(study), PlainScans())


def label_of(number: int) -> LabelMap:
    """The n-th label: a nodule of n + 1 voxels."""
    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    labels.reshape(-1)[2000 : 2001 + number] = 1
    geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affines()[CASE])
    return LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),))


def submit(recorder: AnnotationRecorder, folder: Path, number: int) -> None:
    path = folder / f"checked-{os.getpid()}.nii.gz"
    write_label_map(label_of(number), path)
    info = {"label_info": [{"name": "nodule", "idx": 1}], "number": number}
    checked = CheckedLabel(path=path, tag="final", info=info, label_map=label_of(number))
    recorder.submit(CASE, checked, annotator="ann", client_id="ann")


def submit_without_end(study: Path, folder: Path, first: int, answered: Any) -> None:
    recorder = recorder_of(study)
    recorder.resume()
    for number in range(first, first + 10_000):
        submit(recorder, folder, number)
        answered.send_bytes(str(number).encode())


def submit_and_die_at_step(study: Path, folder: Path, number: int, step: int) -> None:
    """Submit, but leave without any clean-up at the n-th operation that changes the disk for good."""
    recorder = recorder_of(study)
    recorder.resume()
    steps = 0

    def dying(operation):
        def run(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == step:
                os._exit(KILLED_BY_ITSELF)
            return operation(*args, **kwargs)

        return run

    for name in ("replace", "unlink"):
        setattr(Path, name, dying(getattr(Path, name)))
    os.fsync = dying(os.fsync)
    AnnotationRecorder._measure = lambda *_: None
    recorder.log._insert = dying(recorder.log._insert)
    submit(recorder, folder, number)
    os._exit(0)


def check(study: Path, answered: list[int]) -> None:
    """After a restart: every answered label is in the history and whole, and the study shows the latest."""
    recorder = recorder_of(study)
    recorder.resume()
    found = recorder.log.of_case(CASE)
    voxels = [int(np.count_nonzero(read_label_map(recorder.log.path(each)).labels)) for each in found]
    assert voxels == sorted(set(voxels)), "a label is there twice, or out of order"
    assert set(answered) <= {count - 1 for count in voxels}
    assert {each.annotator for each in found} <= {"ann"}
    if found:
        store = StudyStore(study)
        assert store.label_path(CASE, "final").read_bytes() == recorder.log.path(found[-1]).read_bytes()
        assert store.label_info(CASE, "final")["number"] == voxels[-1] - 1
    assert list(recorder.log.folder.glob("*/*.about.json")) == []
    recorder.close()


def test_a_submission_killed_at_every_step_is_whole_or_was_never_answered(tmp_path):
    study, answered = make_study(tmp_path / "study"), [0]
    recorder = recorder_of(study)
    submit(recorder, tmp_path, 0)
    recorder.close()
    for step in range(1, 100):
        process = context.Process(target=submit_and_die_at_step, args=(study, tmp_path, step, step))
        process.start()
        process.join()
        if process.exitcode == 0:
            answered.append(step)
        else:
            assert process.exitcode == KILLED_BY_ITSELF
        check(study, answered)
        if process.exitcode == 0:
            break
    assert 5 < step < 99


def test_submissions_killed_at_random_moments_lose_no_answered_label(tmp_path):
    study, answered, chance = make_study(tmp_path / "study"), [], random.Random(4)
    for kill in range(RANDOM_KILLS):
        heard, said = context.Pipe(duplex=False)
        process = context.Process(target=submit_without_end, args=(study, tmp_path, 100 * kill, said))
        process.start()
        said.close()
        assert heard.poll(60)
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        try:
            while True:
                answered.append(int(heard.recv_bytes()))
        except EOFError:
            heard.close()
        check(study, answered)
    assert len(answered) >= RANDOM_KILLS


@pytest.mark.server
def test_a_server_killed_while_labels_come_in_has_every_answered_one(tmp_path):
    study, chance = make_study(tmp_path / "study"), random.Random(7)
    answered: set[str] = set()
    for kill in range(SERVER_KILLS + 1):
        with ServerProcess(study) as server:
            known = {each["annotation_id"] for each in server.get_json("/medai/annotations")["annotations"]}
            assert answered <= known
            if kill == SERVER_KILLS:
                break
            stop = threading.Event()
            sender = threading.Thread(target=_send_without_end, args=(server.url, tmp_path, answered, stop))
            sender.start()
            while not answered - known:
                time.sleep(0.02)
            time.sleep(chance.uniform(0.0, 0.5))
            server.kill()
            stop.set()
            sender.join()
    check_files = StudyStore(study).label_path(CASE, "final")
    assert np.count_nonzero(read_label_map(check_files).labels) > 0


def _send_without_end(url: str, folder: Path, answered: set[str], stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        path = folder / "sent.nii.gz"
        nib.save(nib.Nifti1Image(label_of(number).labels, affines()[CASE]), path)
        params = json.dumps({"label_info": [{"name": "nodule", "idx": 1}], "client_id": "ann"})
        boundary = uuid.uuid4().hex
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{params}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="label"; filename="label.nii.gz"\r\n\r\n'
        ).encode() + path.read_bytes()
        request = urllib.request.Request(
            f"{url}/datastore/label?image={CASE}",
            data=body + f"\r\n--{boundary}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            method="PUT",
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                answered.add(json.load(reply)["params"]["annotation_id"])
        except (OSError, urllib.error.URLError, ValueError):
            if not stop.wait(0.05):
                continue
