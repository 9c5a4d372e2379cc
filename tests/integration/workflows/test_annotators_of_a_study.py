"""``medai annotators`` on a study whose labels three people submitted."""

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Segment, Volume
from medai.errors import NotFoundError
from medai.geometry import VolumeGeometry
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.annotators import compare_annotators, open_annotations

GEOMETRY = VolumeGeometry(shape_ijk=(40, 42, 24), affine_ijk_to_ras_mm=np.diag([-0.8, -0.8, 1.5, 1.0]))


def ball(radius_mm):
    places = np.moveaxis(np.indices(GEOMETRY.shape_ijk), 0, -1) * GEOMETRY.spacing_mm
    inside = np.linalg.norm(places - np.array([20, 21, 12]) * GEOMETRY.spacing_mm, axis=-1) < radius_mm
    return LabelMap(geometry=GEOMETRY, labels=inside.astype(np.uint8), segments=(Segment(value=1, name="nodule"),))


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for n in range(6):
        image_hu = lung_hu(GEOMETRY.shape_ijk, -850)
        write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), folder / f"case{n}.nii.gz")
    StudyStore(folder)
    log = AnnotationLog(folder)
    for n in range(6):
        for annotator, radius_mm in (("ann", 6.0 + 0.2 * n), ("bob", 6.1 + 0.2 * n), ("large", 8.0 + 0.2 * n)):
            label = tmp_path / "label.nii.gz"
            write_label_map(ball(radius_mm), label)
            log.record(Submission(case_id=f"case{n}", annotator=annotator, nodules=1, volume_ml=1.0), label)
    log.close()
    return folder


def test_who_outlines_too_large_is_named_from_the_history(study):
    report = compare_annotators(open_annotations(study))
    assert (report.cases, report.shared_cases, report.skipped) == (6, 6, {})
    findings = report.findings()
    assert findings[0].startswith("large outlines too large"), findings
    assert not any(finding.startswith(("ann ", "bob ")) for finding in findings), findings
    assert {each.name for each in report.annotators} == {"ann", "bob", "large"}


def test_a_study_without_history_says_what_to_do(tmp_path):
    with pytest.raises(NotFoundError, match="submit labels first"):
        open_annotations(tmp_path)


def test_ratings_in_the_names_of_every_label_make_kappas(study, tmp_path):
    """Only the latest label of a case is the study's own: the names of the others are in the history alone."""
    log = AnnotationLog(study)
    for n in range(6):
        for annotator, rating in (("ann", 1 + n % 5), ("bob", 1 + n % 5), ("large", 1 + (n + 2) % 5)):
            label = tmp_path / "label.nii.gz"
            write_label_map(ball(6.0 + 0.2 * n), label)
            info = {"label_info": [{"name": f"nodule malignancy {rating} spiculation 2", "idx": 1}]}
            log.record(Submission(case_id=f"case{n}", annotator=annotator, nodules=1, volume_ml=1.0, info=info), label)
    log.close()
    ratings = {(r.attribute, r.first, r.second): r for r in compare_annotators(open_annotations(study)).ratings}
    assert ratings["malignancy", "ann", "bob"].kappa == pytest.approx(1.0)
    assert ratings["malignancy", "ann", "large"].kappa < 0.5
    assert {r.nodules for r in ratings.values()} == {6}
    assert {attribute for attribute, _, _ in ratings} == {"malignancy", "spiculation"}
