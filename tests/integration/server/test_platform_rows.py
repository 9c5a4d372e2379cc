"""One test for each way in which MONAI Label 0.8.5 bites that concerns us; numbers are those of the reference table.

Where it is cheap, a test shows the library's own behaviour first, so that it says when a way out is no longer needed.
"""

from __future__ import annotations

import inspect
import json
import socket
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jwt
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines, make_study, serve
from tests.integration.server.test_study_routes import files_of, label_file, submit

OK = HTTPStatus.OK


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_row_01_monailabel_imports_beside_pydicom_3():
    stock = run_python("import pydicom_seg")
    assert stock.returncode != 0
    assert "_storage_sopclass_uids" in stock.stderr
    ours = run_python("import medai.server, pydicom_seg; print(pydicom_seg.__name__)")
    assert ours.stdout.strip() == "pydicom_seg", ours.stderr


def test_row_02_torchvision_has_its_operators():
    import torch
    import torchvision

    keep = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8]), 0.5)
    assert keep.tolist() == [0]


def test_row_03_no_monailabel_command_is_needed():
    import medai.server.launch

    assert "monailabel" not in inspect.getsource(medai.server.launch.run_server)


def test_row_04_our_tests_are_ours():
    import tests.support.fake_models as ours

    assert Path(ours.__file__).resolve().is_relative_to(Path(__file__).resolve().parents[3])


def scribbles_upload(folder: Path, case_id: str = "case.axial") -> Path:
    import nibabel as nib

    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    labels[8, 9, 9:12] = 3
    labels[8, 9:11, 10] = 3
    labels[2:4, 2:20, 10] = 2
    labels[14:16, 2:20, 10] = 2
    path = folder / "scribbles.nii.gz"
    nib.save(nib.Nifti1Image(labels, affines()[case_id]), path)
    return path


LABEL_INFO = [
    {"name": "nodule", "id": 1},
    {"name": "background_scribbles", "id": 2},
    {"name": "foreground_scribbles", "id": 3},
]


def test_row_05_scribbles_work(shared, tmp_path: Path):
    from monailabel.scribbles.infer import HistogramBasedGraphCut

    path = scribbles_upload(tmp_path)
    scan = str(shared.study / "case.axial.nii.gz")
    with pytest.raises(AttributeError, match="'str' object has no attribute 'update'"):
        HistogramBasedGraphCut()({"image": scan, "label": str(path), "device": "cpu", "label_info": LABEL_INFO})

    params = {"label_info": LABEL_INFO, "selected_label_name": "nodule", "roi": [2, 15, 2, 19, 4, 16]}
    with path.open("rb") as file:
        reply = shared.client.post(
            "/infer/Histogram%2BGraphCut?image=case.axial",
            data={"params": json.dumps(params)},
            files={"label": (path.name, file)},
        )
    from tests.integration.server.test_infer_routes import parts

    from medai.volume_io.readers import read_label_map

    answer, name, payload = parts(reply)
    assert answer["label_names"] == {"nodule": 1}
    (tmp_path / name).write_bytes(payload)
    labels = read_label_map(tmp_path / name).labels == 1
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE_IJK], indexing="ij"), axis=-1)
    ball = np.linalg.norm((grid - np.array([8, 9, 10])) * (0.8, 0.9, 1.5), axis=-1) < 3.5
    assert 2 * (labels & ball).sum() / (labels.sum() + ball.sum()) > 0.9


def test_row_06_no_tracking_store_is_opened():
    from monailabel.config import Settings, settings

    assert Settings().MONAI_LABEL_TRACKING_ENABLED is True
    assert settings.MONAI_LABEL_TRACKING_ENABLED is False


def test_row_07_a_valid_token_is_accepted(monkeypatch: pytest.MonkeyPatch):
    import asyncio

    from monailabel.config import settings
    from monailabel.endpoints.user import auth
    from tests.support.oidc_issuer import CLIENT_ID, OidcIssuer

    from medai.server.issuer import Issuer, IssuerOptions
    from medai.server.logins import LoginOptions, Logins

    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    with OidcIssuer() as realm:
        monkeypatch.setattr(auth, "get_public_key", lambda _: realm.key.public_key())
        token = realm.token("ann", realm_access={"roles": ["monailabel-user"]})
        with pytest.raises(jwt.DecodeError, match="algorithms"):
            auth.from_token(token)
        logins = Logins(Issuer(IssuerOptions(url=realm.url)), LoginOptions(client_id=CLIENT_ID))
        user = asyncio.run(logins.user(f"Bearer {token}"))
    assert (user.username, user.roles) == ("ann", ["monailabel-user"])


