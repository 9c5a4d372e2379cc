"""What is said of a study folder in which there is nothing to label."""

import pytest

from medai.workflows.study_contents import missing_scans_words


def test_an_empty_folder(tmp_path):
    assert missing_scans_words(tmp_path).startswith(f"There is no scan in {tmp_path}. Bring some: medai import SCANS")


@pytest.mark.parametrize("name", ["p1/ct.nii.gz", "scan.mhd", "deep/er/scan.nrrd"])
def test_scans_that_are_not_served_where_they_are(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    words = missing_scans_words(tmp_path)
    assert name in words
    assert words.endswith(f"medai import {tmp_path} --to {tmp_path}")


def test_a_reader_elsewhere_is_told_no_path(tmp_path):
    (tmp_path / "a b").mkdir()
    assert str(tmp_path) not in missing_scans_words(tmp_path / "a b", shows_path=False)
    assert "--to 'a b'" in missing_scans_words(tmp_path / "a b", shows_path=False)


def test_labels_and_hidden_folders_are_no_scans(tmp_path):
    for name in ("labels/final/x.nii.gz", ".medai/scans/x.nii"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    assert "There is no scan" in missing_scans_words(tmp_path)
