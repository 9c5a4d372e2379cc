"""What a client sends that is nearly right: refused in words that help, bounded, and nothing changed."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.server.conftest import Served

from medai.domain import LabelMap, Segment
from medai.volume_io.readers import read_geometry, read_volume
from medai.volume_io.writers import write_label_map, write_volume

CASE = "case.axial"
REFUSED = 422


def label_bytes(served: Served, folder: Path, *, name: str = "label.nii.gz", case_id: str = CASE) -> bytes:
    geometry = read_geometry(served.study / f"{case_id}.nii.gz")
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8)
    labels[6:11, 7:12, 8:13] = 1
    path = folder / name
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),)), path)
    return path.read_bytes()


def submit(served: Served, folder: Path, segment: str = "nodule", case_id: str = CASE) -> dict[str, Any]:
    params = {"label_info": [{"name": segment, "idx": 1}], "client_id": "ann"}
    reply = served.client.put(
        f"/datastore/label?image={case_id}&tag=final",
        files={"label": ("label.nii.gz", label_bytes(served, folder, case_id=case_id))},
        data={"params": json.dumps(params)},
    )
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


def test_a_long_number_is_refused_in_the_clients_words(shared: Served):
    body = b'{"client_id": %s}' % (b"7" * 9000)
    reply = shared.client.post("/activelearning/first", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == REFUSED
    assert "a whole number of 9000 digits" in reply.json()["detail"]
    assert "sys." not in reply.text


def test_a_message_is_no_longer_than_anybody_reads(shared: Served):
    sizes = b"NRRD0004\ntype: short\ndimension: 3\nencoding: raw\nsizes: " + b"1 " * 90_000 + b"\n\n"
    reply = shared.client.put("/datastore/image", files={"file": ("long.nrrd", sizes)})
    assert reply.status_code == REFUSED
    assert len(reply.json()["detail"]) < 300
    reply = shared.client.post("/batch/infer/lungs", json={"max_batch_size": "1" * 90_000})
    assert reply.status_code == REFUSED
    assert len(reply.content) < 2200
    assert reply.json()["detail"].endswith("0 for all.")


def test_a_field_that_a_header_lacks_is_named(shared: Served):
    reply = shared.client.put("/datastore/image", files={"file": ("a.nrrd", b"NRRD0004\ntype: short\n\n")})
    assert "it has no field 'sizes'" in reply.json()["detail"]


def test_a_segmentation_is_no_scan_whatever_it_is_sent_as(shared: Served, tmp_path: Path):
    content = label_bytes(shared, tmp_path, name="mine.seg.nrrd")
    reply = shared.client.put("/datastore/image", files={"file": ("mine.seg.nrrd", content)})
    assert reply.status_code == REFUSED
    assert "is a segmentation. Upload the scan" in reply.json()["detail"]


def test_a_zip_without_the_word_for_it_says_the_word(shared: Served):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(shared.study / f"{CASE}.nii.gz", "scan.nii.gz")
    reply = shared.client.put("/session/", files={"files": ("scan.zip", packed.getvalue())})
    assert reply.status_code == REFUSED
    assert "uncompress=true" in reply.json()["detail"]


def test_a_session_ends_at_its_time_and_not_when_it_is_cleaned_away(shared: Served, monkeypatch: pytest.MonkeyPatch):
    scan = (shared.study / f"{CASE}.nii.gz").read_bytes()
    reply = shared.client.put("/session/?expiry=30", files={"files": ("scan.nii.gz", scan)})
    address = f"/session/{reply.json()['session_id']}"
    assert shared.client.get(address).status_code == 200
    began_s = reply.json()["session_info"]["last_access_ts"]
    monkeypatch.setattr("medai.server.sessions.time.time", lambda: began_s + 32)
    assert shared.client.get(address).status_code == 404


@pytest.mark.parametrize("largest", [True, -2, 1.5, "3"])
def test_a_batch_takes_a_whole_number_of_cases(shared: Served, largest: Any):
    reply = shared.client.post("/batch/infer/lungs", json={"max_batch_size": largest})
    assert reply.status_code == REFUSED
    assert "whole number" in reply.json()["detail"]


@pytest.mark.parametrize("status", ["aproved", 5, None, ["flagged"]])
def test_a_word_that_is_none_lifts_no_flag(served: Served, tmp_path: Path, status: Any):
    submit(served, tmp_path)

    def say(word: Any) -> Any:
        params = json.dumps({"segmentationMeta": {"status": word, "approvedBy": "chief"}})
        return served.client.put(f"/datastore/updatelabelinfo?label={CASE}&tag=final", data={"params": params})

    assert say("flagged").status_code == 200
    refused = say(status)
    assert refused.status_code == REFUSED
    assert "a reviewer says approved, flagged" in refused.json()["detail"]
    assert "flagged by chief" in served.app.study.withheld_labels()[CASE]
    assert say("in progress").json()["review"] == ""


def test_what_is_said_of_a_label_is_checked_and_bounded(served: Served, tmp_path: Path):
    submit(served, tmp_path)
    address = f"/datastore/label/info?label={CASE}&tag=final"
    before = served.client.get(address).json()
    for info, says in (({"label_info": "nodule"}, "must be a list"), ({"note": "x" * 600_000}, "512 KB")):
        reply = served.client.put(address, data={"info": json.dumps(info)})
        assert reply.status_code == REFUSED
        assert says in reply.json()["detail"]
    image = f"/datastore/image/info?image={CASE}"
    assert served.client.put(image, data={"info": json.dumps({"a": "x" * 300_000})}).status_code == 200
    assert served.client.put(image, data={"info": json.dumps({"b": "x" * 300_000})}).status_code == REFUSED
    assert set(served.client.get(image).json()) & {"a", "b"} == {"a"}
    scan = (served.study / f"{CASE}.nii.gz").read_bytes()
    big = {"params": json.dumps({"a": "x" * 600_000})}
    reply = served.client.put("/datastore/image?image=new", files={"file": ("new.nii.gz", scan)}, data=big)
    assert reply.status_code == REFUSED
    assert not (served.study / "new.nii.gz").exists()
    assert served.client.get(address).json() == before


def test_no_nodules_that_are_outlined_are_told_and_held(served: Served, tmp_path: Path):
    reply = submit(served, tmp_path, segment="No nodules")
    assert "its segment 'No nodules' holds voxels" in reply["params"]["quarantine"]
    served.app.annotations.wait()
    assert CASE in served.app.study.withheld_labels()
    assert "quarantine" not in submit(served, tmp_path)["params"]


def test_a_label_put_where_a_deleted_scans_lay_is_not_the_next_scans(served: Served, tmp_path: Path):
    submit(served, tmp_path)
    assert served.client.delete(f"/datastore/image?id={CASE}").status_code == 200
    stray = served.study / "labels" / "final" / f"{CASE}.nii.gz"
    stray.write_bytes(label_bytes(served, tmp_path, case_id="case_oblique"))
    other = tmp_path / "other.nii.gz"
    write_volume(read_volume(served.study / "case_flipped.nii.gz"), other)
    reply = served.client.put(f"/datastore/image?image={CASE}", files={"file": ("other.nii.gz", other.read_bytes())})
    assert reply.status_code == 200, reply.text
    assert served.client.get(f"/datastore/label?label={CASE}&tag=final").status_code == 404
    assert CASE in served.app.study.unlabeled()
    assert len(list((served.study / ".medai" / "deleted").rglob(f"{CASE}.nii.gz"))) == 1
