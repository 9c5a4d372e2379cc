"""What an annotator typed as a rating and what is none is said, with what to do; other numbers in names are let be."""

import pytest

from medai.postprocessing.nodules import rating_problems


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("malignancy 9", "'malignancy 9' is not taken as a rating, 9 is none: a rating is a whole number from 1 to 5"),
        ("nodule 2 malignancy 0", "'malignancy 0'"),
        ("Nodule 1 texture: 7", "Rename the segment, 'texture 4' say"),
        ("malignancy 4.5", "4.5 is none"),
        ("malignancy=-1", "-1 is none"),
        ("malignency 4", "is no attribute that is rated. Rename the segment, 'malignancy 4' say"),
        ("spiculaton 9", "'spiculation 4' say"),
        ("nodule M9", "'M9' is not taken as a rating of malignancy"),
        ("calcification 6", "6 is none"),
    ],
)
def test_a_rating_that_is_none_is_told(name, words):
    (problem,) = rating_problems(name)
    assert problem.startswith(f"segment '{name}': ")
    assert words in problem


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nodule 12",
        "Nodule 1 - 8.2 mm solid - malignancy 62 % - right",
        "malignancy 4",
        "M5 spiculation 3",
        "cT1 N0 M0",
        "segment 7",
        "margin 12 mm",
        "M12 mm",
        "texture 3 malignancy 1",
    ],
)
def test_what_is_a_rating_or_no_attempt_at_one_is_let_be(name):
    assert rating_problems(name) == []


def test_each_attempt_is_told():
    assert len(rating_problems("malignancy 9 texture 8")) == 2
