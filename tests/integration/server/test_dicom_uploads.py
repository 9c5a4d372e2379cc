"""DICOM and archives by HTTP: sessions of several files, single slices beside a scan; with MONAI Label's own client."""

from __future__ import annotations

import io
import json
import zipfile
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.dicom_factory import SeriesRecipe, show_a_chest, slice_dataset, write_series

from medai.server import session_upload
from medai.volume_io.dicom_series import find_series, read_series
from medai.volume_io.readers import read_volume

OK = HTTPStatus.OK
RECIPE = SeriesRecipe(shape_ijk=(10, 11, 12))
CLICK = {"params": json.dumps({"foreground": [[5, 5, 6]]})}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A series that could be a chest CT."""
    return write_series(tmp_path_factory.mktemp("series"), RECIPE, edit=show_a_chest)


def parts_of(paths: list[Path]) -> list[tuple[str, tuple[str, bytes]]]:
    # Every slice under one name, as some clients send them.
    return [("files", ("IM.dcm", path.read_bytes())) for path in paths]


def zipped(paths: list[Path], *, folder: str = "DICOM/S1", **more: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(paths):
            archive.write(path, f"{folder}/IM{number}")
        for name, data in more.items():
            archive.writestr(name, data)
    return content.getvalue()


def kept_below(study: Path) -> list[Path]:
    """Scans and sessions on the disk; logs and databases grow with every request."""
    folders = [study / ".medai" / name for name in ("sessions", "scans", "tmp", "cases")]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix != ".lock")


def session_of(served: Any, files: Any, query: str = "") -> Any:
    return served.client.put(f"/session/{query}", files=files)


def check_scan(served: Any, reply: Any, series: list[Path], tmp_path: Path) -> None:
    """The session holds the series as import reads it, and a click on it is answered."""
    assert reply.status_code == OK, reply.text
    session_id = reply.json()["session_id"]
    (tmp_path / "scan.nii.gz").write_bytes(served.client.get(f"/session/{session_id}?image=true").content)
    expected = read_series(find_series(series[0].parent)[0])
    found = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(found.image_hu, expected.image_hu)
    assert found.geometry.is_same_grid(expected.geometry)
    assert served.client.post(f"/infer/nodule_click?session_id={session_id}", data=CLICK).status_code == OK


def test_a_session_takes_the_slices_of_a_series(served, series, tmp_path: Path):
    check_scan(served, session_of(served, parts_of(series)), series, tmp_path)


def test_a_session_takes_a_zip_of_a_series(served, series, tmp_path: Path):
    content = zipped(series, **{"readme.txt": b"beside it", "../../evil": b"x"})
    reply = session_of(served, [("files", ("scan.zip", content))], "?uncompress=true")
    check_scan(served, reply, series, tmp_path)
    assert not list(served.study.parent.rglob("evil"))


def test_a_session_takes_a_zip_of_a_volume_file(served):
    scan = (served.study / "case_oblique.nii.gz").read_bytes()
    content = zipped([], **{"folder/my scan.NII.GZ": scan})
    reply = session_of(served, [("files", ("scan.zip", content))], "?uncompress=true")
    assert reply.status_code == OK, reply.text
    session_id = reply.json()["session_id"]
    assert served.client.get(f"/session/{session_id}?image=true").content == scan


def test_what_is_no_single_scan_is_refused_with_what_was_found(served, series, monkeypatch: pytest.MonkeyPatch):
    before = kept_below(served.study)
    scan = (served.study / "case.axial.nii.gz").read_bytes()
    volume = ("files", ("a.nii.gz", scan))
    cases = [
        ([volume, volume], "", "2 volume files, 0 DICOM files"),
        ([volume, *parts_of(series[:2])], "", "1 volume files, 2 DICOM files"),
        ([("files", ("a.txt", b"words"))], "", "1 others"),
        ([("files", ("a.zip", scan))], "?uncompress=true", "not a ZIP file that can be opened"),
        ([("files", ("a.zip", zipped(series)[:-40]))], "?uncompress=true", "not a ZIP file that can be opened"),
        ([volume, volume], "?uncompress=true", "one ZIP file, not 2 files"),
        ([("files", ("a.zip", zipped([])))], "?uncompress=true", "0 volume files, 0 DICOM files"),
        (parts_of(series[:1]), "", "one slice"),
    ]
    for files, query, says in cases:
        reply = session_of(served, files, query)
        assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY, reply.text
        assert says in reply.json()["detail"]
    monkeypatch.setattr(session_upload, "MOST_FILES", 3)
    too_many = session_of(served, [("files", ("a.zip", zipped(series)))], "?uncompress=true")
    assert "holds 12 files; at most 3" in too_many.json()["detail"]
    assert kept_below(served.study) == before


def test_an_archive_is_measured_as_it_is_inflated(served, tmp_path: Path):
    """A ZIP of a kilobyte may hold a gigabyte; here the bound is set low instead."""
    from fastapi import UploadFile

    from medai.errors import InputError

    content = zipped([], **{"zeros.nii": bytes(3 << 20)})
    assert len(content) < 10_000
    upload = UploadFile(io.BytesIO(content), filename="small.zip")
    with pytest.raises(InputError, match="--conf max_upload_mb"):
        session_upload.gather_scan([upload], tmp_path, uncompress=True, largest_bytes=2 << 20)


def test_single_slices_beside_a_scan_let_the_plugin_go_on(served, tmp_path: Path):
    """The plugin's "include DICOM files": the volume first, then slice by slice under its name."""
    dataset = slice_dataset(RECIPE, 3)
    dataset.PatientID = "Somebody^Known"
    dataset.save_as(tmp_path / "slice", enforce_file_format=True)
    content = (tmp_path / "slice").read_bytes()
    before = {path.name for path in served.study.iterdir()}
    replies = [
        served.client.put("/datastore/?image=case_oblique", files={"file": (name, content)})
        for name in ("1.2.3.dcm", "IM0002", "1.2.3.4")
    ]
    assert [reply.status_code for reply in replies] == [OK] * 3
    assert [reply.json()["image"] for reply in replies] == ["case_oblique"] * 3
    assert "which patient the case belongs to" in replies[0].json()["detail"]
    assert "known of this case already" in replies[1].json()["detail"]
    assert {path.name for path in served.study.iterdir()} == before
    facts = (served.study / ".medai" / "cases" / "case_oblique.json").read_text()
    assert json.loads(facts)["patient_key"]
    assert "Somebody" not in facts
    lonely = served.client.put("/datastore/image?image=nowhere", files={"file": ("a.dcm", content)})
    assert lonely.status_code == OK
    assert lonely.json()["kept"] is False
    assert "no scan" in lonely.json()["detail"]
    words = served.client.put("/datastore/image?image=x", files={"file": ("a.txt", b"words")})
    assert words.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "must end in" in words.json()["detail"]
