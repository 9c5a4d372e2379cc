"""What a classifier learns from: ratings in the names of submitted segments, read from real study folders."""

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Segment, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.rated_nodules import collect_rated_nodules

GEOMETRY = VolumeGeometry(
    shape_ijk=(20, 22, 24),
    affine_ijk_to_ras_mm=np.array([[-0.7, 0, 0, 5.0], [0, 0, 2.0, -7.0], [0, 0.8, 0, 9.0], [0, 0, 0, 1.0]]),
)


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    return StudyStore(folder)


def add_case(study, tmp_path, case_id, names):
    image_hu = lung_hu(GEOMETRY.shape_ijk, -800)
    write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), tmp_path / f"{case_id}.nii.gz")
    study.add_image(tmp_path / f"{case_id}.nii.gz")
    labels = np.zeros(GEOMETRY.shape_ijk, np.uint8)
    for value, _ in enumerate(names, start=1):
        labels[3:6, 2:5, 2 + 5 * value : 5 + 5 * value] = value
    labels[10:14, 10:14, 1:4] = 1
    segments = tuple(Segment(value=value, name=name) for value, name in enumerate(names, start=1))
    write_label_map(LabelMap(geometry=GEOMETRY, labels=labels, segments=segments), tmp_path / "label.nii.gz")
    info = [{"name": name, "idx": value} for value, name in enumerate(names, start=1)]
    study.save_label(case_id, tmp_path / "label.nii.gz", "final", {"label_info": info})


def test_each_part_of_a_rated_segment_is_a_rated_nodule(study, tmp_path):
    for n in range(3):
        add_case(study, tmp_path, f"case{n}", ["Nodule 1 malignancy 4, spiculation 2", "Nodule 2", "M1"])
    found = collect_rated_nodules(study)
    rated = {nodule.case_id: dict(nodule.ratings) for nodule in (*found.train, *found.held_back)}
    first = {"malignancy": 4, "spiculation": 2}
    # Two parts of the first segment, none of the second, the third.
    assert rated["case0#1"] == rated["case0#2"] == first
    assert rated["case0#4"] == {"malignancy": 1}
    assert len(rated) == 9
    assert not {n.patient_id for n in found.train} & {n.patient_id for n in found.held_back}
    for nodule in found.train:
        assert np.count_nonzero(nodule.case.mask) in (27, 48)


def test_a_proposals_own_words_are_no_rating(study, tmp_path):
    for n in range(3):
        add_case(study, tmp_path, f"case{n}", ["Nodule 1 - 8.2 mm solid - malignancy 62 % - right"])
    with pytest.raises(
        InputError, match=r"No case of this study has a usable.*rename a segment 'malignancy 4'.*case0 \(No segment's"
    ):
        collect_rated_nodules(study)


def test_ratings_of_one_patient_are_too_few(study, tmp_path):
    add_case(study, tmp_path, "LIDC-IDRI-0001_a", ["malignancy 4"])
    add_case(study, tmp_path, "LIDC-IDRI-0001_b", ["malignancy 2"])
    with pytest.raises(InputError, match="2 cases have a usable submitted label, but no patient is"):
        collect_rated_nodules(study)
