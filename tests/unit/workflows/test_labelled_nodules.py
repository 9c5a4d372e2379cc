"""What several annotators of one case say together is what trains and judges, not who came last."""

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Segment, Volume
from medai.domain.annotation import ReviewState
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import StudyStore
from medai.training.label_weights import label_weight
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.annotation_history import recorded_annotations
from medai.workflows.labelled_nodules import collect_labelled_nodules, joined_nodules

GEOMETRY = VolumeGeometry(
    shape_ijk=(70, 72, 40),
    affine_ijk_to_ras_mm=np.array([[-0.8, 0, 0, 5.0], [0, 0.9, 0, -7.0], [0, 0, 1.5, 9.0], [0, 0, 0, 1.0]]),
)
SCAN = Volume(geometry=GEOMETRY, image_hu=lung_hu(GEOMETRY.shape_ijk, -800), case_id="scan")


def block(start, size=10, value=1):
    labels = np.zeros(GEOMETRY.shape_ijk, dtype=np.uint8)
    labels[tuple(slice(n, n + size) for n in start)] = value
    return LabelMap(geometry=GEOMETRY, labels=labels, segments=(Segment(value=value, name="nodule"),))


def both(first, second):
    labels = first.labels + second.labels
    return LabelMap(geometry=GEOMETRY, labels=labels, segments=first.segments + second.segments)


HERE, NEAR, ELSEWHERE = (20, 22, 10), (20, 22, 12), (50, 50, 20)


def test_of_three_labels_the_majority_is_the_outline_whoever_came_last():
    (nodule,) = joined_nodules(SCAN, [block(HERE), block(HERE), block(ELSEWHERE)])
    (alone,) = joined_nodules(SCAN, [block(HERE)])
    assert np.array_equal(nodule.mask, alone.mask)
    assert alone.readers is None
    assert nodule.readers.shape == nodule.mask.shape
    # Two of three marked it.
    assert set(np.unique(nodule.readers[nodule.mask]).round(3)) == {np.float32(0.667)}


def test_of_two_labels_the_later_one_is_the_outline_and_the_mean_tells_where_they_differ():
    (nodule,) = joined_nodules(SCAN, [block(HERE), block(NEAR)])
    (later,) = joined_nodules(SCAN, [block(NEAR)])
    assert np.array_equal(nodule.mask, later.mask)
    assert nodule.readers.max() == 1.0
    assert np.count_nonzero(nodule.readers == 1.0) == 10 * 10 * 8
    assert np.count_nonzero(nodule.readers == 0.5) == 2 * 10 * 10 * 2


def test_two_labels_that_hardly_overlap_are_nobodys_truth():
    with pytest.raises(InputError, match=r"agree at a Dice of 0\.00 only .* third label"):
        joined_nodules(SCAN, [block(HERE), block(ELSEWHERE)])


def test_each_nodule_gets_the_soft_label_of_its_own():
    label = both(block(HERE), block(ELSEWHERE, size=6, value=2))
    one, other = joined_nodules(SCAN, [label, label, both(block(NEAR), block(ELSEWHERE, size=6, value=2))])
    assert {one.readers[one.mask].min(), other.readers[other.mask].min()} == {np.float32(2 / 3), np.float32(1)}
    assert np.count_nonzero(other.readers) == 6**3


@pytest.fixture
def study(tmp_path):
    """Twelve cases, each with a label of Ann."""
    folder = tmp_path / "study"
    folder.mkdir()
    store = StudyStore(folder)
    for n in range(12):
        write_volume(SCAN, folder / f"case{n}.nii.gz")
        submit(store, f"case{n}", "ann", block(HERE))
    return store


def submit(store, case_id, annotator, label_map, **known):
    path = store.folder.parent / "label.nii.gz"
    write_label_map(label_map, path)
    log = AnnotationLog(store.folder)
    submission = Submission(case_id=case_id, annotator=annotator, nodules=1, volume_ml=1.0, is_measured=True, **known)
    with log.submitting(submission, path) as annotation:
        store.save_label(case_id, path)
    log.close()
    return annotation


def masks(study):
    found = collect_labelled_nodules(study)
    return {nodule.case_id: nodule for nodule in (*found.train, *found.held_back, *found.test)}, found.skipped


def test_a_quarantined_label_neither_trains_nor_judges_and_hides_no_good_one(study):
    before, _ = masks(study)
    for n in range(12):
        submit(study, f"case{n}", "mal", block(ELSEWHERE), quarantine_reason="it is alone")
    after, skipped = masks(study)
    assert skipped == {}
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name].mask, before[name].mask) for name in before)
    # And it is Ann's label that is weighed.
    annotation = recorded_annotations(study.folder)("case0")
    assert (annotation.annotator, label_weight(annotation)) == ("ann", 1.0)


def test_the_last_of_three_annotators_does_not_decide_alone(study):
    before, _ = masks(study)
    submit(study, "case0", "bob", block(HERE))
    submit(study, "case0", "mal", block(ELSEWHERE))
    after, skipped = masks(study)
    assert skipped == {}
    assert np.array_equal(after["case0#1"].mask, before["case0#1"].mask)
    assert after["case0#1"].readers is not None


def test_a_case_in_dispute_waits_for_a_third_label_or_an_approval(study):
    label = submit(study, "case0", "mal", block(ELSEWHERE))
    found, skipped = masks(study)
    assert "case0#1" not in found
    assert "nothing says whose is right" in skipped["case0"]
    log = AnnotationLog(study.folder)
    log.set_review(label.annotation_id, ReviewState.APPROVED, "chief")
    log.close()
    found, skipped = masks(study)
    assert skipped == {}
    assert "case0#1" in found


def test_an_annotators_second_label_replaces_the_first(study):
    submit(study, "case0", "ann", block(ELSEWHERE))
    found, skipped = masks(study)
    assert skipped == {}
    assert found["case0#1"].readers is None
    assert np.array_equal(found["case0#1"].mask, joined_nodules(SCAN, [block(ELSEWHERE)])[0].mask)


def test_a_label_put_there_past_the_server_counts_as_it_is(study):
    submit(study, "case0", "bob", block(HERE))
    path = study.folder.parent / "label.nii.gz"
    write_label_map(block(ELSEWHERE, size=8), path)
    study.save_label("case0", path)
    found, _ = masks(study)
    assert np.count_nonzero(found["case0#1"].mask) == 8**3
