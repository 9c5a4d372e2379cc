"""Labels of annotators who stand out count less in training, and do not decide which model is better."""

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Segment, Volume
from medai.domain.annotation import Correction, ReviewState
from medai.geometry import VolumeGeometry
from medai.store.annotations import AnnotationLog, Submission
from medai.store.split import FrozenSplit
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.doubted_labels import BIASED_WEIGHT, Doubts, doubted_labels
from medai.workflows.labelled_nodules import collect_labelled_nodules

GEOMETRY = VolumeGeometry(shape_ijk=(40, 42, 24), affine_ijk_to_ras_mm=np.diag([-0.8, -0.8, 1.5, 1.0]))
SHARED, ALONE = [f"shared{n}" for n in range(6)], [f"alone{n}" for n in range(24)]


def ball(radius_mm, shift=0):
    places = np.moveaxis(np.indices(GEOMETRY.shape_ijk), 0, -1) * GEOMETRY.spacing_mm
    middle = np.array([20 + shift, 21 + shift, 12]) * GEOMETRY.spacing_mm
    inside = np.linalg.norm(places - middle, axis=-1) < radius_mm
    return LabelMap(geometry=GEOMETRY, labels=inside.astype(np.uint8), segments=(Segment(value=1, name="nodule"),))


@pytest.fixture
def study(tmp_path):
    """Three people read six cases together; twelve cases are Bea's alone and twelve Ann's."""
    folder = tmp_path / "study"
    folder.mkdir()
    for name in (*SHARED, *ALONE):
        image_hu = lung_hu(GEOMETRY.shape_ijk, -700)
        write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), folder / f"{name}.nii.gz")
    store, log = StudyStore(folder), AnnotationLog(folder)

    def submit(case_id, annotator, radius_mm, shift=0):
        path = tmp_path / "label.nii.gz"
        write_label_map(ball(radius_mm, shift), path)
        with log.submitting(Submission(case_id=case_id, annotator=annotator, nodules=1, volume_ml=1.0), path) as kept:
            store.save_label(case_id, path)
        return kept

    for n, case_id in enumerate(SHARED):
        for annotator, radius_mm in (("ann", 6.0), ("bob", 6.1), ("bea", 8.0)):
            submit(case_id, annotator, radius_mm + 0.1 * n)
    for n, case_id in enumerate(ALONE):
        submit(case_id, *(("bea", 8.0) if n % 2 else ("ann", 6.0)))
    store.submit, store.log = submit, log
    yield store
    log.close()


def test_what_a_biased_annotator_labelled_alone_trains_but_judges_nothing(study):
    found = collect_labelled_nodules(study)
    sides = FrozenSplit(study.folder).place_cases([*SHARED, *ALONE])
    of_bea = {case_id for case_id in ALONE[1::2] if sides[case_id] != "train"}
    assert of_bea
    assert found.skipped.keys() == of_bea
    assert all("'bea' outlines too large (+" in reason for reason in found.skipped.values())
    assert all("it does not judge until a reviewer approves it" in reason for reason in found.skipped.values())
    assert set(ALONE[1::2]) - of_bea <= set(found.trained_on)
    # Where others have read the case too, their majority judges.
    assert set(found.judged_on) == {name for name, side in sides.items() if side == "validation"} - of_bea
    weights = {nodule.case_id.partition("#")[0]: nodule.weight for nodule in found.train}
    assert {name for name, weight in weights.items() if weight == BIASED_WEIGHT} == set(ALONE[1::2]) - of_bea
    assert set(weights.values()) == {1.0, BIASED_WEIGHT}


def test_an_approval_or_other_peoples_labels_confirm_it(study):
    held_back = [name for name in doubted_labels(study.folder).of_case if name in ALONE]
    approved, seconded, other = held_back[:3]
    study.log.set_review(study.log.current(approved).annotation_id, ReviewState.APPROVED, "chief")
    study.submit(seconded, "ann", 6.0)
    left = doubted_labels(study.folder).of_case
    assert approved not in left
    assert seconded not in left
    assert other in left


def test_who_labels_something_else_neither_trains_nor_judges_and_has_no_say_beside_others(study):
    for case_id in SHARED:
        study.submit(case_id, "mal", 5.0, shift=9)
    alone, beside = ALONE[0], ALONE[2]
    study.submit(beside, "mal", 5.0, shift=9)
    study.submit(alone, "mal", 5.0, shift=9)
    first = study.log.current(alone)
    for each in study.log.all():
        if each.case_id == alone and each.annotator == "ann":
            study.log.set_review(each.annotation_id, ReviewState.FLAGGED, "chief")
    doubts = doubted_labels(study.folder)
    assert doubts.elsewhere == {"mal"}
    assert not doubts.of_case[alone].may_train
    assert "'mal' labels something else than the others" in doubts.of_case[alone].reason
    assert "it neither trains nor judges until a reviewer approves it" in doubts.of_case[alone].reason
    assert beside not in doubts.of_case
    found = collect_labelled_nodules(study)
    assert alone in found.skipped
    nodules = {n.case_id.partition("#")[0]: n for n in (*found.train, *found.held_back, *found.test)}
    assert alone not in nodules
    # Where somebody else has labelled the case, the outline is that one's, untouched by what came later.
    assert nodules[beside].readers is None
    assert np.count_nonzero(nodules[beside].mask) == np.count_nonzero(ball(6.0).labels)
    study.log.set_review(first.annotation_id, ReviewState.APPROVED, "chief")
    assert alone not in doubted_labels(study.folder).of_case


def test_the_models_proposals_are_no_witness(tmp_path):
    """Three honest people correct a model that outlines half of each nodule."""
    folder = tmp_path / "study"
    folder.mkdir()
    log = AnnotationLog(folder)
    half = Correction(dice=0.6, added_path_length_mm=40.0, volume_change_ml=0.5, nodules_added=0, nodules_removed=0)
    for n in range(21):
        write_label_map(ball(6.0), tmp_path / "label.nii.gz")
        submission = Submission(case_id=f"case{n}", annotator=("ann", "bob", "eve")[n % 3], nodules=1, volume_ml=1.0)
        kept = log.record(submission, tmp_path / "label.nii.gz")
        log.set_measures(kept.annotation_id, half, "")
    log.close()
    assert doubted_labels(folder) == Doubts()


def test_a_study_without_history_or_with_two_annotators_doubts_nobody(tmp_path, study):
    assert doubted_labels(tmp_path) == Doubts()
