"""What ``/infer`` answers and refuses, through the ASGI app."""

from __future__ import annotations

import email
import gzip
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.writers import write_volume

CASES = ["case.axial", "case_oblique", "case_flipped"]


def parts(response: Any) -> tuple[dict[str, Any], str, bytes]:
    """Params, file name and file of a multipart answer."""
    assert response.status_code == HTTPStatus.OK, response.text
    message = email.message_from_bytes(
        b"Content-Type: " + response.headers["content-type"].encode() + b"\r\n\r\n" + response.content
    )
    params, image = message.get_payload()
    return json.loads(params.get_payload()), image.get_filename(), image.get_payload(decode=True)


def post(client: TestClient, model: str, case_id: str, params: dict[str, Any] | None = None, query: str = "") -> Any:
    params = {"result_extension": ".nrrd", **(params or {})}
    return client.post(f"/infer/{model}?image={case_id}{query}", data={"params": json.dumps(params)})


@pytest.mark.parametrize("case_id", CASES)
def test_click_comes_back_on_the_scans_grid(shared, tmp_path: Path, case_id: str):
    params, name, payload = parts(shared.click(case_id, label="Nodule right upper"))
    assert params["label_names"] == {"Nodule right upper": 1}
    assert params["model_version"] == "v1"
    assert name.endswith(".nrrd")
    path = tmp_path / name
    path.write_bytes(payload)
    label_map = read_label_map(path)
    assert label_map.geometry.is_same_grid(read_geometry(shared.study / f"{case_id}.nii.gz"))
    expected = np.zeros(label_map.labels.shape, dtype=bool)
    expected[6:11, 7:12, 8:13] = True
    np.testing.assert_array_equal(label_map.labels == 1, expected)
    assert label_map.labels.max() == 1
    assert label_map.labels.dtype == np.uint8


def test_click_tells_size_place_and_time(shared):
    params, _, _ = parts(shared.click())
    (row,) = params["nodules"]
    assert row["volume_mm3"] == pytest.approx(125 * 0.8 * 0.9 * 1.5, rel=1e-3)
    assert params["centroids"] == {"1": [8, 9, 10]}
    assert set(params["latencies"]) >= {"pre", "infer", "post", "total"}


def test_background_clicks_and_region_are_honoured(shared, tmp_path: Path):
    # The plugin's region is unsorted where an axis is flipped; both ends are inside.
    reply = shared.click(background=[[8, 9, 10]], roi=[30, 7, 0, 99, 40, 9])
    _, name, payload = parts(reply)
    (tmp_path / name).write_bytes(payload)
    labels = read_label_map(tmp_path / name).labels
    expected = np.zeros(labels.shape, dtype=bool)
    expected[7:11, 7:12, 9:13] = True
    expected[8, 9, 10] = False
    np.testing.assert_array_equal(labels == 1, expected)


@pytest.mark.parametrize("extension", [".nrrd", ".seg.nrrd", ".nii.gz", ".nii", ".mha"])
def test_result_extension(shared, tmp_path: Path, extension: str):
    _, name, payload = parts(shared.click(result_extension=extension))
    assert name.endswith(extension)
    (tmp_path / name).write_bytes(payload)
    assert read_label_map(tmp_path / name).labels.sum() == 125


def test_outputs(shared):
    query = {"params": json.dumps({"foreground": [[8, 9, 10]]})}
    as_json = shared.client.post("/infer/nodule_click?image=case.axial&output=json", data=query)
    assert as_json.json()["label_names"] == {"nodule": 1}
    image = shared.client.post("/infer/nodule_click?image=case.axial&output=image", data=query)
    assert gzip.decompress(image.content)[344:347] == b"n+1"
    assert '.nii.gz"' in image.headers["content-disposition"]
    refused = shared.client.post("/infer/nodule_click?image=case.axial&output=dicom_seg", data=query)
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "image, json and all" in refused.json()["detail"]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_answer_comes_in_the_scans_own_ending_where_none_is_asked_for(shared, tmp_path: Path, ending: str):
    """A stock client's ``-o out.nii.gz`` is then what its name says."""
    scan = tmp_path / f"scan{ending}"
    write_volume(read_volume(shared.study / "case_oblique.nii.gz"), scan)
    answer = shared.client.post(
        "/infer/nodule_click",
        data={"params": json.dumps({"foreground": [[8, 9, 10]]})},
        files={"file": (scan.name.upper(), scan.read_bytes())},
    )
    _, name, payload = parts(answer)
    assert name.endswith(ending)
    (tmp_path / name).write_bytes(payload)
    label_map = read_label_map(tmp_path / name)
    assert label_map.labels.sum() == 125
    assert label_map.geometry.is_same_grid(read_geometry(scan))


