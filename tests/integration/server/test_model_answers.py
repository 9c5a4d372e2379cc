"""A model's answer never takes the place of what a person has drawn, whatever the tag and the way it comes in."""

import json
from http import HTTPStatus

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines


def outline(tmp_path, value=1, name="drawn.nii.gz"):
    labels = np.zeros(SHAPE_IJK, np.uint8)
    labels[5:11, 6:12, 7:13] = value
    path = tmp_path / name
    nib.save(nib.Nifti1Image(labels, affines()["case.axial"]), path)
    return path


def put(served, path, tag, **params):
    with path.open("rb") as stream:
        return served.client.put(
            f"/datastore/label?image=case.axial&tag={tag}",
            files={"label": (path.name, stream)},
            data={"params": json.dumps(params)},
        )


def info(served, tag):
    return served.client.get(f"/datastore/label/info?label=case.axial&tag={tag}").json()


DRAWN = {"client_id": "ann", "label_info": [{"name": "nodule", "idx": 1}]}


@pytest.mark.parametrize("tag", ["original", "second_look"])
def test_an_answer_does_not_replace_a_drawn_label_of_its_tag(served, tmp_path, tag):
    assert put(served, outline(tmp_path), tag, **DRAWN).status_code == HTTPStatus.OK
    before = served.client.get(f"/datastore/label?label=case.axial&tag={tag}").content
    asked: list[int] = []
    served.clicks.before = lambda: asked.append(1)
    refused = served.click(save_label=True, label_tag=tag)
    assert refused.status_code == HTTPStatus.CONFLICT
    assert f"has a person's label '{tag}' of 'ann'" in refused.json()["detail"]
    assert served.client.get(f"/datastore/label?label=case.axial&tag={tag}").content == before
    assert asked == []  # no work was done for nothing
    assert served.click(save_label=True, label_tag="other").status_code == HTTPStatus.OK
    assert served.click(save_label=True, label_tag="other").status_code == HTTPStatus.OK


def test_a_file_that_somebody_put_there_is_no_answer_either(served, tmp_path):
    (served.study / "labels" / "original").mkdir(parents=True)
    outline(tmp_path).rename(served.study / "labels" / "original" / "case.axial.nii.gz")
    assert served.click(save_label=True).status_code == HTTPStatus.CONFLICT


@pytest.mark.parametrize("tag", ["final", "detection"])
def test_an_answer_is_never_kept_where_trainings_read(served, tmp_path, tag):
    for reply in (
        served.click(save_label=True, label_tag=tag),
        served.client.post("/batch/infer/nodule_segmentation", json={"label_tag": tag}),
        put(served, outline(tmp_path), tag, model="nnunet"),
        put(served, outline(tmp_path), tag, latencies={"total": 1.0}, label_names={"nodule": 1}),
    ):
        assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        assert f"not kept as '{tag}'" in reply.json()["detail"]
    assert served.client.get("/datastore/").json()["label_tags"] == {}


def test_a_batch_passes_over_drawn_labels_and_counts_them(served, tmp_path):
    assert put(served, outline(tmp_path), "original", **DRAWN).status_code == HTTPStatus.OK
    served.client.post("/batch/infer/nodule_segmentation?images=all&run_sync=true", json={})
    record = served.client.get("/batch/infer").json()
    assert record["status"] == "DONE"
    assert (record["total"], record["finished"], record["failed"]) == (3, 3, 1)
    assert "person's label 'original'" in record["result"]["case.axial"]["error"]
    assert info(served, "original")["client_id"] == "ann"
    assert served.client.get("/datastore/").json()["label_tags"] == {"original": 3}
    # The answers of the first batch are replaced by those of a second one.
    served.client.post("/batch/infer/nodule_segmentation?images=all&run_sync=true", json={})
    assert served.client.get("/batch/infer").json()["failed"] == 1


def test_a_client_that_uploads_answers_is_treated_as_a_model(served, tmp_path):
    answer = {"label_names": {"nodule": 1}, "latencies": {"total": 2.5}}
    for _ in range(2):
        reply = put(served, outline(tmp_path), "original", **answer)
        assert (reply.status_code, reply.json()["label"]) == (HTTPStatus.OK, "case.axial")
    assert served.client.get("/medai/annotations").json()["annotations"] == []
    assert put(served, outline(tmp_path), "original", **DRAWN).status_code == HTTPStatus.OK
    for params in ({}, answer, {"model": "nnunet", **DRAWN}):
        refused = put(served, outline(tmp_path), "original", **params)
        assert (refused.status_code, "of 'ann'" in refused.json()["detail"]) == (HTTPStatus.CONFLICT, True)
    assert info(served, "original")["label_info"] == [{"name": "nodule", "idx": 1}]


def test_an_answer_that_stock_has_saved_as_final_does_not_train(served, tmp_path):
    served.app.study.save_label("case.axial", outline(tmp_path), "final", {"model": "deepedit", "params": {}})
    served.app.annotations.look(["case.axial"])
    assert "a model's answer, which no person has accepted" in served.app.study.withheld_labels()["case.axial"]
    assert put(served, outline(tmp_path), "final", **DRAWN).status_code == HTTPStatus.OK
    assert served.app.study.withheld_labels() == {}


@pytest.mark.parametrize(
    "path",
    [
        "/datastore/image/info?image=nope",
        "/datastore/image/info?image=../nope",
        "/datastore/label/info?label=nope&tag=final",
        "/datastore/label/info?label=case.axial&tag=final",
        "/datastore/label/info?label=case.axial&tag=no..tag",
    ],
)
def test_of_what_is_not_there_nothing_is_known_as_in_stock_monai_label(shared, path):
    reply = shared.client.get(path)
    assert (reply.status_code, reply.json()) == (HTTPStatus.OK, {})
