"""What one client may take: bytes, voxels, places, points; what it is told; and where things lie meanwhile."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import tempfile
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import Served, make_study, serve
from tests.integration.server.test_study_routes import files_of, label_file, submit

from medai.domain import Volume
from medai.errors import InputError
from medai.server.temporary import TemporaryFolder
from medai.volume_io import nifti, readers
from medai.volume_io.options import ReadOptions

REFUSED, BUSY = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE


def huge_nifti() -> bytes:
    """A header that speaks of 4000×4000×4000 voxels, and a few bytes."""
    header = bytearray(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4)).header.binaryblock)
    struct.pack_into("<8h", header, 40, 3, 4000, 4000, 4000, 1, 1, 1, 1)
    return gzip.compress(bytes(header) + bytes(2000), mtime=0)


def huge_nrrd() -> bytes:
    lines = ["NRRD0005", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 4000 4000 4000"]
    lines += ["space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)", "endian: little", "encoding: gzip"]
    return "\n".join([*lines, "", ""]).encode() + gzip.compress(bytes(2000), mtime=0)


def huge_mha() -> bytes:
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [
        "CompressedData = False",
        "DimSize = 4000 4000 4000",
        "ElementType = MET_SHORT",
        "ElementDataFile = LOCAL",
    ]
    return "\n".join([*lines, ""]).encode() + bytes(2000)


DOORS: dict[str, Callable[[Served, str, bytes], Any]] = {
    "image": lambda one, name, content: one.client.put("/datastore/image?image=big", files={"file": (name, content)}),
    "session": lambda one, name, content: one.client.put("/session/", files=[("files", (name, content))]),
    "infer": lambda one, name, content: one.client.post(
        "/infer/nodule_click", data={"params": '{"foreground": [[1, 1, 1]]}'}, files={"file": (name, content)}
    ),
    "lungs": lambda one, name, content: one.client.post("/infer/lungs", files={"file": (name, content)}),
    "label": lambda one, name, content: one.client.put(
        "/datastore/label?image=case.axial", files={"label": (name, content)}
    ),
    "scribbles": lambda one, name, content: one.client.post(
        "/infer/Histogram+GraphCut?image=case.axial", files={"label": (name, content)}
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.nii.gz", huge_nifti()), ("a.nrrd", huge_nrrd()), ("a.mha", huge_mha())],
    ids=["nifti", "nrrd", "mha"],
)
def test_no_door_inflates_what_is_larger_than_the_budget(shared: Served, door: str, name: str, content: bytes) -> None:
    before = files_of(shared.study)
    reply = DOORS[door](shared, name, content)
    assert reply.status_code == REFUSED, reply.text
    words = ("4000×4000×4000", "truncated") if door != "scribbles" else ("voxels",)
    assert any(word in reply.json()["detail"] for word in words)
    assert files_of(shared.study) == before


def test_the_budget_is_a_setting_that_the_refusal_names(tmp_path: Path) -> None:
    for one in serve(make_study(tmp_path / "study"), {"max_scan_mvoxels": "1"}):
        path = tmp_path / "large.nii"
        nib.save(nib.Nifti1Image(np.zeros((101, 100, 103), np.int16), np.eye(4)), path)
        for door in ("image", "session", "infer", "lungs"):
            reply = DOORS[door](one, "large.nii", path.read_bytes())
            assert reply.status_code == REFUSED
            assert "at most 1000000 voxels" in reply.json()["detail"]
            assert "max_scan_mvoxels" in reply.json()["detail"]
        assert one.click().status_code == HTTPStatus.OK


# -- uploads are private and leave nothing ---------------------------------------------------------------------------


def cached(one: Served) -> list[str]:
    one.app.scans._writer.submit(lambda: None).result()
    return sorted(path.name for path in (one.app.state_folder / "scans").glob("*.npy"))


def test_uploaded_scans_never_lie_in_the_studys_cache(tmp_path: Path) -> None:
    for one in serve(make_study(tmp_path / "study"), {"prefetch": "off"}):
        one.app.scans._write_pause_s = 0.0
        content = (one.study / "case.axial.nii.gz").read_bytes()
        params = {"params": '{"foreground": [[8, 9, 10]]}'}
        sent = one.client.post("/infer/nodule_click", data=params, files={"file": ("mine.nii.gz", content)})
        assert sent.status_code == HTTPStatus.OK, sent.text
        session = one.client.put("/session/", files=[("files", ("mine.nii.gz", content))]).json()["session_id"]
        for _ in range(2):
            reply = one.client.post(f"/infer/nodule_click?session_id={session}", data=params)
            assert reply.status_code == HTTPStatus.OK
        assert cached(one) == []
        assert len(one.app.scans._open) == 1
        assert one.client.delete(f"/session/{session}").status_code == HTTPStatus.OK
        assert len(one.app.scans._open) == 0
        assert one.click().status_code == HTTPStatus.OK
        assert len(cached(one)) == 1
        assert [path.name for path in (one.app.state_folder / "tmp").rglob("*") if path.is_file()] == [
            Path(one.state.temporary._lock.lock_file).name
        ]


def test_temporary_files_lie_in_one_folder_of_the_owner_and_go_with_the_server(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    left = study / ".medai" / "tmp" / "4000000-deadbeef"
    left.mkdir(parents=True)
    (left / "upload.nii.gz").write_bytes(b"of a server that was killed")
    before = tempfile.tempdir
    other = TemporaryFolder(study / ".medai" / "tmp")
    kept = other.path / "of a server that lives"
    kept.touch()
    assert not left.exists()
    for one in serve(study):
        folder = Path(tempfile.gettempdir())
        assert folder.parent == one.app.state_folder / "tmp"
        assert folder.stat().st_mode & 0o077 == 0
        assert folder.parent.stat().st_mode & 0o077 == 0
        assert kept.is_file()
    assert not folder.exists()
    other.close()
    assert list((study / ".medai" / "tmp").iterdir()) == []
    assert tempfile.tempdir == before


# -- places ---------------------------------------------------------------------------------------------------------


def test_sessions_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    for one in serve(make_study(tmp_path / "study"), {"max_sessions": "2", "max_sessions_mb": "1"}):
        content = (one.study / "case.axial.nii.gz").read_bytes()
        ids = [DOORS["session"](one, "a.nii.gz", content).json()["session_id"] for _ in range(2)]
        refused = DOORS["session"](one, "a.nii.gz", content)
        assert refused.status_code == BUSY
        assert "max_sessions" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        one.client.delete(f"/session/{ids[0]}")
        path = tmp_path / "large.nii"
        nib.save(nib.Nifti1Image(np.zeros((90, 91, 80), np.int16), np.eye(4)), path)
        refused = DOORS["session"](one, "large.nii", path.read_bytes())
        assert refused.status_code == BUSY
        assert "max_sessions_mb" in refused.json()["detail"]
        assert DOORS["session"](one, "a.nii.gz", content).status_code == HTTPStatus.OK


def test_a_damaged_session_is_no_session(served: Served) -> None:
    content = (served.study / "case.axial.nii.gz").read_bytes()
    session = DOORS["session"](served, "a.nii.gz", content).json()["session_id"]
    served.app.sessions().clear()
    (served.app.state_folder / "sessions" / session / "meta.info").write_text('{"name": "x", "ima')
    assert served.client.get(f"/session/{session}").status_code == HTTPStatus.NOT_FOUND
    assert DOORS["session"](served, "a.nii.gz", content).status_code == HTTPStatus.OK
    assert not (served.app.state_folder / "sessions" / session).exists()


def test_uploads_under_way_are_bounded(shared: Served, tmp_path: Path) -> None:
    slots = shared.state.uploads
    content = (shared.study / "case.axial.nii.gz").read_bytes()
    with slots.hold() as slot:
        slot.take(4 * slots.largest_bytes)
        refused = DOORS["lungs"](shared, "a.nii.gz", content)
    assert refused.status_code == BUSY
    assert "max_upload_mb" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    held = [slots.hold() for _ in range(64)]
    for each in held:
        each.__enter__()
    refused = DOORS["lungs"](shared, "a.nii.gz", content)
    assert shared.client.get("/info/").status_code == HTTPStatus.OK
    for each in held:
        each.__exit__(None, None, None)
    assert refused.status_code == BUSY
    assert "max_uploads" in refused.json()["detail"]
    assert DOORS["lungs"](shared, "a.nii.gz", content).status_code == HTTPStatus.OK


# -- points and regions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"foreground": [[1, 1, 1]] * 1001}, "'foreground' holds 1001 points; it takes 1000"),
        ({"background": [[1, 1, n] for n in range(4000)]}, "'background' holds 4000 points; it takes 1000"),
        ({"nodule": [[1, 1, 1]] * 1001}, "'nodule' holds 1001 points"),
        ({"foreground": [["x" * 9000, 1, 1]]}, "whole numbers"),
        ({"foreground": [[8, 9, 10]], "roi": [100, 120, 5, 9, 5, 9]}, "outside the scan, which has 20×22×24 voxels"),
        ({"foreground": [[8, 9, 10]], "roi": [-9, -1, 5, 9, 5, 9]}, "'roi' [-9, -1, 5, 9, 5, 9]"),
        ({"foreground": [[8, 9, 10]], "roi": [1 << 40] * 6}, "outside the scan"),
        ({"foreground": [[8, 9, 10]], "roi": list(range(5000))}, "six voxel indices"),
    ],
)
def test_points_are_counted_and_regions_placed(shared: Served, params: dict[str, Any], says: str) -> None:
    reply = shared.click(**{"foreground": [], **params})
    assert reply.status_code == REFUSED, reply.text
    assert says in reply.json()["detail"]
    assert len(reply.json()["detail"]) < 400


# -- our own faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (errno.EMFILE, BUSY, "Too many open files"),
        (errno.EACCES, BUSY, "permissions"),
        (errno.EIO, BUSY, "Check the disk"),
        (errno.ESTALE, BUSY, "Check the disk"),
        (errno.ENOSPC, HTTPStatus.INSUFFICIENT_STORAGE, "Free space"),
        (None, REFUSED, "damaged"),
    ],
)
def test_a_disk_that_refuses_is_no_damaged_scan(
    served: Served, monkeypatch: pytest.MonkeyPatch, number: int | None, status: int, says: str
) -> None:
    class RefusedReader(nifti.NiftiReader):
        """What the disk says, raised as readers do: as damage."""

        def read_volume(self, path: Path, options: ReadOptions) -> Volume:
            said = OSError("not a gzip file") if number is None else OSError(number, os.strerror(number), "/secret")
            raise InputError(f"{path.name} is damaged: {said.strerror}.") from said

    monkeypatch.setattr(readers, "READERS", (RefusedReader(),))
    for image in ("case.axial", "case_oblique"):
        reply = served.client.post(f"/infer/lungs?image={image}")
        assert reply.status_code == status, reply.text
        assert says in reply.json()["detail"]
        assert "/secret" not in reply.text


# -- paths ------------------------------------------------------------------------------------------------------------


def test_no_answer_says_where_files_lie_unless_paths_are_shared(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    for one in serve(study, {"share_paths": "false"}):
        submit(one, label_file(tmp_path, "case.axial"))
        content = (one.study / "case.axial.nii.gz").read_bytes()
        made = DOORS["session"](one, "a.nii.gz", content)
        session = made.json()["session_id"]
        answers = [made, DOORS["session"](one, "a.nii.gz", content[:200]), DOORS["image"](one, "a.nii.gz", b"x")]
        (study / "case_oblique.nii.gz").write_bytes(b"damaged")
        asked = (
            "/info/",
            "/datastore/",
            "/datastore/?output=train",
            "/datastore/?output=all",
            "/datastore/image/info?image=case.axial",
            "/datastore/label/info?label=case.axial&tag=final",
            f"/session/{session}",
            "/medai/status",
            "/medai/annotations",
            "/medai/models",
            "/datastore/image?image=case_oblique",
            "/datastore/image?image=nope",
            "/model/nodule_click",
            "/model/info/nodule_click",
            "/train/",
            "/batch/infer",
            "/openapi.json",
        )
        answers += [one.client.get(path) for path in asked]
        answers += [
            one.client.post("/infer/lungs?image=case_oblique"),
            one.client.post("/activelearning/first", json={}),
            one.client.post("/batch/infer/lungs?run_sync=true", json={"save_label": False}),
            one.client.get("/batch/infer"),
            one.client.delete(f"/session/{session}"),
        ]
        for answer in answers:
            head = answer.content if len(answer.content) < 100_000 else answer.content[:100_000]
            for place in (str(study), str(tmp_path), tempfile.gettempdir(), str(Path(nifti.__file__).parent)):
                assert place.encode() not in head, (answer.request.url, answer.text[:300])
        pairs = one.client.get("/datastore/?output=train").json()
        assert pairs == [{"image": "STUDY/case.axial.nii.gz", "label": "STUDY/labels/final/case.axial.nii.gz"}]
        assert one.client.get("/datastore/image?image=case.axial").content == content


def test_paths_are_told_where_they_are_shared(shared: Served) -> None:
    info = shared.client.get("/datastore/image/info?image=case.axial").json()
    assert info["path"] == str(shared.study / "case.axial.nii.gz")
