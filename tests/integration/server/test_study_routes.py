"""``/datastore``, ``/activelearning``, ``/session``, ``/model``: what they do, and what they refuse."""

from __future__ import annotations

import gzip
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines

OK = HTTPStatus.OK


def label_file(folder: Path, case_id: str, *, value: int = 1, shape: tuple[int, ...] = SHAPE_IJK) -> Path:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[6:11, 7:12, 8:13] = value
    path = folder / "label.nii.gz"
    nib.save(nib.Nifti1Image(labels, affines()[case_id]), path)
    return path


def submit(served: Any, path: Path, case_id: str = "case.axial", query: str = "", **params: Any) -> Any:
    params = {"label_info": [{"name": "nodule", "idx": 1}], "client_id": "ann", **params}
    with path.open("rb") as file:
        return served.client.put(
            f"/datastore/label?image={case_id}{query}",
            data={"params": json.dumps(params)},
            files={"label": (path.name, file)},
        )


def files_of(study: Path) -> dict[str, bytes]:
    """Everything a user would miss: the study without our own state and lock files."""
    return {
        str(path.relative_to(study)): path.read_bytes()
        for path in sorted(study.rglob("*"))
        if path.is_file() and ".medai" not in path.parts and path.name != ".lock"
    }


def test_submitted_label_completes_the_case(served, tmp_path: Path):
    assert served.client.get("/info/").json()["datastore"]["completed"] == 0
    reply = submit(served, label_file(tmp_path, "case.axial"))
    assert reply.status_code == OK, reply.text
    assert reply.json()["label"] == "case.axial"
    assert served.client.get("/info/").json()["datastore"]["completed"] == 1
    info = served.client.get("/datastore/label/info?label=case.axial&tag=final").json()
    assert info["label_names"] == {"nodule": 1}
    assert info["client_id"] == "ann"
    downloaded = served.client.get("/datastore/label?label=case.axial&tag=final")
    (tmp_path / "back.nii.gz").write_bytes(downloaded.content)
    assert nib.load(tmp_path / "back.nii.gz").get_fdata().sum() == 125
    assert served.client.head("/datastore/label?image=case.axial&tag=final").status_code == OK
    assert served.client.head("/datastore/label?image=case_oblique&tag=final").status_code == HTTPStatus.NOT_FOUND


def test_submitting_frees_the_case_and_it_is_not_handed_out_again(served, tmp_path: Path):
    first = served.client.post("/activelearning/first", json={"client_id": "a"}).json()["id"]
    assert served.app.reservations.holder(first) == "a"
    assert submit(served, label_file(tmp_path, first), first).status_code == OK
    assert served.app.reservations.holder(first) is None
    assert served.client.post("/activelearning/first", json={"client_id": "a"}).json()["id"] != first


def test_next_sample_gives_each_annotator_another_case_and_then_nothing(served):
    given = [served.client.post("/activelearning/random", json={"client_id": name}).json() for name in "abcd"]
    assert sorted(sample["id"] for sample in given[:3]) == ["case.axial", "case_flipped", "case_oblique"]
    assert given[3] == {}
    assert Path(given[0]["path"]).is_file()
    assert given[0]["name"] == f"{given[0]['id']}.nii.gz"


def test_paths_are_kept_from_clients_where_asked(tmp_path: Path):
    from tests.integration.server.conftest import make_study, serve

    for one in serve(make_study(tmp_path / "study"), {"share_paths": "false"}):
        assert "path" not in one.client.post("/activelearning/first", json={}).json()


