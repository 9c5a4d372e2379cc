"""What leaves the study is what was accepted, on the scans' grids, with what was left out and why."""

import io
import json
import zipfile
from http import HTTPStatus
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines
from tests.support.label_files import segmentation_file

NODULE = ((6, 11), (7, 12), (9, 12))


def box(bounds=NODULE, value=1):
    labels = np.zeros(SHAPE_IJK, np.uint8)
    labels[tuple(slice(*pair) for pair in bounds)] = value
    return labels


def submit(served, labels, case_id="case.axial", client_id="ann", name="nodule"):
    content = nib.Nifti1Image(labels, affines()[case_id]).to_bytes()
    info = [{"name": name, "idx": 4}]
    reply = served.client.put(
        f"/datastore/label?image={case_id}",
        files={"label": ("l.nii", content)},
        data={"params": json.dumps({"client_id": client_id, "label_info": info})},
    )
    assert reply.status_code == HTTPStatus.OK, reply.text
    served.app.annotations.wait()


def flag(served, case_id):
    served.client.put(
        f"/datastore/updatelabelinfo?label={case_id}&tag=final",
        data={"params": json.dumps({"segmentationMeta": {"status": "flagged", "approvedBy": "chief"}})},
    )


def download(served, query=""):
    reply = served.client.get(f"/datastore/dataset{query}")
    assert reply.status_code == HTTPStatus.OK, reply.text
    archive = zipfile.ZipFile(io.BytesIO(reply.content))
    return archive, json.loads(archive.read("medai.json"))


def label_in(archive, tmp_path, name="label/case.axial.nii.gz"):
    return nib.load(archive.extract(name, tmp_path))


def train_cases(served):
    return [Path(pair["image"]).name for pair in served.client.get("/datastore/?output=train").json()]


def test_flagged_and_quarantined_labels_stay_behind_and_are_named(served):
    submit(served, box())
    submit(served, box(), "case_oblique")
    submit(served, box(((13, 18), (14, 19), (14, 18))), "case_flipped")  # nothing is there
    flag(served, "case_oblique")
    archive, manifest = download(served)
    assert sorted(archive.namelist()) == [
        "image/case.axial.nii.gz", "label/case.axial.nii.gz", "medai.json", "metadata.json",
    ]  # fmt: skip
    assert "flagged by chief" in manifest["left_out"]["case_oblique"]
    assert "quarantined" in manifest["left_out"]["case_flipped"]
    assert manifest["cases"]["case.axial"] == {
        "image": "image/case.axial.nii.gz",
        "label": "label/case.axial.nii.gz",
        "readers": ["ann"],
        "method": "the label of one reader",
        "segments": [{"value": 1, "name": "nodule"}],
    }
    assert json.loads(archive.read("metadata.json"))["objects"].keys() == {"case.axial"}
    assert archive.read("image/case.axial.nii.gz") == (served.study / "case.axial.nii.gz").read_bytes()
    assert train_cases(served) == ["case.axial.nii.gz"]


def test_of_three_readers_the_majority_leaves_with_what_each_of_them_said(served, tmp_path):
    own = [(((6, 11), (7, 12), (9, 12))), ((6, 12), (7, 12), (9, 12)), ((6, 11), (7, 13), (9, 12))]
    for reader, bounds in zip(("ann", "bob", "cat"), own, strict=True):
        submit(served, box(bounds), client_id=reader, name=f"nodule malignancy {len(reader)}")
    archive, manifest = download(served)
    image = label_in(archive, tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), box(own[0]))
    np.testing.assert_allclose(image.affine, affines()["case.axial"], atol=1e-4)
    said = manifest["cases"]["case.axial"]
    assert (said["readers"], said["method"]) == (["ann", "bob", "cat"], "majority of 3")
    (segment,) = said["segments"]
    assert segment["names_of_readers"] == {name: ["nodule malignancy 3"] for name in said["readers"]}
    # The study still shows the label that was submitted last.
    assert np.asarray(nib.load(served.study / "labels" / "final" / "case.axial.nii.gz").dataobj).sum() == 90
    (pair,) = served.client.get("/datastore/?output=train").json()
    np.testing.assert_array_equal(np.asarray(nib.load(pair["label"]).dataobj), box(own[0]))


