"""Detection cases made whole: who may be in them, what their lists say, and that a run can be resumed."""

from dataclasses import replace

import numpy as np
import pytest

from medai.domain import NoduleKind
from medai.errors import CancelledByUserError, InputError
from medai.training.dataset import is_validation_patient
from medai.workflows.detection_cases import (
    HELD_BACK,
    TRAINING,
    draw_small_and_large,
    held_back_case,
    prepare_detection_cases,
    read_detection_case,
    training_case,
)
from medai.workflows.real_nodules import REAL_HOSTS, draw_real_scan, real_nodules

COARSE = {"slice_mm": (3.0,), "in_plane_mm": (2.4, 2.6)}


def test_nodules_of_a_phantom_case_can_be_seen():
    case = training_case(4, None, replace(TRAINING, **COARSE, nodules=(3, 3), without_nodule=0.0))
    assert len(case.nodules) == 3
    assert case.patient_ids == ()
    geometry = case.volume.geometry
    for nodule in case.nodules:
        assert nodule.source == "phantom"
        i, j, k = np.rint(geometry.ras_to_ijk(nodule.centre_ras_mm)).astype(int)
        around = case.volume.image_hu[i - 2 : i + 3, j - 2 : j + 3, k - 1 : k + 2]
        assert around.max() > -780


def test_a_share_has_no_nodule():
    case = held_back_case(1, None, replace(HELD_BACK, **COARSE, without_nodule=1.0))
    assert case.nodules == case.irrelevant == ()


@pytest.mark.real_data
@pytest.mark.parametrize("held_back", [False, True])
def test_real_nodules_are_of_the_right_patients(real_data, held_back):
    make, usual = (held_back_case, HELD_BACK) if held_back else (training_case, TRAINING)
    options = replace(
        usual, **COARSE, nodules=(4, 4), without_nodule=0.0, inserted=1.0, with_insertions=1.0, on_real_scan=0.0
    )
    case = make(3, real_data, options)
    assert len(case.nodules) >= 2
    assert all(nodule.source.startswith("real:LIDC-IDRI-") for nodule in case.nodules)
    assert case.patient_ids
    assert all(is_validation_patient(patient) == held_back for patient in case.patient_ids)
    again = make(3, real_data, options)
    np.testing.assert_array_equal(case.volume.image_hu, again.volume.image_hu)
    assert case.nodules == again.nodules


@pytest.mark.real_data
def test_real_scans_are_split_as_their_patients_are(real_data, rng):
    sides = {host.patient_id: is_validation_patient(host.patient_id) for host in REAL_HOSTS}
    assert set(sides.values()) == {False, True}
    scan, (own, irrelevant), patient = draw_real_scan(rng, real_data, held_back=False)
    assert patient.startswith("LIDC-IDRI-000")
    assert not sides[patient]
    for finding in (*own, *irrelevant):
        assert scan.geometry.contains(np.rint(scan.geometry.ras_to_ijk(finding.centre_ras_mm)).astype(int))
    kinds = [row.kind for row in real_nodules(real_data)]
    assert 30 < kinds.count(NoduleKind.NON_SOLID) < 150


def test_a_stopped_run_goes_on(tmp_path):
    options = replace(TRAINING, slice_mm=(5.0,), in_plane_mm=(4.0, 4.2), nodules=(1, 1))
    asked = []

    def stop_after_one():
        asked.append(True)
        return len(asked) > 1

    with pytest.raises(CancelledByUserError, match="1 of 2"):
        prepare_detection_cases(tmp_path, count=2, seed=5, options=options, should_stop=stop_after_one)
    first = (tmp_path / "images" / "train-00005.nii.gz").stat().st_mtime_ns
    steps = []
    made = prepare_detection_cases(
        tmp_path, count=2, seed=5, options=options, on_progress=lambda done, total: steps.append((done, total))
    )
    assert made == ("train-00005", "train-00006")
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert (tmp_path / "images" / "train-00005.nii.gz").stat().st_mtime_ns == first
    assert read_detection_case(tmp_path, "train-00006").volume.image_hu.dtype == np.int16


def test_bad_input_is_said(tmp_path):
    with pytest.raises(InputError, match="number of cases is 0"):
        prepare_detection_cases(tmp_path, count=0)
    with pytest.raises(InputError, match="lidc_nodules"):
        real_nodules(tmp_path)


def test_half_of_the_drawn_nodules_are_small(rng):
    sizes = np.array([spec.diameter_mm for spec in draw_small_and_large(rng, 400, smallest_mm=3.0)])
    assert sizes.min() >= 3.0
    assert np.all(np.diff(sizes) <= 0)
    assert 0.3 < np.mean(sizes < 6.0) < 0.65
    assert min(spec.diameter_mm for spec in draw_small_and_large(rng, 50, smallest_mm=4.8)) >= 4.8
