"""Which case ids look like a person's name."""

import pytest

from medai.store.pseudonyms import PREFIX, looks_like_a_name, pseudonym


@pytest.mark.parametrize(
    "case_id",
    [
        "Doe^Jane",
        "DOE, JANE",
        "doe_jane",
        "Jane Doe 1961-04-03",
        "Müller-Lüdenscheid",
        "MUELLER19610403",
        "case_mueller",
        "patient Doe",
        "Li_Wu",
        "王伟",
        "CT^^",
        "O'Neill.P",
        "hospital_0042",
    ],
)
def test_a_name_is_taken_for_one(case_id: str):
    assert looks_like_a_name(case_id)


@pytest.mark.parametrize(
    "case_id",
    [
        "LIDC-IDRI-0001",
        "s0001",
        "case.axial",
        "case_oblique",
        "patient_012",
        "P12",
        "1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860",
        "2c5fb8a4-1f0f-4f7e-9b41-0c8f6a6d5c11",
        "d41d8cd98f00b204e9800998ecf8427e",
        "study-20210304_series2",
        "CT 0042",
        "042",
        "Q_7",
        "lung nodule 3",
    ],
)
def test_a_code_of_a_study_is_not(case_id: str):
    assert not looks_like_a_name(case_id)


def test_the_same_name_has_the_same_pseudonym_by_one_key_alone():
    first, second = b"k" * 32, b"l" * 32
    assert pseudonym("Doe^Jane", first) == pseudonym("Doe^Jane", first)
    assert pseudonym("Doe^Jane", first) != pseudonym("Doe^John", first)
    assert pseudonym("Doe^Jane", first) != pseudonym("Doe^Jane", second)
    assert pseudonym("Doe^Jane", first).startswith(PREFIX)