def test_scan_gives_a_segment_a_nodule(shared, tmp_path: Path):
    shared.candidates.centres_ijk = ((8, 9, 10), (3, 4, 18))
    shared.candidates.probabilities = (0.9, 0.7)
    shared.registry.versions["nodule_detection"] = "two"
    params, name, payload = parts(post(shared.client, "nodule_segmentation", "case_flipped"))
    assert list(params["label_names"].values()) == [1, 2]
    assert all(segment.startswith("Nodule ") for segment in params["label_names"])
    (tmp_path / name).write_bytes(payload)
    label_map = read_label_map(tmp_path / name)
    assert sorted(np.unique(label_map.labels)) == [0, 1, 2]
    assert label_map.label_names == params["label_names"]
    for row in params["nodules"]:
        i, j, k = params["centroids"][str(row["value"])]
        assert label_map.labels[i, j, k] == row["value"]


def test_detection_gives_boxes_at_the_nodules(shared):
    shared.candidates.centres_ijk, shared.candidates.probabilities = ((8, 9, 10),), (0.9,)
    shared.registry.versions["nodule_detection"] = "one"
    _, name, payload = parts(post(shared.client, "nodule_detection", "case_oblique"))
    assert name.endswith(".json")
    (markup,) = json.loads(payload)["markups"]
    assert markup["type"] == "ROI"
    geometry = read_geometry(shared.study / "case_oblique.nii.gz")
    centre_ras = geometry.ijk_to_ras([8, 9, 10])
    np.testing.assert_allclose(markup["center"], centre_ras * [-1, -1, 1], atol=1e-3)


def test_scan_without_nodules_says_so(shared, tmp_path: Path):
    shared.candidates.centres_ijk, shared.candidates.probabilities = (), ()
    shared.registry.versions["nodule_detection"] = "none"
    params, name, payload = parts(post(shared.client, "nodule_segmentation", "case.axial"))
    assert params["label_names"] == {"no nodules": 1}
    assert params["nodules"] == []
    (tmp_path / name).write_bytes(payload)
    assert not read_label_map(tmp_path / name).labels.any()


def test_prediction_is_made_once_for_segments_and_boxes(shared):
    runs = []
    shared.candidates.before = lambda: runs.append(1)
    shared.registry.versions["nodule_detection"] = "counted"
    parts(post(shared.client, "nodule_segmentation", "case.axial"))
    parts(post(shared.client, "nodule_detection", "case.axial"))
    assert len(runs) == 1
    shared.registry.versions["nodule_click"] = "v2"
    parts(post(shared.client, "nodule_detection", "case.axial"))
    assert len(runs) == 2


def test_lungs_of_a_crop_have_no_side(shared, tmp_path: Path):
    params, name, payload = parts(post(shared.client, "lungs", "case.axial"))
    assert params["label_names"] == {"lung": 1}
    (tmp_path / name).write_bytes(payload)
    assert set(np.unique(read_label_map(tmp_path / name).labels)) <= {0, 1}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"foreground": "here"}, "'foreground' is 'here'"),
        ({"foreground": [[1, 2]]}, "three voxel indices"),
        ({"foreground": [[1.5, 2, 3]]}, "whole numbers"),
        ({"foreground": [[1, 2, True]]}, "whole numbers"),
        ({"foreground": [[900, 2, 3]]}, "900"),
        ({"foreground": []}, "click"),
        ({"roi": [1, 2, 3]}, "six voxel indices"),
        ({"label": ["a"]}, "name of a segment"),
        ({"result_extension": ".exe"}, ".seg.nrrd"),
    ],
)
def test_bad_parameters_are_named(shared, params: dict[str, Any], says: str):
    from medai.inference.click_rules import check_together, checked

    def check(volume, *, foreground_ijk, background_ijk=(), roi=None, original=shared.clicks.segment):
        from medai.geometry import IndexBox

        foreground = checked(foreground_ijk, "foreground", volume, IndexBox.of_shape(volume.geometry.shape_ijk))
        check_together(foreground, checked(background_ijk, "background", volume, None))
        return original(volume, foreground_ijk=foreground, background_ijk=background_ijk, roi=roi)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.clicks, "segment", check, raising=False)
        reply = shared.click(**params)
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert says in reply.json()["detail"]


@pytest.mark.parametrize(
    ("query", "data", "status", "says"),
    [
        ("/infer/nodule_clik?image=case.axial", {}, 404, "nodule_click"),
        ("/infer/nodule_click?image=case_axial", {}, 404, "case.axial"),
        ("/infer/nodule_click", {}, 422, "case id"),
        ("/infer/nodule_click?image=case.axial", {"params": "{"}, 422, "not JSON"),
        ("/infer/nodule_click?image=case.axial", {"params": "[1]"}, 422, "JSON object"),
        ("/infer/nodule_click?image=case.axial", {"params": '{"foreground": [[NaN, 1, 1]]}'}, 422, "no number"),
        ("/infer/nodule_click?image=case.axial&output=tiff", {}, 422, "output"),
        ("/infer/nodule_click?image=/etc/passwd", {}, 422, "path separator"),
        ("/infer/nodule_click?image=..", {}, 422, "dot"),
        ("/infer/nodule_click?session_id=../../x", {}, 404, "no session"),
        ("/infer/Histogram%2BGraphCut?image=case.axial", {}, 422, "part 'label'"),
    ],
)
def test_bad_requests_are_answered_with_what_is_valid(shared, query: str, data: Any, status: int, says: str):
    reply = shared.client.post(query, data=data)
    assert reply.status_code == status
    assert says in reply.json()["detail"]


