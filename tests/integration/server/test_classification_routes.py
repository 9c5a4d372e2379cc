"""``nodule_classification`` and what the other tasks say of malignancy, through the ASGI app."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.server.test_infer_routes import CASES, parts, post

from medai.domain import LabelMap, Segment
from medai.errors import ModelError
from medai.volume_io.readers import read_geometry, read_label_map
from medai.volume_io.writers import write_label_map

TASK = "nodule_classification"


def label_of(served: Any, folder: Path, case_id: str, boxes: dict[str, tuple[slice, ...]]) -> Path:
    """A label map of the case with a segment for each box."""
    geometry = read_geometry(served.study / f"{case_id}.nii.gz")
    labels = np.zeros(geometry.shape_ijk, np.uint8)
    for value, box in enumerate(boxes.values(), start=1):
        labels[box] = value
    segments = tuple(Segment(value=value, name=name) for value, name in enumerate(boxes, start=1))
    path = folder / "label.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=segments), path)
    return path


def submit(served: Any, folder: Path, case_id: str, boxes: dict[str, tuple[slice, ...]]) -> None:
    path = label_of(served, folder, case_id, boxes)
    info = [{"name": name, "idx": value} for value, name in enumerate(boxes, start=1)]
    reply = served.client.put(
        f"/datastore/label?image={case_id}&tag=final",
        data={"params": json.dumps({"label_info": info})},
        files={"label": ("label.nii.gz", path.read_bytes())},
    )
    assert reply.status_code == HTTPStatus.OK, reply.text


FIRST, SECOND = (slice(6, 11), slice(7, 12), slice(8, 13)), (slice(12, 16), slice(13, 17), slice(2, 6))


def answered(payload: bytes, name: str, folder: Path) -> LabelMap:
    (folder / name).write_bytes(payload)
    return read_label_map(folder / name)


@pytest.mark.parametrize("case_id", CASES)
def test_the_submitted_nodules_come_back_rated(served, tmp_path: Path, case_id: str):
    submit(served, tmp_path, case_id, {"big one, malignancy 4": FIRST, "small one": SECOND})
    params, name, payload = parts(post(served.client, TASK, case_id))
    assert params["nodules_of"] == "submitted label"
    assert list(params["label_names"].values()) == [1, 2]
    assert all("malignan" in segment for segment in params["label_names"]), params["label_names"]
    assert [row["segment"] for row in params["nodules"]] == ["big one, malignancy 4", "small one"]
    assert [row["typed_ratings"] for row in params["nodules"]] == [{"malignancy": 4}, {}]
    for row, segment in zip(params["nodules"], params["label_names"], strict=True):
        assert row["name"] == segment
        assert row["assessment"]["malignancy"] == {"probability": 0.62, "low": 0.4, "high": 0.8}
        assert row["assessment"]["ratings"]["spiculation"] == 2.0
        assert sum(row["assessment"]["kind_probabilities"].values()) == pytest.approx(1)
    assert params["model_version"] == {TASK: "v1"}
    label_map = answered(payload, name, tmp_path)
    assert label_map.geometry.is_same_grid(read_geometry(served.study / f"{case_id}.nii.gz"))
    assert label_map.label_names == params["label_names"]
    np.testing.assert_array_equal(np.argwhere(label_map.labels == 1).min(axis=0), [s.start for s in FIRST])
    assert np.count_nonzero(label_map.labels == 2) == 64


def test_nodules_in_one_segment_are_rated_one_by_one(served, tmp_path: Path):
    geometry_case = "case_oblique"
    path = label_of(served, tmp_path, geometry_case, {"nodule": FIRST})
    label_map = read_label_map(path)
    labels = np.array(label_map.labels)
    labels[SECOND] = 1
    write_label_map(LabelMap(geometry=label_map.geometry, labels=labels, segments=label_map.segments), path)
    reply = served.client.post(
        f"/infer/{TASK}?image={geometry_case}",
        data={"params": '{"result_extension": ".nrrd"}'},
        files={"label": ("label.nii.gz", path.read_bytes())},
    )
    params, _, _ = parts(reply)
    assert params["nodules_of"] == "label that was sent"
    assert [row["value"] for row in params["nodules"]] == [1, 2]


def test_without_a_label_the_proposal_is_rated(served, tmp_path: Path):
    params, name, payload = parts(post(served.client, TASK, "case.axial"))
    assert params["nodules_of"] == "proposal"
    assert set(params["model_version"]) == {"nodule_click", "nodule_detection", TASK}
    (row,) = params["nodules"]
    assert row["assessment"]["malignancy"]["probability"] == 0.62
    assert answered(payload, name, tmp_path).label_names == params["label_names"]


def test_a_case_said_to_be_clear_has_nothing_to_rate(served, tmp_path: Path):
    submit(served, tmp_path, "case.axial", {"no nodules": (slice(0, 0),)})
    params, _, _ = parts(post(served.client, TASK, "case.axial"))
    assert params["label_names"] == {"no nodules": 1}
    assert (params["nodules"], params["nodules_of"]) == ([], "submitted label")


def test_a_label_of_another_scan_is_refused(served, tmp_path: Path):
    path = label_of(served, tmp_path, "case_flipped", {"nodule": FIRST})
    reply = served.client.post(
        f"/infer/{TASK}?image=case_oblique", data={"params": "{}"}, files={"label": ("l.nii.gz", path.read_bytes())}
    )
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "grid" in reply.json()["detail"]


def test_segments_and_boxes_carry_malignancy(served):
    params, _, _ = parts(post(served.client, "nodule_segmentation", "case.axial"))
    (row,) = params["nodules"]
    assert row["assessment"]["malignancy_rating"] == 3.4
    assert "malignan" in next(iter(params["label_names"]))
    assert params["model_version"][TASK] == "v1"
    _, _, payload = parts(post(served.client, "nodule_detection", "case.axial"))
    (markup,) = json.loads(payload)["markups"]
    assert "malignan" in markup["controlPoints"][0]["label"] + markup["controlPoints"][0]["description"]


@pytest.fixture
def patient(served, monkeypatch):
    """A server that takes its time for a click, however busy the machine is."""
    monkeypatch.setattr(served.app.infer_task("nodule_click"), "_budget_s", 60.0)
    return served


def test_a_click_that_is_late_is_not_made_later_by_a_rating(served, monkeypatch):
    served.app.shelf.get(TASK)
    monkeypatch.setattr(served.app.infer_task("nodule_click"), "_budget_s", 0.0)
    served.ratings.before = lambda: pytest.fail("a late click was rated")
    params, _, _ = parts(served.click())
    assert "assessment" not in params["nodules"][0]


def test_a_click_is_rated_once_the_classifier_is_there_and_never_waits_for_it(patient):
    served = patient
    params, _, _ = parts(served.click())
    assert "assessment" not in params["nodules"][0]
    served.app.shelf.get(TASK)
    params, _, _ = parts(served.click())
    assert params["nodules"][0]["assessment"]["malignancy"]["probability"] == 0.62
    assert params["latencies"]["rating"] >= 0


def test_a_click_is_answered_where_its_nodule_cannot_be_rated(patient):
    served = patient

    def fail() -> None:
        raise ModelError("no weights")

    served.app.shelf.get(TASK)
    served.ratings.before = fail
    params, _, _ = parts(served.click())
    assert params["label_names"] == {"nodule": 1}
    assert "assessment" not in params["nodules"][0]


def test_without_classifier_weights_scans_are_proposed_all_the_same(served):
    del served.registry.versions[TASK]
    params, _, _ = parts(post(served.client, "nodule_segmentation", "case.axial"))
    assert "assessment" not in params["nodules"][0]
    refused = post(served.client, TASK, "case.axial")
    assert refused.status_code >= HTTPStatus.BAD_REQUEST
    assert "no weights" in refused.json()["detail"]


def test_a_new_classifier_rates_the_next_request(served):
    parts(post(served.client, "nodule_segmentation", "case.axial"))
    served.registry.versions[TASK] = "v2"
    params, _, _ = parts(post(served.client, "nodule_segmentation", "case.axial"))
    assert params["model_version"][TASK] == "v2"
    assert served.client.get("/info/").json()["models"][TASK]["type"] == "segmentation"
