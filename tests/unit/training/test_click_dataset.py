"""Click cases from label maps, and the split by patient."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment, Volume
from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.training.dataset import ClickDataset, is_validation_patient, nodule_cases, split_by_patient

SHAPE = (60, 61, 40)
GEOMETRY = VolumeGeometry(
    shape_ijk=SHAPE,
    affine_ijk_to_ras_mm=np.array([[-0.7, 0, 0, 9], [0, -0.7, 0, 5], [0, 0, 1.5, -40], [0, 0, 0, 1.0]]),
)


def pair(case_id="patient7"):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[10:15, 10:15, 5:9] = 1
    labels[40:44, 40:44, 20:23] = 1  # a second nodule in the same segment
    labels[15:19, 10:15, 5:9] = 3  # another segment that touches the first
    labels[50, 50, 30] = 3  # a stray voxel
    image_hu = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE) % 1500 - 1000
    segments = (Segment(value=1, name="a"), Segment(value=3, name="b"))
    return (
        Volume(geometry=GEOMETRY, image_hu=image_hu.astype(np.int16), case_id=case_id),
        LabelMap(geometry=GEOMETRY, labels=labels, segments=segments),
    )


def test_every_component_of_every_segment_is_a_case():
    volume, label_map = pair()
    cases = nodule_cases([(volume, label_map)])
    assert [int(case.mask.sum()) for case in cases] == [100, 48, 80]
    assert {case.patient_id for case in cases} == {"patient7"}
    assert len({case.case_id for case in cases}) == 3


def test_a_case_shows_the_scan_around_its_nodule_at_the_right_place():
    volume, label_map = pair()
    case = nodule_cases([(volume, label_map)], context_mm=6.0)[1]
    assert case.volume.geometry.shape_ijk == (4 + 2 * 9, 4 + 2 * 9, 3 + 2 * 4)
    centre = case.volume.geometry.ijk_to_ras(np.argwhere(case.mask).mean(axis=0))
    np.testing.assert_allclose(centre, GEOMETRY.ijk_to_ras([41.5, 41.5, 21.0]))
    at = tuple(np.argwhere(case.mask)[0])
    assert case.volume.image_hu[at] == volume.image_hu[40, 40, 20]


def test_a_label_map_without_nodules_gives_no_case():
    volume, label_map = pair()
    empty = LabelMap(geometry=GEOMETRY, labels=np.zeros(SHAPE, np.uint8), segments=label_map.segments)
    assert nodule_cases([(volume, empty)]) == []


def test_labels_on_another_grid_are_refused():
    volume, label_map = pair()
    moved = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([0.7, 0.7, 1.5, 1.0]))
    other = LabelMap(geometry=moved, labels=label_map.labels, segments=label_map.segments)
    with pytest.raises(GeometryError, match="case 'patient7' lie on another grid"):
        nodule_cases([(volume, other)])


def test_the_split_is_by_patient_and_never_changes():
    ids = [f"LIDC-IDRI-{n:04d}" for n in range(1, 1001)]
    held_back = [patient for patient in ids if is_validation_patient(patient)]
    assert 160 < len(held_back) < 240
    # Frozen: the starter's published figures are of these patients.
    assert [is_validation_patient(patient) for patient in ids[:8]] == [
        False,
        False,
        False,
        False,
        False,
        False,
        False,
        True,
    ]
    cases = [case for patient in ids[:20] for case in nodule_cases([pair(patient)], context_mm=2.0)]
    training, validation = split_by_patient(cases)
    assert len(training) + len(validation) == 60
    assert not {case.patient_id for case in training} & {case.patient_id for case in validation}


def test_a_dataset_refuses_what_cannot_be_trained_or_judged():
    (case, *others) = nodule_cases([pair("a")], context_mm=2.0)
    (other, *_) = nodule_cases([pair("b")], context_mm=2.0)
    ClickDataset(training=(case,), validation=(other,))
    with pytest.raises(InputError, match="no nodule to train on"):
        ClickDataset(training=(), validation=(other,))
    with pytest.raises(InputError, match="no nodule to validate on"):
        ClickDataset(training=(case,), validation=())
    with pytest.raises(InputError, match="1 patients are in both"):
        ClickDataset(training=(case,), validation=tuple(others))
    with pytest.raises(InputError, match="1 patients are in both"):
        ClickDataset(training=(other,), validation=(case,), replay=tuple(others))