def test_two_readers_who_hardly_overlap_settle_nothing(served):
    submit(served, box(((4, 8), (7, 12), (9, 12))))
    submit(served, box(((8, 12), (7, 12), (9, 12))), client_id="bob")
    submit(served, box(), "case_oblique")
    archive, manifest = download(served)
    assert "agree at a Dice of" in manifest["left_out"]["case.axial"]
    assert "label/case.axial.nii.gz" not in archive.namelist()


def test_the_label_of_another_reader_leaves_where_the_latest_is_flagged(served, tmp_path):
    submit(served, box())
    submit(served, box(((6, 12), (7, 12), (9, 12))), client_id="bob")
    flag(served, "case.axial")
    archive, manifest = download(served)
    np.testing.assert_array_equal(np.asarray(label_in(archive, tmp_path).dataobj), box())
    assert manifest["cases"]["case.axial"]["readers"] == ["ann"]


def test_a_cropped_segmentation_leaves_on_its_scans_grid(served, tmp_path):
    folder = served.study / "labels" / "final"
    folder.mkdir(parents=True)
    affine = affines()["case_oblique"]
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ (5, 6, 8) + affine[:3, 3]
    cut = np.ascontiguousarray(box()[5:12, 6:13, 8:13])
    segmentation_file(folder / "case_oblique.seg.nrrd", [cut], moved, [("upper M4", 1, 0)])
    archive, manifest = download(served)
    image = label_in(archive, tmp_path, "label/case_oblique.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), box())
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    assert manifest["cases"]["case_oblique"]["segments"] == [{"value": 1, "name": "upper M4"}]
    assert (folder / "case_oblique.seg.nrrd").is_file()
    entry = json.loads(archive.read("metadata.json"))["objects"]["case_oblique"]["labels"]["final"]
    assert (entry["ext"], entry["info"]["label_info"]) == (".nii.gz", [{"name": "upper M4", "idx": 1}])


def test_a_limit_is_honoured_and_nothing_stays_on_the_disk(served):
    for case_id in ("case.axial", "case_oblique"):
        submit(served, box(), case_id)
    archive, manifest = download(served, "?limit_cases=1")
    assert [name for name in archive.namelist() if name.startswith("label/")] == ["label/case.axial.nii.gz"]
    assert manifest["beyond_limit_cases"] == ["case_oblique"]
    assert list(served.study.rglob("medai-dataset-*")) == []


@pytest.mark.parametrize("labelled", [False, True])
def test_where_nothing_is_accepted_the_answer_says_why(served, labelled):
    if labelled:
        submit(served, box())
        flag(served, "case.axial")
    reply = served.client.get("/datastore/dataset")
    assert reply.status_code == HTTPStatus.NOT_FOUND
    assert ("flagged by chief" if labelled else "no case of this study has a final label") in reply.json()["detail"]


def test_nodules_of_a_file_put_into_the_study_are_rated_with_their_names(served):
    folder = served.study / "labels" / "final"
    folder.mkdir(parents=True)
    affine = affines()["case.axial"]
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ (5, 6, 8) + affine[:3, 3]
    cut = np.ascontiguousarray(box()[5:12, 6:13, 8:13])
    segmentation_file(folder / "case.axial.seg.nrrd", [cut], moved, [("upper M4", 1, 0)])
    reply = served.client.post("/infer/nodule_classification?image=case.axial&output=json", data={"params": "{}"})
    assert reply.status_code == HTTPStatus.OK, reply.text
    assert reply.json()["nodules_of"] == "submitted label"
    assert [row["segment"] for row in reply.json()["nodules"]] == ["upper M4"]