@pytest.mark.parametrize(
    ("name", "make", "status"),
    [
        ("truncated.nii.gz", lambda good: good[: len(good) // 2], 422),
        ("empty.nii.gz", lambda _: b"", 422),
        ("nonsense.nii.gz", lambda _: gzip.compress(b"nonsense" * 100), 422),
        ("label.exe", lambda good: good, 422),
        ("label.json", lambda _: b"{", 422),
    ],
)
def test_bad_labels_change_nothing(served, tmp_path: Path, name: str, make: Any, status: int):
    good = label_file(tmp_path, "case.axial").read_bytes()
    bad = tmp_path / name
    bad.write_bytes(make(good))
    before = files_of(served.study)
    reply = submit(served, bad)
    assert reply.status_code == status
    assert reply.json()["detail"]
    assert files_of(served.study) == before


def test_label_of_another_grid_changes_nothing(served, tmp_path: Path):
    before = files_of(served.study)
    reply = submit(served, label_file(tmp_path, "case.axial", shape=(20, 22, 25)))
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "grid" in reply.json()["detail"]
    assert submit(served, label_file(tmp_path, "case_oblique"), "case.axial").status_code == 422
    assert files_of(served.study) == before


def test_label_of_an_unknown_case_is_not_found(served, tmp_path: Path):
    reply = submit(served, label_file(tmp_path, "case.axial"), "case_axial")
    assert reply.status_code == HTTPStatus.NOT_FOUND
    assert "case.axial" in reply.json()["detail"]


def test_bad_params_of_a_label_change_nothing(served, tmp_path: Path):
    before = files_of(served.study)
    with label_file(tmp_path, "case.axial").open("rb") as file:
        reply = served.client.put(
            "/datastore/label?image=case.axial", data={"params": "{'a':1}"}, files={"label": ("a.nii.gz", file)}
        )
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "not JSON" in reply.json()["detail"]
    assert files_of(served.study) == before


def test_reviewer_updates_the_labels_info(served, tmp_path: Path):
    submit(served, label_file(tmp_path, "case.axial"))
    reply = served.client.put(
        "/datastore/updatelabelinfo?label=case.axial&tag=final",
        data={"params": json.dumps({"segmentationMeta": {"status": "approved"}})},
    )
    assert reply.status_code == OK
    info = served.client.get("/datastore/label/info?label=case.axial&tag=final").json()
    assert info["segmentationMeta"] == {"status": "approved"}
    assert info["label_names"] == {"nodule": 1}


def test_image_up_and_down_and_gone(served, tmp_path: Path):
    content = (served.study / "case_oblique.nii.gz").read_bytes()
    reply = served.client.put("/datastore/image?image=new.case", files={"file": ("x.nii.gz", content)})
    assert reply.json() == {"image": "new.case"}
    assert served.client.get("/datastore/image?image=new.case").content == content
    digest = __import__("hashlib").sha256(content).hexdigest()
    assert served.client.head(f"/datastore/image?image=new.case&check_sum=SHA256:{digest}").status_code == OK
    wrong = served.client.head("/datastore/image?image=new.case&check_sum=SHA256:00")
    assert wrong.status_code == HTTPStatus.NOT_FOUND
    assert served.client.delete("/datastore/image?id=new.case").status_code == OK
    assert served.client.get("/datastore/image?image=new.case").status_code == HTTPStatus.NOT_FOUND


def test_everything_of_the_study(served, tmp_path: Path):
    submit(served, label_file(tmp_path, "case.axial"))
    everything = served.client.get("/datastore/?output=all").json()
    assert set(everything["objects"]) == {"case.axial", "case_oblique", "case_flipped"}
    assert everything["objects"]["case.axial"]["labels"]["final"]["info"]["label_names"] == {"nodule": 1}
    (pair,) = served.client.get("/datastore/?output=train").json()
    assert Path(pair["image"]).name == "case.axial.nii.gz"
    archive = served.client.get("/datastore/dataset")
    assert archive.content.startswith(b"PK")


def test_too_large_a_request_is_refused_before_it_is_stored(tmp_path: Path):
    from tests.integration.server.conftest import make_study, serve

    for one in serve(make_study(tmp_path / "study"), {"max_upload_mb": "1"}):
        before = files_of(one.study)
        reply = one.client.put("/datastore/image?image=big", files={"file": ("x.nii.gz", bytes(2 << 20))})
        assert reply.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert "max_upload_mb" in reply.json()["detail"]

        def stream() -> Any:
            for _ in range(3):
                yield bytes(1 << 20)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        unannounced = one.client.put("/datastore/image?image=big", content=stream(), headers=headers)
        assert unannounced.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert files_of(one.study) == before


def test_session_serves_a_scan_and_ends(served):
    content = (served.study / "case.axial.nii.gz").read_bytes()
    created = served.client.put("/session/", files=[("files", ("mine.nii.gz", content))])
    assert created.status_code == OK, created.text
    session_id = created.json()["session_id"]
    assert served.client.get(f"/session/{session_id}").json()["name"] == session_id
    assert served.client.get(f"/session/{session_id}?image=true").content == content
    answer = served.client.post(
        f"/infer/nodule_click?image=&session_id={session_id}", data={"params": '{"foreground": [[8, 9, 10]]}'}
    )
    assert answer.status_code == OK
    assert served.client.delete(f"/session/{session_id}").status_code == OK
    assert served.client.get(f"/session/{session_id}").status_code == HTTPStatus.NOT_FOUND


def test_session_ids_cannot_name_other_folders(served):
    victim = served.app.state_folder / "victim"
    victim.mkdir()
    (victim / "meta.info").write_text(json.dumps({"image": "/nowhere", "path": "", "name": "x"}))
    for session_id in ("..", "../victim", "%2e%2e%2fvictim", "..%5cvictim"):
        assert served.client.delete(f"/session/{session_id}").status_code in (404, 405)
        assert served.client.post(f"/infer/lungs?session_id={session_id}").status_code == HTTPStatus.NOT_FOUND
    assert (victim / "meta.info").is_file()


def test_old_sessions_are_removed(served):
    from medai.server.sessions import remove_expired

    content = (served.study / "case.axial.nii.gz").read_bytes()
    session_id = served.client.put("/session/", files=[("files", ("a.nii.gz", content))]).json()["session_id"]
    assert remove_expired(served.app) == 0
    folder = served.app.state_folder / "sessions" / session_id
    info = json.loads((folder / "meta.info").read_text())
    (folder / "meta.info").write_text(json.dumps({**info, "last_access_ts": 1000}))
    assert remove_expired(served.app) == 1
    assert not folder.exists()


@pytest.mark.parametrize("files", [[], [("files", ("a.zip", b"PK"))], [("files", ("a.nii", b""))] * 2])
def test_session_takes_one_scan(served, files: Any):
    reply = served.client.put("/session/", files=files)
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/activelearning/best", 404, "uncertainty"),
        ("POST", "/scoring/dice", 404, "uncertainty"),
        ("POST", "/train/lungs", 404, "nodule_detection"),
        ("GET", "/datastore/image?image=nope", 404, "case"),
        ("GET", "/datastore/image?image=x/../../study", 422, "path separator"),
        ("GET", "/datastore/label?label=case.axial&tag=final", 404, "none"),
        ("GET", "/datastore/label?label=case.axial&tag=../..", 404, "none"),
        ("DELETE", "/datastore/image?id=nope", 404, "case"),
        ("GET", "/datastore/dataset", 404, "final label"),
        ("GET", "/model/info/lungs", 404, "weights"),
        ("GET", "/model/nope", 404, "nodule_click"),
        ("GET", "/session/nope", 404, "session"),
        ("GET", "/datastore/?output=everything", 422, "output"),
    ],
)
def test_refusals_say_what_is_valid(shared, method: str, path: str, status: int, says: str):
    reply = shared.client.request(method, path)
    assert reply.status_code == status
    assert says in reply.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/proxy/dicom/wado/x", "/logs/", "/reload", "/infer/wsi/x", "/ohif/", "/static/ohif/index.html"]
)
def test_what_is_unsafe_is_not_served(shared, path: str):
    assert shared.client.get(path).status_code in (404, 405)
    assert shared.client.post(path).status_code in (404, 405)


