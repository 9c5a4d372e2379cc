"""Ids and tags become parts of paths: what may pass, and what is cut off a file's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError
from medai.store.names import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSIONS,
    check_case_id,
    check_tag,
    find_extension,
    split_extension,
)


@pytest.mark.parametrize(
    "case_id", ["case_1", "1.2.840.113619.2.55", "CT chest 3: B31f", "Überweisung", "a..b", "x" * 200]
)
def test_an_id_that_can_be_a_file_name_passes(case_id):
    assert check_case_id(case_id) == case_id


@pytest.mark.parametrize(
    ("case_id", "message"),
    [
        ("", "needs a name"),
        ("  ", "needs a name"),
        ("..", "start with a dot"),
        (".medai", "start with a dot"),
        ("../../etc/passwd", "start with a dot"),
        ("/etc/passwd", "path separator"),
        ("a/b", "path separator"),
        ("a\\b", "path separator"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("a\udc80b", "control character"),
        ("x" * 201, "at most 200 bytes, this one has 201"),
    ],
)
def test_an_id_that_cannot_is_refused(case_id, message):
    with pytest.raises(InputError, match=message):
        check_case_id(case_id)


@pytest.mark.parametrize("tag", ["", "../../evil", "a/b", "a b", "final\n", "x" * 65, "é"])
def test_a_tag_that_is_no_plain_word_is_refused(tag):
    with pytest.raises(InputError, match="1 to 64 letters"):
        check_tag(tag)


@pytest.mark.parametrize("tag", ["final", "original", "reader-2_B", "x" * 64])
def test_a_plain_tag_passes(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.2.840.113.nii.gz", ("1.2.840.113", ".nii.gz")),
        ("case.nii", ("case", ".nii")),
        ("Case.NII.GZ", ("Case", ".NII.GZ")),
        ("a.nii.nii", ("a.nii", ".nii")),
        (".nii.gz", (".nii", ".gz")),
        ("1.2.840", None),
        ("scan.dcm", None),
    ],
)
def test_only_a_known_extension_is_cut_off(name, expected):
    known = find_extension(name, IMAGE_EXTENSIONS)
    assert known == (expected if expected and expected[1] != ".gz" else None)


def test_a_name_without_known_extension_is_refused_with_what_is_known():
    with pytest.raises(InputError, match=r"'scan\.dcm' must end in one of \.nii\.gz, \.nii"):
        split_extension("scan.dcm", IMAGE_EXTENSIONS)


def test_the_longest_extension_of_a_label_counts():
    assert split_extension("1.2.3.seg.nrrd", LABEL_EXTENSIONS) == ("1.2.3", ".seg.nrrd")


@given(case_id=st.text(st.characters(categories=("L", "N"), include_characters="._- "), min_size=1, max_size=40))
def test_an_id_survives_the_way_through_its_file_name(case_id):
    for extension in IMAGE_EXTENSIONS:
        split = split_extension(case_id + extension, IMAGE_EXTENSIONS)
        assert split is not None
        assert "".join(split) == case_id + extension
        assert case_id.lower().endswith((".nii",)) or split == (case_id, extension)
