"""A study goes back and forth between medai and stock MONAI Label (``LocalDatastore`` of the installed wheel)."""

import json

import pytest

from medai.store.study import StudyStore

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
