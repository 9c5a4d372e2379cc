"""Labels that came into a study past medai get their entry in the history, their names, and their verdict."""

import json
import os
import time

import numpy as np
import pytest
from tests.support.label_files import nifti_label, segmentation_file

from medai.domain.annotation import ReviewState
from medai.errors import InputError
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import StudyStore
from medai.workflows.annotation_measures import AnnotationMeasurer
from medai.workflows.found_labels import FoundLabels, PassingScans, look_for_labels
from medai.workflows.labelled_nodules import collect_labelled_nodules
from medai.workflows.rated_nodules import collect_rated_nodules
from medai.workflows.session_status import study_status
from medai.workflows.submitted_label import read_submitted

SHAPE = (22, 24, 20)
SPACING_MM = (0.8, 0.7, 1.25)
MIDDLES = {"left": (7, 8, 9), "right": (15, 15, 10)}


def affine():
    found = np.diag([*SPACING_MM, 1.0])
    found[:3, 3] = (5.0, -60.0, 11.0)
    return found


def ball(middle):
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return np.linalg.norm((grid - middle) * SPACING_MM, axis=-1) < 3.0


OUTLINES = (ball(MIDDLES["left"]) + 2 * ball(MIDDLES["right"])).astype(np.uint8)
NAMES = ["left malignancy 1", "right malignancy 5"]
SHIFTED = [{"name": name, "idx": idx} for name, idx in zip(NAMES, (2, 5), strict=True)]
SAVED_AT_S = 1_700_000_000


def stock_entry(case_id, *, label_info=SHIFTED, **info):
    """What stock MONAI Label writes into its index for a scan with a final label."""
    said = {"label_info": label_info, "client_id": "ann", "ts": SAVED_AT_S, "name": f"{case_id}.nii.gz", **info}
    return {
        "image": {"ext": ".nii.gz", "info": {"ts": SAVED_AT_S - 60, "name": f"{case_id}.nii.gz"}},
        "labels": {"final": {"ext": ".nii.gz", "info": said}},
    }


@pytest.fixture
def stock_study(tmp_path):
    """A folder as stock MONAI Label leaves it: scans, labels, an index whose idx counts all segments of the scene."""

    def _study(entries):
        folder = tmp_path / "study"
        (folder / "labels" / "final").mkdir(parents=True)
        image_hu = np.where(OUTLINES > 0, 40, -820).astype(np.int16)
        image_hu += np.random.default_rng(3).integers(-15, 15, SHAPE, dtype=np.int16)
        for case_id in entries:
            nifti_label(folder / f"{case_id}.nii.gz", image_hu, affine())
            nifti_label(folder / "labels" / "final" / f"{case_id}.nii.gz", OUTLINES, affine())
        index = {"name": "s", "description": "", "images_dir": "", "labels_dir": "labels", "objects": entries}
        (folder / "datastore_v2.json").write_text(json.dumps(index))
        return folder

    return _study


def looker(study, log):
    return FoundLabels(log, study, AnnotationMeasurer(log, study, PassingScans()))


def history(folder):
    log = AnnotationLog(folder)
    try:
        return log.all()
    finally:
        log.close()


def change_index(folder, change):
    """As another program does it."""
    path = folder / "datastore_v2.json"
    index = json.loads(path.read_bytes())
    change(index["objects"])
    path.write_text(json.dumps(index))


def test_a_stock_study_gets_its_history_once_with_who_when_and_the_right_names(stock_study):
    folder = stock_study({"p1": stock_entry("p1"), "p2": stock_entry("p2", client_id="", user="bob")})
    study = StudyStore(folder)
    assert look_for_labels(study) == 2
    first, second = sorted(history(folder), key=lambda each: each.case_id)
    assert (first.annotator, second.annotator) == ("ann", "bob")
    assert first.submitted_at_s == pytest.approx(SAVED_AT_S, abs=1)
    assert first.segment_names == ((1, NAMES[0]), (2, NAMES[1]))
    assert (first.nodules, first.quarantine_reason, first.trains) == (2, "", True)
    assert look_for_labels(StudyStore(folder)) == 0
    assert read_submitted(study, "p1").label_map.label_names == {NAMES[0]: 1, NAMES[1]: 2}
    rated = collect_rated_nodules(study)
    assert {n.ratings["malignancy"] for n in (*rated.train, *rated.held_back)} == {1, 5}


