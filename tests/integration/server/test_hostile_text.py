"""Text that no file, database or log takes: refused at every door, and a study that once took it opens again."""

from __future__ import annotations

import json
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from tests.integration.server.conftest import make_study, serve
from tests.integration.server.test_study_routes import files_of, label_file, submit
from typer.testing import CliRunner

from medai.cli.main import app as command_line
from medai.server.bounded_route import all_bounded
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import StudyStore
from medai.workflows.session_status import study_status

REFUSED = HTTPStatus.UNPROCESSABLE_ENTITY
HALF = r"\ud800"


def raw_form(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    """A multipart body as bytes, so that it may be wrong."""
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode("utf-8", "surrogateescape")
        + content
        + b"\r\n"
        for head, content in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def everything_in(study: Path) -> set[str]:
    """The files of the study and of its history; what the server writes for itself comes and goes."""
    history = {path.relative_to(study) for path in (study / ".medai" / "annotations").rglob("*")}
    return set(files_of(study)) | {str(path) for path in history}


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/activelearning/first", {"json": {"client_id": HALF}}, "client_id"),
        ("POST", "/train/nodule_click", {"json": {"note": HALF}}, "note"),
        ("POST", "/train/", {"json": {"nodule_click": {"name": HALF}}}, "nodule_click.name"),
        ("POST", "/batch/infer/lungs", {"json": {"label_tag": HALF}}, "label_tag"),
        ("POST", "/infer/nodule_click?image=case.axial", {"params": {"label": HALF}}, "params.label"),
        ("PUT", "/datastore/image/info?image=case.axial", {"info": {"note": [HALF]}}, "info.note[0]"),
        ("PUT", "/datastore/label/info?label=case.axial&tag=final", {"info": {"a": HALF}}, "info.a"),
        ("PUT", "/datastore/updatelabelinfo?label=case.axial&tag=final", {"params": {"a": {"b": HALF}}}, "params.a.b"),
    ],
)
def test_half_a_character_is_refused_by_every_route_that_takes_json(
    shared: Any, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    before = everything_in(shared.study)
    ((kind, content),) = body.items()
    text = json.dumps(content).replace(r"\\ud800", HALF)
    if kind == "json":
        reply = shared.client.request(method, path, content=text, headers={"content-type": "application/json"})
    else:
        reply = shared.client.request(method, path, data={kind: text})
    assert reply.status_code == REFUSED, reply.text
    assert f"{field}' is no valid Unicode text" in reply.json()["detail"]
    assert everything_in(shared.study) == before


@pytest.mark.parametrize("params", [{"client_id": HALF}, {"label_info": [{"name": HALF, "idx": 1}]}, {HALF: 1}])
def test_a_label_with_half_a_character_changes_nothing(shared: Any, tmp_path: Path, params: dict[str, Any]) -> None:
    before = everything_in(shared.study)
    text = json.dumps(params).replace(r"\\ud800", HALF)
    with label_file(tmp_path, "case.axial").open("rb") as file:
        reply = shared.client.put(
            "/datastore/label?image=case.axial", data={"params": text}, files={"label": ("label.nii.gz", file)}
        )
    assert reply.status_code == REFUSED
    assert "valid Unicode" in reply.json()["detail"]
    assert everything_in(shared.study) == before


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/datastore/image?image=%ed%a0%80", "'image' is not UTF-8"),
        ("/datastore/label?label=case.axial&tag=%ff", "'tag' is not UTF-8"),
        ("/activelearning/%c3%28", "'the path' is not UTF-8"),
        ("/datastore/image?image=a%0ab", "'image' holds the control character"),
        ("/datastore/image?image=a%00", "'image' holds the control character"),
        ("/datastore/image?image=" + "x" * 1100, "1100 characters"),
        ("/datastore/image?image=a&image=b", "'image' is there twice"),
        ("/info/?" + "&".join(f"a{n}=1" for n in range(40)), "40 parameters"),
    ],
)
def test_addresses_are_text(shared: Any, path: str, says: str) -> None:
    for method in ("GET", "DELETE", "POST"):
        reply = shared.client.request(method, path)
        assert reply.status_code == REFUSED
        assert says in reply.json()["detail"]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([('name="params"', b'{"label": "\xff"}')], "'params' is not UTF-8"),
        ([('name="params"', b"{}"), ('name="params"', b"{}")], "'params' is there twice"),
        ([('name="par\udcffams"', b"{}")], "Content-Disposition"),
        ([('name="params"; x="y"', b"{}"), ('name="file"; filename="sc\udcedan.nii.gz"', b"1")], "Content-Disposition"),
        ([('name="file"; filename="scan\n.nii.gz"', b"1")], ""),
        ([(f'name="f{n}"', b"1") for n in range(40)], "Too many fields"),
        ([(f'name="f{n}"; filename="a.nii"', b"1") for n in range(9)], "Too many files"),
        ([('name="params"', b'{"a": "' + b"x" * (1 << 20) + b'"}')], "Part exceeded"),
    ],
)
def test_forms_are_text_and_bounded(shared: Any, parts: list[tuple[str, bytes]], says: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b0undary"}
    body = raw_form("b0undary", *parts)
    reply = shared.client.post("/infer/nodule_click?image=case.axial", content=body, headers=headers)
    assert HTTPStatus.BAD_REQUEST <= reply.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, reply.text
    assert says in reply.json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data", b"--x\r\n", 400),
        ("multipart/form-data; boundary=", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"no boundary in here", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--", 400),
        ("multipart/form-data; boundary=x; charset=utf-16", b"--x--", 415),
        ("application/json", b'{"foreground": [[8, 9, 10]]}', 415),
        ("application/x-www-form-urlencoded", b"params=%7B%22label%22%3A%22%ff%22%7D", 422),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(60)), 422),
        ("application/x-www-form-urlencoded", b"params=" + b"x" * (2 << 20), 413),
    ],
)
def test_other_forms_are_refused_in_words(shared: Any, content_type: str, body: bytes, status: int) -> None:
    reply = shared.client.post(
        "/infer/nodule_click?image=case.axial", content=body, headers={"content-type": content_type}
    )
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"]