def test_row_08_no_nan_leaves_the_server(shared, monkeypatch: pytest.MonkeyPatch):
    from starlette.responses import JSONResponse

    stats = {"best_metric": float("nan"), "epoch": 3, "eval": {"dice": [float("inf"), 0.5]}, "train": {}}
    with pytest.raises(ValueError, match="JSON compliant"):
        JSONResponse(stats)
    trainer = shared.app.trainer("nodule_click")
    monkeypatch.setattr(type(trainer), "stats", lambda _: stats)
    reply = shared.client.get("/info/")
    assert reply.status_code == OK
    shown = reply.json()["train_stats"]["nodule_click"]
    assert shown == {"epoch": 3, "eval": {"dice": [None, 0.5]}, "train": {}}
    assert shown.get("best_metric", 0) * 100 == 0


@pytest.mark.parametrize(
    "path", ["/infer/x?image=case.axial", "/infer/lungs?image=x", "/activelearning/x", "/train/x", "/scoring/x"]
)
def test_row_09_what_is_unknown_is_not_found(shared, path: str):
    reply = shared.client.post(path)
    assert reply.status_code == HTTPStatus.NOT_FOUND
    assert "has" in reply.json()["detail"]


@pytest.mark.parametrize("tag", ["../../evil", "..", "a/b", "", "x" * 80, "final\x00"])
def test_row_10_tags_cannot_leave_the_study(served, tmp_path: Path, tag: str):
    before = files_of(served.study)
    outside = {path.name for path in served.study.parent.iterdir()}
    params = {"tag": tag}
    with label_file(tmp_path, "case.axial").open("rb") as file:
        reply = served.client.put(
            "/datastore/label?image=case.axial",
            params={"image": "case.axial", **params},
            data={"params": json.dumps({"label_info": [{"name": "nodule", "idx": 1}]})},
            files={"label": ("l.nii.gz", file)},
        )
    # An empty tag is MONAI Label's way to say "final".
    assert reply.status_code == (OK if tag == "" else HTTPStatus.UNPROCESSABLE_ENTITY)
    assert {path.name for path in served.study.parent.iterdir()} - outside <= {"label.nii.gz"}
    if tag:
        assert files_of(served.study) == before


def test_row_11_a_label_saved_by_another_process_stays(served, tmp_path: Path):
    assert submit(served, label_file(tmp_path, "case.axial")).status_code == OK
    other = (
        "import sys, pathlib\nfrom medai.store.study import StudyStore\n"
        "study, label = map(pathlib.Path, sys.argv[1:])\n"
        "StudyStore(study).save_label('case_oblique', label, 'final', {'by': 'x'})"
    )
    label = label_file(tmp_path, "case_oblique")
    subprocess.run([sys.executable, "-c", other, str(served.study), str(label)], check=True)
    assert submit(served, label_file(tmp_path, "case_flipped"), "case_flipped").status_code == OK
    assert served.client.get("/info/").json()["datastore"]["completed"] == 3
    index = json.loads((served.study / "datastore_v2.json").read_text())
    assert index["objects"]["case_oblique"]["labels"]["final"]["info"]["by"] == "x"


def test_row_12_boxes_do_not_replace_a_segmentation(served, tmp_path: Path):
    assert submit(served, label_file(tmp_path, "case.axial")).status_code == OK
    box = {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "roiType": "Box",
        "center": [4.0, -28.0, -15.0],
        "size": [5.0, 5.0, 5.0],
        "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "controlPoints": [{"label": "n", "position": [4.0, -28.0, -15.0]}],
    }
    markups = tmp_path / "boxes.json"
    markups.write_text(json.dumps({"markups": [{**box, "name": "Detection ROI - 0"}]}))
    reply = submit(served, markups)
    assert reply.status_code == OK, reply.text
    assert reply.json()["tag"] != "final"
    (pair,) = served.client.get("/datastore/?output=train").json()
    assert pair["label"].endswith(".nii.gz")


def test_row_13_an_upload_without_a_name_keeps_its_dotted_id(served):
    content = (served.study / "case.axial.nii.gz").read_bytes()
    uid = "1.2.840.113654.2.55.683"
    reply = served.client.put("/datastore/image", files={"file": (f"{uid}.nii.gz", content)})
    assert reply.json() == {"image": uid}


def test_row_14_information_does_not_wait_for_inference(served):
    from monailabel.endpoints.infer import api_run_inference

    assert inspect.iscoroutinefunction(api_run_inference)
    assert "await" not in inspect.getsource(api_run_inference)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go_on.wait(30)

    served.candidates.before = slow
    served.clicks.before = lambda: None
    answers: list[Any] = []
    scan = threading.Thread(
        target=lambda: answers.append(served.client.post("/infer/nodule_segmentation?image=case.axial"))
    )
    scan.start()
    assert begun.wait(30)
    started = time.monotonic()
    assert served.client.get("/info/").status_code == OK
    assert served.client.post("/activelearning/first", json={}).status_code == OK
    assert served.click().status_code == OK
    elapsed = time.monotonic() - started
    still_running = scan.is_alive()
    go_on.set()
    scan.join()
    assert still_running
    assert elapsed < 5
    assert answers[0].status_code == OK


