"""No patient has two parts in a simulation, and the environment is the simulation's own while it runs."""

import os
from pathlib import Path

import pytest

from medai.errors import InputError
from medai.training.dataset import is_validation_patient
from medai.workflows.nodule_folder import FolderNodule
from medai.workflows.simulated_patients import (
    PatientCounts,
    cases_of_rounds,
    nodule_data,
    part_patients,
    simulation_environment,
)

COUNTS = PatientCounts(figure=10, start=4, regression=5)


def nodule(patient, number=1):
    path = Path("nowhere.nii.gz")
    return FolderNodule(
        case_id=f"{patient}_R_{number}", patient_id=patient, image_path=path, mask_path=path, diameter_mm=8.0
    )


NODULES = [nodule(f"LIDC-IDRI-{n:04}", number) for n in range(1, 101) for number in range(1, 2 + n % 3)]


def patients_of(nodules):
    return {each.patient_id for each in nodules}


def test_no_patient_has_two_parts():
    parts = part_patients(NODULES, COUNTS)
    named = [patients_of(part) for part in (parts.figure, parts.start, parts.regression, parts.pool)]
    assert [len(part) for part in named] == [10, 4, 5, 81]
    assert len(set.union(*named)) == 100
    assert not any(is_validation_patient(name) for name in named[1])
    assert all(is_validation_patient(name) for name in named[2])
    # One nodule a patient is scored on or annotated; those who only train or are old cases give all they have.
    assert len(parts.figure) == 10
    assert len(parts.pool) == 81
    assert len(parts.start) > 4


def test_a_patients_part_does_not_depend_on_the_order_of_the_table():
    assert part_patients(NODULES[::-1], COUNTS) == part_patients(NODULES, COUNTS)


def test_too_few_patients_are_refused():
    with pytest.raises(InputError, match="nodules of 12 patients: too few for 10"):
        part_patients([nodule(f"LIDC-IDRI-{n:04}") for n in range(12)], COUNTS)


def test_more_rounds_leave_the_earlier_ones_as_they_were():
    pool = part_patients(NODULES, COUNTS).pool
    few = cases_of_rounds(pool, rounds=2, cases_per_round=8, seed=3)
    many = cases_of_rounds(pool, rounds=5, cases_per_round=8, seed=3)
    assert many[:2] == few
    assert len({each.case_id for case in many for each in case}) == 40
    assert cases_of_rounds(pool, rounds=2, cases_per_round=8, seed=4) != few
    with pytest.raises(InputError, match="11 rounds of 8 cases take 88 patients; 81 are left"):
        cases_of_rounds(pool, rounds=11, cases_per_round=8, seed=3)


def test_the_environment_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDAI_REAL_DATA", "mine")
    monkeypatch.setenv("MEDAI_ANNOTATIONS_URL", "postgresql://host/mine")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError), simulation_environment(tmp_path):
        assert os.environ["MEDAI_REAL_DATA"] == str(tmp_path / "outside")
        assert os.environ["XDG_STATE_HOME"] == str(tmp_path / "state")
        assert "MEDAI_ANNOTATIONS_URL" not in os.environ
        raise KeyError
    assert dict(os.environ) == before


def test_the_folder_or_the_one_that_holds_it_may_be_named(tmp_path):
    (tmp_path / "lidc_nodules").mkdir()
    assert nodule_data(tmp_path) == tmp_path / "lidc_nodules"
    assert nodule_data(tmp_path / "lidc_nodules") == tmp_path / "lidc_nodules"