def test_uploaded_scan_is_answered_on_its_own_grid_and_not_kept(shared, tmp_path: Path):
    before = sorted(p.name for p in shared.study.rglob("*") if ".medai" not in str(p))
    with (shared.study / "case_oblique.nii.gz").open("rb") as scan:
        reply = shared.client.post(
            "/infer/nodule_click",
            data={"params": json.dumps({"foreground": [[8, 9, 10]]})},
            files={"file": ("mine.nii.gz", scan)},
        )
    _, name, payload = parts(reply)
    (tmp_path / name).write_bytes(payload)
    assert read_label_map(tmp_path / name).labels.sum() == 125
    assert sorted(p.name for p in shared.study.rglob("*") if ".medai" not in str(p)) == before


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("scan.nii.gz", gzip.compress(b"no scan", mtime=0), ""),
        ("scan.nii.gz", b"", ""),
        ("scan.exe", b"MZ", ".nii.gz"),
        ("", b"x", ""),
    ],
)
def test_broken_uploaded_scan_is_refused(shared, name: str, content: bytes, says: str):
    reply = shared.client.post(
        "/infer/nodule_click",
        data={"params": json.dumps({"foreground": [[1, 1, 1]]})},
        files={"file": (name, content)},
    )
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert says in reply.json()["detail"]


def test_new_champion_answers_the_next_click(shared):
    shared.registry.versions["nodule_click"] = "v7"
    assert parts(shared.click())[0]["model_version"] == "v7"
    shared.registry.versions["nodule_click"] = "v8"
    assert parts(shared.click())[0]["model_version"] == "v8"


def test_answer_is_kept_as_a_proposal_only_where_asked(served):
    assert served.click().status_code == HTTPStatus.OK
    assert served.client.get("/datastore/").json()["label_tags"] == {}
    assert served.click(save_label=True).status_code == HTTPStatus.OK
    assert served.client.get("/datastore/").json()["label_tags"] == {"original": 1}
    refused = served.click(save_label=True, label_tag="final")
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "person" in refused.json()["detail"]
    label = served.client.get("/datastore/label?label=case.axial&tag=original")
    assert label.status_code == HTTPStatus.OK
    assert "case.axial" in label.headers["content-disposition"]


@pytest.fixture
def mirrored(served) -> Any:
    """A study with a left-handed scan in it."""
    import nibabel as nib

    image = nib.load(served.study / "case.axial.nii.gz")
    affine = image.affine @ np.diag([-1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), served.study / "mirrored.nii.gz")
    return served


@pytest.mark.parametrize(("params", "index"), [({}, (8, 9, 13)), ({"index_frame": "file"}, (8, 9, 10))])
def test_clicks_on_a_left_handed_scan_count_on_the_file_handed_out(
    mirrored, tmp_path: Path, params: dict[str, Any], index: tuple[int, int, int]
):
    own, name, payload = parts(
        mirrored.click("mirrored", foreground=[list(index)], roi=[0, 19, 0, 21, 0, 23], **params)
    )
    (tmp_path / name).write_bytes(payload)
    label_map = read_label_map(tmp_path / name)
    assert own["centroids"] == {"1": list(index)}
    centre_ras = label_map.geometry.ijk_to_ras(np.argwhere(label_map.labels).mean(axis=0))
    geometry = read_geometry(mirrored.study / "mirrored.nii.gz")
    np.testing.assert_allclose(centre_ras, geometry.ijk_to_ras((8, 9, 10)), atol=1e-3)
    if not params:
        given = tmp_path / "given.nii.gz"
        given.write_bytes(mirrored.client.get("/datastore/image?image=mirrored").content)
        np.testing.assert_allclose(centre_ras, read_geometry(given).ijk_to_ras(index), atol=1e-3)


def test_next_sample_names_the_file_handed_out(mirrored):
    for case_id in ("case.axial", "case_oblique", "case_flipped"):
        mirrored.app.reservations.reserve(case_id, "another")
    sample = mirrored.client.post("/activelearning/first", json={"client_id": "me"}).json()
    assert sample["id"] == "mirrored"
    assert sample["path"] == str(mirrored.app.served.expected_path("mirrored"))
    assert sample["name"] == Path(sample["path"]).name
    assert not read_geometry(mirrored.app.served.path("mirrored")).is_left_handed


def test_index_frame_is_checked(shared):
    reply = shared.click(index_frame="ras")
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "'served'" in reply.json()["detail"]