def test_row_15_no_model_file_is_overwritten_over_http(shared):
    from monailabel.endpoints.model import api_update_model

    assert "shutil.copy" in inspect.getsource(sys.modules[api_update_model.__module__])
    assert shared.client.put("/model/nodule_click", files={"file": b"x"}).status_code == 405


def test_row_18_without_weights_a_request_is_refused(served):
    del served.registry.versions["nodule_click"]
    reply = served.click()
    assert reply.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert "no weights for task 'nodule_click'" in reply.json()["detail"]
    assert served.client.get("/info/").status_code == OK


def test_row_19_random_answers_however_fast_it_is_asked(tmp_path: Path):
    from monailabel.tasks.activelearning.random import Random

    assert "random.choices" in inspect.getsource(Random.__call__)
    for one in serve(make_study(tmp_path / "study"), {"reservation_minutes": "0.00001"}):
        for n in range(12):
            reply = one.client.post("/activelearning/random", json={"client_id": f"u{n}"})
            assert reply.status_code == OK
            assert reply.json()["id"] in {"case.axial", "case_oblique", "case_flipped"}


def test_row_20_next_sample_starts_no_process(shared):
    import psutil
    from monailabel.config import Settings, settings

    assert Settings().MONAI_LABEL_AUTO_UPDATE_SCORING is True
    assert settings.MONAI_LABEL_AUTO_UPDATE_SCORING is False
    before = len(psutil.Process().children(recursive=True))
    assert shared.client.post("/activelearning/first", json={"client_id": "row20"}).status_code == OK
    assert len(psutil.Process().children(recursive=True)) == before


def test_row_21_a_remote_study_is_refused_before_anything_is_downloaded():
    from medai.errors import InputError
    from medai.server.app import MedaiApp

    with pytest.raises(InputError, match=r"serves a folder of scans; 'http://x/dicom-web' is an address"):
        MedaiApp("", "http://x/dicom-web", {})


def test_row_22_the_app_starts_and_answers_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried: list[object] = []

    def refuse(*address: object) -> None:
        tried.append(address)
        raise OSError("this machine has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for one in serve(make_study(tmp_path / "study")):
        assert not [name for name in one.client.get("/info/").json()["models"] if "sam" in name.lower()]
        assert one.click().status_code == OK
    assert tried == []


def test_no_library_reports_its_use_over_the_network():
    """OpenVINO's report forks the server among its threads, where it has been seen to hang for ever."""
    code = (
        "import socket, sys\ntried = []\n"
        "socket.getaddrinfo = lambda *a, **k: tried.append(a) or (_ for _ in ()).throw(OSError('no network'))\n"
        "import os, multiprocessing.process as process\n"
        "process.BaseProcess.start = lambda self: tried.append(self)\n"
        "import medai.server.asgi, medai.networks.engine, openvino, torch\n"
        "openvino.convert_model(torch.nn.Conv3d(1, 1, 3).eval(), example_input=torch.zeros(1, 1, 4, 4, 4))\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, os.environ['MLFLOW_DISABLE_TELEMETRY'], tried)"
    )
    ours = run_python(code)
    assert ours.stdout.strip() == "openvino.tools.ovc.telemetry_stub true []", ours.stderr[-2000:]


def test_row_23_an_answer_is_written_without_itk():
    code = (
        "import sys, numpy as np\n"
        "from medai.domain import LabelMap, Segment\nfrom medai.geometry import VolumeGeometry\n"
        "from medai.volume_io.writers import encode_label_map_nrrd\n"
        "g = VolumeGeometry(shape_ijk=(4, 5, 6), affine_ijk_to_ras_mm=np.eye(4))\n"
        "m = LabelMap(geometry=g, labels=np.ones((4, 5, 6), np.uint8), segments=(Segment(value=1, name='n'),))\n"
        "encode_label_map_nrrd(m)\n"
        "print([name for name in ('itk', 'torch', 'monai', 'SimpleITK') if name in sys.modules])"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_the_app_is_found_by_monai_labels_loader(shared):
    from monailabel.utils.others.class_utils import get_class_of_subclass_from_file

    main = Path(__file__).resolve().parents[3] / "apps" / "medai" / "main.py"
    found = get_class_of_subclass_from_file("main", str(main), "MONAILabelApp")
    assert found.__name__ == "MedaiApp"