@pytest.mark.parametrize("path", ["/logs/", "/logs/?lines=10&html=false", "/logs/gpu"])
def test_logs_are_answered_in_words(shared, path: str):
    reply = shared.client.get(path)
    assert reply.status_code == HTTPStatus.NOT_FOUND
    assert ".medai/logs/server.log in the study's folder" in reply.json()["detail"]


def test_weights_cannot_be_replaced_over_http(shared):
    assert shared.client.put("/model/nodule_click", files={"file": b"x"}).status_code == 405
    assert shared.client.delete("/model/nodule_click").status_code == 405


def test_faults_are_numbered_and_tell_nothing(shared, caplog: pytest.LogCaptureFixture):
    def fail() -> None:
        raise RuntimeError("secret detail")

    shared.clicks.before = fail
    reply = shared.click()
    shared.clicks.before = lambda: None
    assert reply.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "secret" not in reply.text
    number = reply.json()["detail"].split("fault ")[1][:8]
    assert number in caplog.text
    assert "secret detail" in caplog.text


def test_other_web_pages_may_not_call(shared):
    allowed = shared.client.get("/info/", headers={"Origin": "http://localhost:3000"})
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
    foreign = shared.client.get("/info/", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


def test_home_shows_the_routes(shared):
    assert "/infer/{model}" in shared.client.get("/openapi.json").json()["paths"]
    assert shared.client.get("/").url.path == "/docs"
