"""Whose a case is, from memory."""

import json

import pytest

from medai.store import patients
from medai.store.patients import PatientIndex


def write_facts(studies, case_id, content):
    folder = studies / ".medai" / "cases"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case_id}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_cases_of_one_patient_are_siblings(tmp_path):
    write_facts(tmp_path, "ct_2023", {"patient_key": "k"})
    write_facts(tmp_path, "ct_2024", {"patient_key": "k"})
    index = PatientIndex(tmp_path)
    index.learn(["ct_2023", "ct_2024", "other", "LIDC-IDRI-0001_a", "LIDC-IDRI-0001_b"])
    assert index.siblings("ct_2023") == {"ct_2024"}
    assert index.siblings("LIDC-IDRI-0001_b") == {"LIDC-IDRI-0001_a"}
    assert index.siblings("other") == frozenset()
    assert index.siblings("never heard of") == frozenset()


def test_a_file_is_read_once(tmp_path, monkeypatch):
    write_facts(tmp_path, "a", {"patient_key": "k"})
    asked = []
    original = patients.patient_key_of_case
    monkeypatch.setattr(
        patients, "patient_key_of_case", lambda folder, case_id: asked.append(case_id) or original(folder, case_id)
    )
    index = PatientIndex(tmp_path)
    for _ in range(3):
        index.learn(["a", "b"])
    assert asked == ["a", "b"]


def test_facts_that_come_in_later_count(tmp_path):
    write_facts(tmp_path, "a", {"patient_key": "k"})
    index = PatientIndex(tmp_path)
    index.learn(["a", "b"])
    assert index.siblings("a") == frozenset()
    write_facts(tmp_path, "b", {"patient_key": "k"})
    index.learn(["a", "b"])
    assert index.siblings("a") == {"b"}


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_file_makes_a_patient_of_its_own(tmp_path, content, caplog):
    write_facts(tmp_path, "a", content)
    index = PatientIndex(tmp_path)
    assert index.siblings("a") == frozenset()
    assert "a counts as a patient of its own" in caplog.text
