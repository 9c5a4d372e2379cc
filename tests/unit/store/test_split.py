import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError, StorageError
from medai.store.split import TEST_FROM_PATIENTS, FrozenSplit, _first_place, patient_key_of_case
from medai.volume_io.dicom_headers import patient_key_of


def test_two_patients_are_enough_to_learn_and_to_judge(tmp_path):
    for number in range(20):
        split = FrozenSplit(tmp_path / str(number))
        assert {split.place(f"a{number}"), split.place(f"b{number}")} == {"train", "validation"}


@given(st.lists(st.integers(0, 2**256 - 1), unique=True, min_size=2, max_size=30))
def test_neither_subset_is_ever_empty_from_two_patients_on(numbers):
    placed = {}
    for number in numbers:
        digest = f"{number:064x}"
        placed[digest] = _first_place(digest, placed, len(numbers))
        if len(placed) >= 2:
            assert {"train", "validation"} <= set(placed.values())


def test_about_a_quarter_is_held_back(tmp_path):
    placed = FrozenSplit(tmp_path).place_all(f"patient {n}" for n in range(2000))
    held_back = sum(subset == "validation" for subset in placed.values())
    assert 0.22 < held_back / 2000 < 0.28


def test_test_patients_come_with_the_eighth_patient(tmp_path):
    few = FrozenSplit(tmp_path / "few").place_all(f"patient {n}" for n in range(TEST_FROM_PATIENTS - 1))
    assert "test" not in few.values()
    many = FrozenSplit(tmp_path / "many").place_all(f"patient {n}" for n in range(2000))
    assert 0.12 < sum(subset == "test" for subset in many.values()) / 2000 < 0.18
    enough = [
        FrozenSplit(tmp_path / f"{study}").place_all(f"{study} {n}" for n in range(TEST_FROM_PATIENTS))
        for study in range(20)
    ]
    assert any("test" in placed.values() for placed in enough)


def test_patients_of_a_small_study_stay_when_it_grows(tmp_path):
    few = FrozenSplit(tmp_path).place_all(f"patient {n}" for n in range(TEST_FROM_PATIENTS - 1))
    many = FrozenSplit(tmp_path).place_all(f"patient {n}" for n in range(100))
    assert few.items() <= many.items()
    assert "test" in many.values()


def test_a_split_of_an_earlier_release_stays_valid(tmp_path):
    old = FrozenSplit(tmp_path).place_all(f"p{n}" for n in range(5))
    path = tmp_path / ".medai" / "split.json"
    path.write_text(json.dumps({"version": 1, "patients": json.loads(path.read_text())["patients"]}))
    assert FrozenSplit(tmp_path).place_all(f"p{n}" for n in range(5)) == old


def test_asking_who_is_known_places_nobody(tmp_path):
    split = FrozenSplit(tmp_path)
    assert split.known(["p"]) == {}
    placed = split.place("p")
    assert split.known(["p", "q"]) == {"p": placed}


def test_a_patient_stays_where_it_is_when_others_arrive(tmp_path):
    first = FrozenSplit(tmp_path).place_all(f"p{n}" for n in range(10))
    FrozenSplit(tmp_path).place_all(f"q{n}" for n in range(200))
    assert FrozenSplit(tmp_path).place_all(f"p{n}" for n in range(10)) == first


def test_the_order_of_a_list_does_not_matter(tmp_path):
    keys = [f"p{n}" for n in range(12)]
    forward = FrozenSplit(tmp_path / "one").place_all(keys)
    backward = FrozenSplit(tmp_path / "two").place_all(reversed(keys))
    assert forward == backward


def test_asking_for_known_patients_writes_nothing(tmp_path):
    FrozenSplit(tmp_path).place("p")
    path = tmp_path / ".medai" / "split.json"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    FrozenSplit(tmp_path).place("p")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_no_patient_key_is_written(tmp_path):
    FrozenSplit(tmp_path).place("Doe^Jane")
    assert "Doe" not in (tmp_path / ".medai" / "split.json").read_text()


def test_scans_of_one_patient_go_together(tmp_path):
    cases = tmp_path / ".medai" / "cases"
    cases.mkdir(parents=True)
    for n in range(8):
        (cases / f"scan{n}.json").write_text(json.dumps({"patient_key": f"patient{n % 2}"}))
    placed = FrozenSplit(tmp_path).place_cases(f"scan{n}" for n in range(8))
    assert len({placed[f"scan{n}"] for n in (0, 2, 4, 6)}) == 1
    assert {placed["scan0"], placed["scan1"]} == {"train", "validation"}


@pytest.mark.parametrize(
    ("case_id", "key"),
    [
        ("LIDC-IDRI-0001_R_1", patient_key_of("LIDC-IDRI-0001")),
        ("LIDC-IDRI-0001", patient_key_of("LIDC-IDRI-0001")),
        ("my LIDC-IDRI-0001", "my LIDC-IDRI-0001"),
        ("1.2.840.113619", "1.2.840.113619"),
        ("phantom_003", "phantom_003"),
    ],
)
def test_patient_of_a_case_without_an_import_record(tmp_path, case_id, key):
    assert patient_key_of_case(tmp_path, case_id) == key


def test_an_import_record_without_a_patient_falls_back_on_the_id(tmp_path):
    (tmp_path / ".medai" / "cases").mkdir(parents=True)
    (tmp_path / ".medai" / "cases" / "c.json").write_text("{}")
    assert patient_key_of_case(tmp_path, "c") == "c"


def test_a_case_id_cannot_leave_the_study(tmp_path):
    with pytest.raises(InputError, match="path separator"):
        patient_key_of_case(tmp_path, "a/../../../etc/passwd")


@pytest.mark.parametrize("content", ["", "[]", '{"patients": {"a": "nowhere"}}', '{"patients": 3}', '{"version": 1}'])
def test_a_damaged_split_is_never_drawn_anew(tmp_path, content):
    path = tmp_path / ".medai" / "split.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StorageError, match=r"is damaged.*Restore it from a backup"):
        FrozenSplit(tmp_path).place("p")
    assert path.read_text() == content


def test_a_damaged_import_record_is_named(tmp_path):
    (tmp_path / ".medai" / "cases").mkdir(parents=True)
    (tmp_path / ".medai" / "cases" / "c.json").write_text("[1]")
    with pytest.raises(StorageError, match=r"c\.json is damaged.*import the case again"):
        patient_key_of_case(tmp_path, "c")