def test_every_route_with_a_body_checks_it(shared: Any) -> None:
    assert all_bounded(shared.client.app)


def test_a_body_without_files_has_at_most_a_megabyte(shared: Any) -> None:
    text = json.dumps({"client_id": "a", "note": "x" * (2 << 20)})
    headers = {"content-type": "application/json"}
    for content in (text.encode(), iter([text.encode()])):
        reply = shared.client.post("/activelearning/first", content=content, headers=headers)
        assert reply.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert "1 MB" in reply.json()["detail"]


# -- a study that took such text before -----------------------------------------------------------------------------


def spoil(study: Path, tmp_path: Path) -> Path:
    """What the request left that no command got over: a kept label without a row, whose annotator is half a character.

    Returns:
        The kept label.
    """
    log = AnnotationLog(study)
    label = label_file(tmp_path, "case.axial")
    annotation = log.record(Submission(case_id="case.axial", annotator="anna", nodules=1), label)
    kept = log.path(annotation)
    log.close()
    (study / ".medai" / "annotations.db").unlink()
    about = {"tag": "final", "annotator": "\ud800", "submitted_at_s": 1.0, "seconds_spent": None}
    about |= {"proposal_model": None, "proposal_version": None, "sha256": annotation.sha256, "nodules": 1}
    about |= {"volume_ml": 0.1, "quarantine_reason": "", "info": {"label_info": [{"name": "n\udfff", "idx": 1}]}}
    kept.with_name(f"{annotation.annotation_id}.about.json").write_text(json.dumps(about))
    return kept


def test_a_spoiled_study_opens_and_its_label_is_taken_up(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    spoil(study, tmp_path)
    for one in serve(study):
        found = one.client.get("/medai/annotations").json()["annotations"]
        assert [(each["case_id"], each["annotator"]) for each in found] == [("case.axial", "\ufffd")]
        info = one.client.get("/datastore/label/info?label=case.axial&tag=final").json()
        assert info["label_info"] == [{"name": "n\ufffd", "idx": 1}]
    assert CliRunner().invoke(command_line, ["annotations", str(study)]).exit_code == 0


def test_what_cannot_be_taken_up_is_told_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = make_study(tmp_path / "study")
    kept = spoil(study, tmp_path)
    undecodable = Path(os.fsdecode(os.fsencode(kept.parent.parent) + b"/case\xff"))
    kept.parent.rename(undecodable)
    scan = os.fsencode(study) + b"/scan\xe4.nii.gz"
    (study / "case_oblique.nii.gz").rename(os.fsdecode(scan))
    (study / "labels" / "final").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(study / "labels" / "final") + b"/x\xfe.nii.gz")).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(study / "labels") + b"/t\xfd")).mkdir()
    for one in serve(study):
        status = one.client.get("/medai/status").json()
        assert one.client.get("/datastore/?output=all").status_code == HTTPStatus.OK
    told = "\n".join(status["passed_over"])
    for name in (r"case\udcff", r"scan\udce4", r"x\udcfe", r"t\udcfd"):
        assert name in told
    assert r"case\udcff" in caplog.text
    assert (undecodable / kept.name).is_file()
    assert study_status(study).passed_over == status["passed_over"]
    result = CliRunner().invoke(command_line, ["status", str(study)])
    assert result.exit_code == 0
    assert r"scan\udce4" in result.output


def test_an_index_with_half_characters_is_read(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    store = StudyStore(study)
    store.save_label("case.axial", label_file(tmp_path, "case.axial"), "final", {"label_names": {"nodule": 1}})
    path = study / "datastore_v2.json"
    path.write_text(path.read_text().replace("nodule", r"nod\ud800ule"))
    assert StudyStore(study).label_info("case.axial", "final")["label_names"] == {"nod\ufffdule": 1}


# -- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case_id", "status", "says"),
    [
        ("CASE.axial", 409, "upper from lower"),
        ("case\u200b.axial", 422, "cannot be seen"),
        ("CON", 422, "Windows"),
        ("lpt1.scan", 422, "Windows"),
        ("scan.", 422, "Windows"),
        ("a:b", 422, "case id"),
        ("\u202escan", 422, "cannot be seen"),
        ("\ufeff", 422, "cannot be seen"),
    ],
)
def test_new_ids_are_names_everywhere(shared: Any, case_id: str, status: int, says: str) -> None:
    content = (shared.study / "case_flipped.nii.gz").read_bytes()
    reply = shared.client.put("/datastore/image", params={"image": case_id}, files={"file": ("x.nii.gz", content)})
    assert reply.status_code == status, reply.text
    assert says in reply.text


def test_letters_written_apart_are_the_same_id(served: Any) -> None:
    content = (served.study / "case_flipped.nii.gz").read_bytes()
    for case_id, status in (
        ("胸部 CT", HTTPStatus.OK),
        ("M\u00fcller", HTTPStatus.OK),
        ("Mu\u0308ller", HTTPStatus.CONFLICT),
    ):
        reply = served.client.put("/datastore/image", params={"image": case_id}, files={"file": ("x.nii.gz", content)})
        assert reply.status_code == status
    before = files_of(served.study)
    assert submit(served, served.study / "case_flipped.nii.gz", "Mu\u0308ller").status_code == HTTPStatus.NOT_FOUND
    assert files_of(served.study) == before
