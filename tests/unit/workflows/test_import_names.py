"""Case ids of scans found in folders."""

from pathlib import Path

import pytest

from medai.workflows.import_names import is_generic, looks_like_a_person, names_of_files, safe_name


def names(*paths, given=()):
    found = [Path(path) for path in paths]
    return names_of_files(found, [path.name.partition(".")[0] for path in found], given=[Path(path) for path in given])


def test_a_telling_name_stays():
    assert names("/in/b7/patient_12.nii.gz", "/in/b7/patient_13.nrrd") == ["patient_12", "patient_13"]


def test_the_folder_names_what_repeats():
    assert names("/in/s0001/ct.nii.gz", "/in/s0002/ct.nii.gz") == ["s0001", "s0002"]
    assert names("/in/k1/kernel_b70.mha", "/in/k2/kernel_b70.mha", "/in/one.mha") == ["k1", "k2", "one"]


def test_one_generic_name_alone_is_as_it_would_be_among_others():
    assert names("/in/s0002/ct.nii.gz") == ["s0002"]
    assert names("/in/s0002/ct.nii.gz", given=["/in/s0002/ct.nii.gz"]) == ["ct"]


def test_folders_above_join_in_only_as_far_as_needed():
    assert names("/in/p1/nifti/ct.nii.gz", "/in/p2/nifti/ct.nii.gz") == ["p1", "p2"]
    assert names("/in/p1/late/ct.nii.gz", "/in/p2/late/ct.nii.gz", "/in/p3/early/ct.nii.gz") == [
        "p1_late",
        "p2_late",
        "early",
    ]


def test_several_scans_of_one_folder():
    assert names("/in/s7/ct.nii.gz", "/in/s7/image.nii.gz") == ["s7_ct", "s7_image"]
    # Nothing above tells these two apart.
    assert names("/in/s7/ct.nii.gz", "/in/s7/ct.nrrd") == ["s7_ct", "s7_ct"]


def test_a_folder_does_not_take_another_scans_name():
    assert names("/in/a/s7/ct.nii.gz", "/in/s7.nii.gz") == ["a_s7", "s7"]


def test_the_order_does_not_matter():
    paths = [f"/in/p{n % 3}/{kind}/ct.nii.gz" for n, kind in enumerate(("late", "early", "late", "early", "x", "y"))]
    forward, backward = names(*paths), names(*reversed(paths))
    assert forward == list(reversed(backward))
    assert len(set(forward)) == len(paths)


@pytest.mark.parametrize("name", ["Doe^John", "Doe, John", "MUELLER^ANNA^^", "DOE^J"])
def test_a_patients_name_becomes_no_case_id(name):
    assert looks_like_a_person(name)
    assert safe_name(name) == ""
    assert names(f"/in/b9/{name}.nii.gz", "/in/b10/other.nii.gz")[0] == "b9"


@pytest.mark.parametrize("name", ["LIDC-IDRI-0001_R_1", "1.3.6.1.4.1.14519", "100012_T0", "case_7", "a,b"])
def test_what_is_no_persons_name(name):
    assert not looks_like_a_person(name)


@pytest.mark.parametrize("name", ["ct", "CT_scan", "chest-ct", "image", "ct_0000", "Volume"])
def test_names_that_tell_nothing(name):
    assert is_generic(name)


@pytest.mark.parametrize("name", ["ct_12", "case_7", "0007", "image3", "patient", "contrast"])
def test_names_that_tell_something(name):
    assert not is_generic(name)
