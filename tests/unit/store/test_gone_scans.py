"""A scan that is deleted or replaced takes its labels along; the history keeps them, marked, and none trains."""

import json

import pytest

from medai.errors import NotFoundError
from medai.store import study as study_module
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import StudyStore


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.nii.gz").write_bytes(f"scan {name}".encode())
    return folder


def labelled(folder, case_id="a", annotator="ann", content=b"label"):
    store, log, label = StudyStore(folder), AnnotationLog(folder), folder.parent / "label.nii.gz"
    label.write_bytes(content)
    with log.submitting(Submission(case_id=case_id, annotator=annotator), label) as annotation:
        store.save_label(case_id, label)
    log.close()
    return store, annotation


def history(folder, **conditions):
    log = AnnotationLog(folder)
    try:
        return log.all(**conditions)
    finally:
        log.close()


def test_a_deleted_scan_leaves_a_tombstone_and_no_label(folder):
    store, _ = labelled(folder)
    cases = folder / ".medai" / "cases"
    cases.mkdir()
    (cases / "a.json").write_text("{}")
    told = []
    store.on_gone.append(lambda case_id, place: told.append((case_id, place.name)))
    store.remove_image("a")
    assert store.image_ids() == ["b"]
    assert not list((folder / "labels").rglob("a.*"))
    assert not (cases / "a.json").exists()
    assert told == [("a", "a.nii.gz")]
    assert store.tombstones.all()["a"].reason == "deleted"
    assert not store.tombstones.all()["a"].is_pending


def test_a_new_scan_under_that_id_inherits_nothing(folder):
    store, _ = labelled(folder)
    labelled(folder, annotator="ben", content=b"other")
    store.remove_image("a")
    (folder / "a.nii.gz").write_bytes(b"another patient")
    again = StudyStore(folder)
    assert "a" in again.unlabeled()
    assert again.withheld_labels() == again.counting_labels() == {}
    assert history(folder) == []
    kept = history(folder, with_deleted=True)
    assert [each.is_of_deleted_scan for each in kept] == [True, True]
    assert not any(each.trains or each.is_current for each in kept)
    _, new = labelled(folder, annotator="cem")
    assert [each.annotation_id for each in history(folder)] == [new.annotation_id]
    assert new.trains


def test_a_clock_that_was_set_back_does_not_lose_the_new_scans_label(folder):
    store, _ = labelled(folder)
    store.remove_image("a")
    (folder / "a.nii.gz").write_bytes(b"another patient")
    log = AnnotationLog(folder, now=lambda: 1000.0)
    label = folder.parent / "label.nii.gz"
    log.record(Submission(case_id="a"), label)
    assert [each.is_of_deleted_scan for each in log.all(with_deleted=True)] == [True, False]
    log.close()


def test_a_killed_deletion_is_completed(folder, monkeypatch):
    store, _ = labelled(folder)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        store.remove_image("a")
    monkeypatch.undo()
    assert (folder / "a.nii.gz").exists()
    again = StudyStore(folder)
    assert again.image_ids() == ["b"]
    assert not (folder / "a.nii.gz").exists()
    assert not again.tombstones.all()["a"].is_pending
    assert "a" not in json.loads((folder / "datastore_v2.json").read_text())["objects"]


def test_labels_of_a_replaced_scan_are_set_aside(folder, caplog):
    store, _ = labelled(folder)
    told = []
    store.on_gone.append(lambda case_id, place: told.append(case_id))
    (folder / "a.nii.gz").write_bytes(b"scan of somebody else")
    with pytest.raises(NotFoundError, match="has no label 'final'"):
        store.label_path("a", "final")
    assert told == ["a"]
    assert "a" in store.unlabeled()
    (kept,) = (folder / ".medai" / "deleted").glob("a.*/final/a.nii.gz")
    assert kept.read_bytes() == b"label"
    assert "another one than its labels were drawn on" in caplog.text
    assert history(folder) == []


def test_a_scan_replaced_while_nothing_ran_is_found_at_the_opening(folder):
    labelled(folder)
    (folder / "a.nii.gz").unlink()
    assert StudyStore(folder).image_ids() == ["b"]
    (folder / "a.nii.gz").write_bytes(b"scan of somebody else")
    assert "a" in StudyStore(folder).unlabeled()


def test_a_scan_that_was_away_or_touched_keeps_its_labels(folder):
    labelled(folder)
    away = folder / "a.nii.gz"
    away.rename(folder.parent / "a.nii.gz")
    assert StudyStore(folder).image_ids() == ["b"]
    (folder.parent / "a.nii.gz").rename(away)
    away.touch()
    store = StudyStore(folder)
    assert store.labeled() == ["a"]
    assert store.set_aside_replaced() == []


def test_labels_from_before_are_taken_as_they_are_once(folder):
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / "labels" / "final" / "b.nii.gz").write_bytes(b"stock label")
    assert StudyStore(folder).labeled() == ["b"]
    (folder / "b.nii.gz").write_bytes(b"scan of somebody else")
    assert StudyStore(folder).labeled() == []
