"""A study goes back and forth between medai and stock MONAI Label (``LocalDatastore`` of the installed wheel)."""

import json

import numpy as np
import pytest
from tests.support.label_files import nifti_label

from medai.store.annotations import AnnotationLog
from medai.store.study import StudyStore
from medai.workflows.found_labels import look_for_labels
from medai.workflows.submitted_label import read_submitted

LABEL_INFO = {"label_info": [{"name": "Nodule 1", "idx": 1}], "client_id": "reader"}


@pytest.fixture(scope="module")
def stock():
    from monailabel.datastore.local import LocalDatastore  # 15 s: it imports torch and monai

    return lambda folder: LocalDatastore(str(folder), extensions=["*.nii.gz", "*.nii", "*.nrrd"])


@pytest.fixture
def folder(tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    for name in ("1.2.840.113.nii.gz", "a.nrrd", "b.nii.gz"):
        (study / name).write_bytes(name.encode())
    return study


def write(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_a_stock_study_opens_with_every_image_label_and_info(folder, stock, tmp_path):
    theirs = stock(folder)
    theirs.set_name("lungs")
    theirs.save_label("1.2.840.113", str(write(tmp_path, "l.nii.gz", b"final")), "final", dict(LABEL_INFO))
    theirs.save_label(
        "a", str(write(tmp_path, "l.nrrd", b"original")), "original", {"params": {"label_names": {"n": 1}}}
    )
    theirs.save_label("b", str(write(tmp_path, "l.json", b"{}")), "reader 2", {"k": 1})
    theirs.update_image_info("a", {"strategy": {"random": {"ts": 5, "client_id": "u"}}})

    ours = StudyStore(folder)

    assert ours.name == "lungs"
    assert ours.image_ids() == ["1.2.840.113", "a", "b"]
    for case_id in ours.image_ids():
        assert str(ours.image_path(case_id)) == theirs.get_image_uri(case_id)
        assert {**ours.image_info(case_id), "path": str(ours.image_path(case_id))} == theirs.get_image_info(case_id)
        assert dict.fromkeys(ours.labels(case_id), case_id) == theirs.get_labels_by_image_id(case_id)
        for tag in ours.labels(case_id):
            assert str(ours.label_path(case_id, tag)) == theirs.get_label_uri(case_id, tag)
            assert ours.label_info(case_id, tag) == theirs.get_label_info(case_id, tag)
    assert ours.as_json() == json.loads(json.dumps(theirs.json()))
    assert ours.status() == theirs.status()


def test_stock_opens_our_study_with_every_image_label_and_info(folder, stock, tmp_path):
    ours = StudyStore(folder)
    ours.set_description("chest CT")
    ours.save_label("1.2.840.113", write(tmp_path, "l.nii.gz", b"final"), "final", LABEL_INFO)
    ours.save_label("1.2.840.113", write(tmp_path, "d.json", b"{}"), "detection", {"count": 2})
    ours.save_label("a", write(tmp_path, "l.seg.nrrd", b"seg"), "final", LABEL_INFO)
    ours.update_image_info("b", {"k": [1, 2]})
    ours.add_image(write(tmp_path, "1.3.6.nii.gz", b"new"))
    before = ours.as_json()

    theirs = stock(folder)

    assert json.loads(json.dumps(theirs.json())) == before
    assert theirs.get_label_info("1.2.840.113", "final")["label_info"] == LABEL_INFO["label_info"]
    assert theirs.get_label("a", "final").read() == b"seg"
    assert theirs.status() == ours.status()
    assert StudyStore(folder).as_json() == before


def test_both_write_in_turns(folder, stock, tmp_path):
    label = write(tmp_path, "l.nii.gz", b"label")
    StudyStore(folder).save_label("a", label, "final", {"by": "ours"})
    stock(folder).save_label("b", str(label), "final", {"by": "theirs"})
    StudyStore(folder).update_label_info("b", "final", {"checked": True})
    last = stock(folder)
    assert last.get_label_info("a", "final")["by"] == "ours"
    assert last.get_label_info("b", "final")["by"] == "theirs"
    assert last.get_label_info("b", "final")["checked"] is True


def test_stock_passes_over_our_state_folder(folder, stock, tmp_path):
    StudyStore(folder)
    (folder / ".medai" / "demo_truth").mkdir(parents=True)
    (folder / ".medai" / "demo_truth" / "a.nii.gz").write_bytes(b"x")
    assert sorted(stock(folder).list_images()) == ["1.2.840.113", "a", "b"]


def test_stock_loses_a_label_info_that_another_process_saved(folder, stock, tmp_path):
    """Why the study store exists: two stock datastores on one folder, as a server and its training process are."""
    label = write(tmp_path, "l.nii.gz", b"label")
    first, second = stock(folder), stock(folder)
    first.save_label("a", str(label), "final", {"by": "first"})
    second.save_label("b", str(label), "final", {"by": "second"})
    assert "by" not in stock(folder).get_label_info("a", "final")


def test_labels_that_stock_has_saved_are_read_with_the_names_it_meant(stock, tmp_path):
    """Two scans annotated through stock MONAI Label: idx counts the segments of the scene, one verdict is a flag."""
    study = tmp_path / "study"
    study.mkdir()
    affine = np.diag([-0.7, -0.8, 1.5, 1.0])
    labels = np.zeros((10, 12, 9), np.uint8)
    labels[2:5, 2:5, 2:4], labels[6:9, 7:10, 5:8] = 1, 2
    for name in ("p1", "p2"):
        nifti_label(study / f"{name}.nii.gz", np.where(labels > 0, 30, -800).astype(np.int16), affine)
    drawn = nifti_label(tmp_path / "drawn.nii.gz", labels, affine)
    theirs = stock(study)
    names = ["left M2", "right M5"]
    info = {"label_info": [{"name": name, "idx": idx} for name, idx in zip(names, (3, 4), strict=True)]}
    for name in ("p1", "p2"):
        theirs.save_label(name, str(drawn), "final", {**info, "client_id": "ann"})
    theirs.update_label_info("p2", "final", {"segmentationMeta": {"status": "flagged", "approvedBy": "chief"}})

    ours = StudyStore(study)

    assert read_submitted(ours, "p1").label_map.label_names == {"left M2": 1, "right M5": 2}
    assert ours.withheld_labels().keys() == {"p2"}
    assert look_for_labels(ours) == 2
    log = AnnotationLog(study)
    assert [(each.annotator, each.segment_names) for each in log.all()] == [("ann", ((1, names[0]), (2, names[1])))] * 2
    log.close()
    # What medai has found out is no trouble to stock MONAI Label.
    assert stock(study).get_label_info("p1", "final")["label_info"] == info["label_info"]