def test_a_verdict_of_the_stock_reviewer_counts_with_and_without_a_history(stock_study):
    flagged = {"segmentationMeta": {"status": "flagged", "approvedBy": "chief", "level": "hard", "comment": ""}}
    folder = stock_study({"p1": stock_entry("p1", **flagged), "p2": stock_entry("p2")})
    study = StudyStore(folder)
    assert "flagged by chief in review" in study.withheld_labels()["p1"]
    with pytest.raises(InputError, match=r"Not used: case p1 \(flagged by chief in review"):
        collect_labelled_nodules(study)
    look_for_labels(study)
    (first, _) = sorted(history(folder), key=lambda each: each.case_id)
    assert (first.review, first.review_by, first.trains) == (ReviewState.FLAGGED, "chief", False)
    change_index(folder, lambda objects: objects["p1"]["labels"]["final"]["info"]["segmentationMeta"].update(
        status="approved", approvedBy="head"))  # fmt: skip
    assert look_for_labels(study) == 0
    assert history(folder)[0].review is ReviewState.APPROVED or history(folder)[1].review is ReviewState.APPROVED
    assert study.withheld_labels() == {}


@pytest.mark.parametrize("word", ["segmented", "not segmented", "in progress", "", None, 7, ["flagged"]])
def test_other_words_of_a_reviewer_withhold_nothing(stock_study, word):
    folder = stock_study({"p1": stock_entry("p1", segmentationMeta={"status": word, "level": "easy"})})
    assert StudyStore(folder).withheld_labels() == {}


def test_a_label_of_another_grid_is_withheld_with_its_reason_until_it_is_mended(stock_study):
    folder = stock_study({"p1": stock_entry("p1"), "p2": stock_entry("p2")})
    path = folder / "labels" / "final" / "p1.nii.gz"
    nifti_label(path, OUTLINES[:-2], affine())
    study = StudyStore(folder)
    look_for_labels(study)
    reason = study_status(folder).withheld["p1"]
    assert "on another grid than its scan's. Label: 20×24×20" in reason
    assert "put a usable file in its place" in reason
    assert look_for_labels(study) == 0
    nifti_label(path, OUTLINES, affine())
    assert look_for_labels(study) == 1
    assert study_status(folder).withheld == {}


def test_names_that_are_mended_in_the_index_are_taken(stock_study):
    folder = stock_study({"p1": stock_entry("p1", label_info=[{"name": "only one", "idx": 1}])})
    study = StudyStore(folder)
    look_for_labels(study)
    assert "label_info names 1 segments" in study.withheld_labels()["p1"]
    change_index(folder, lambda objects: objects["p1"]["labels"]["final"]["info"].update(label_info=SHIFTED))
    assert look_for_labels(study) == 1
    assert study.withheld_labels() == {}
    assert history(folder)[-1].segment_names == ((1, NAMES[0]), (2, NAMES[1]))


def test_a_replaced_file_is_another_label_and_loses_the_names_of_the_former_one(stock_study):
    folder = stock_study({"p1": stock_entry("p1")})
    study = StudyStore(folder)
    log = AnnotationLog(folder)
    labels = looker(study, log)
    assert len(labels.look()) == 1
    assert labels.look() == []
    nifti_label(folder / "labels" / "final" / "p1.nii.gz", OUTLINES[::-1].copy(), affine())
    (found,) = labels.look()
    assert (found.annotator, found.segment_names) == ("", ((1, "label_1"), (2, "label_2")))
    assert found.submitted_at_s == pytest.approx(time.time(), abs=60)
    assert study.label_info("p1", "final").get("label_info") is None
    assert [each.is_current for each in log.of_case("p1")] == [False, True]
    log.close()


