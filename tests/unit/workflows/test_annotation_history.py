"""What a training is told of the labels it learns from."""

import pytest

from medai.store.annotations import AnnotationLog, Submission
from medai.workflows.annotation_history import recorded_annotations


@pytest.fixture
def label(tmp_path):
    path = tmp_path / "label.nii.gz"
    path.write_bytes(b"a label")
    return path


def submission(case_id, tag, annotator):
    return Submission(case_id=case_id, tag=tag, annotator=annotator, nodules=1, volume_ml=0.5)


def test_the_latest_accepted_label_of_each_case_is_told(tmp_path, label):
    studies = tmp_path / "study"
    studies.mkdir()
    log = AnnotationLog(studies)
    for case_id, tag, annotator in [("a", "final", "ann"), ("a", "final", "bob"), ("a", "second", "cleo")]:
        log.record(submission(case_id, tag, annotator), label)
    log.close()
    annotation_of = recorded_annotations(studies)
    assert annotation_of("a").annotator == "bob"
    assert annotation_of("b") is None


def test_a_study_without_a_history_tells_nothing(tmp_path):
    assert recorded_annotations(tmp_path) is None