def test_a_label_that_stock_has_saved_again_brings_its_own_names(stock_study):
    folder = stock_study({"p1": stock_entry("p1")})
    study = StudyStore(folder)
    look_for_labels(study)
    nifti_label(folder / "labels" / "final" / "p1.nii.gz", (OUTLINES == 1).astype(np.uint8), affine())
    again = {"label_info": [{"name": "again", "idx": 9}], "client_id": "cat", "ts": SAVED_AT_S + 3600}
    change_index(folder, lambda objects: objects["p1"]["labels"]["final"]["info"].update(again))
    look_for_labels(study)
    latest = history(folder)[-1]
    assert (latest.annotator, latest.segment_names) == ("cat", ((1, "again"),))


def test_a_deleted_label_is_told_once_and_the_history_keeps_it(stock_study, caplog):
    folder = stock_study({"p1": stock_entry("p1")})
    study = StudyStore(folder)
    log = AnnotationLog(folder)
    labels = looker(study, log)
    (kept,) = labels.look()
    (folder / "labels" / "final" / "p1.nii.gz").unlink()
    labels.look()
    labels.look()
    assert caplog.text.count("The label 'final' of p1 was deleted") == 1
    assert log.path(kept).is_file()
    assert study.labeled() == []
    log.close()


def test_of_two_files_for_one_label_none_trains_and_both_are_named(stock_study):
    folder = stock_study({"p1": stock_entry("p1"), "p2": stock_entry("p2")})
    other = folder / "labels" / "final" / "p1.seg.nrrd"
    segmentation_file(other, [OUTLINES], affine(), [("a", 1, 0), ("b", 2, 0)])
    study = StudyStore(folder)
    look_for_labels(study)
    reason = study_status(folder).withheld["p1"]
    assert "p1.nii.gz and p1.seg.nrrd lie side by side as its label 'final'" in reason
    (folder / "labels" / "final" / "p1.nii.gz").unlink()
    assert look_for_labels(study) == 1
    assert study.withheld_labels() == {}
    latest = next(each for each in history(folder) if each.case_id == "p1")
    assert latest.segment_names == ((1, "a"), (2, "b"))


def test_boxes_beside_an_outline_are_no_rival(stock_study):
    folder = stock_study({"p1": stock_entry("p1")})
    (folder / "labels" / "final" / "p1.json").write_text('{"markups": []}')
    assert StudyStore(folder).withheld_labels() == {}


def test_what_no_person_has_accepted_never_trains(stock_study):
    folder = stock_study({"p1": stock_entry("p1"), "p2": stock_entry("p2")})
    (folder / "labels" / "final").rename(folder / "labels" / "original")
    change_index(folder, lambda objects: [entry.update(labels={}) for entry in objects.values()])
    study = StudyStore(folder)
    assert look_for_labels(study) == 0
    with pytest.raises(InputError, match="No case of this study has a usable submitted label"):
        collect_labelled_nodules(study)


def test_a_submission_that_is_under_way_is_not_taken_for_a_found_label(stock_study):
    folder = stock_study({"p1": stock_entry("p1")})
    study = StudyStore(folder)
    look_for_labels(study)
    new = nifti_label(folder / "new.nii.gz.part.nii.gz", (OUTLINES > 0).astype(np.uint8), affine())
    log = AnnotationLog(folder)
    with pytest.raises(KeyboardInterrupt), log.submitting(Submission(case_id="p1", annotator="dan"), new):
        raise KeyboardInterrupt
    os.utime(folder / "labels" / "final" / "p1.nii.gz")
    assert looker(study, log).look() == []
    assert [each.annotator for each in log.all()] == ["ann", "dan"]
    log.close()
