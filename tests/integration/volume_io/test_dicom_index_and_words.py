"""DICOMDIR is followed; what a header has wrong is named with its tag and value; import says what it left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage
from tests.support.dicom_factory import SeriesRecipe, save, slice_dataset, write_multiframe, write_report, write_series

from medai.errors import InputError
from medai.volume_io.dicom_series import find_series, series_at
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.readers import read_geometry, read_volume
from medai.workflows.import_study import import_scans

RECIPE = SeriesRecipe(shape_ijk=(10, 11, 6))


def write_index(path, series):
    """A DICOMDIR; ``series`` gives file ids under each series UID."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    records = [record("PATIENT"), record("STUDY")]
    for series_uid, file_ids in series.items():
        records.append(record("SERIES", SeriesInstanceUID=series_uid))
        records += [record("IMAGE", ReferencedFileID=file_id) for file_id in file_ids]
    index.DirectoryRecordSequence = records
    save(index, path)


def record(kind, **values):
    item = Dataset()
    item.DirectoryRecordType = kind
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


@pytest.fixture
def medium(tmp_path):
    """A CD: two series of the index, in lower case, and one that is not in it."""
    root = tmp_path / "cd"
    ids = {}
    for n, uid in enumerate((RECIPE.series_uid, "1.2.3.4")):
        paths = write_series(root / "dicom" / f"s{n}", replace(RECIPE, series_uid=uid, intercept=-1024 - n))
        ids[uid] = [["DICOM", f"S{n}", path.name.upper()] for path in paths]
        for path in paths:
            path.rename(path.with_name(path.name.lower()))
    write_series(root / "elsewhere", replace(RECIPE, series_uid="1.2.3.5", intercept=-1000))
    write_index(root / "DICOMDIR", ids)
    return root


def test_the_files_of_an_index_are_found_whatever_their_case(medium):
    found = series_at(medium / "DICOMDIR")
    assert [series.series_instance_uid for series in found] == [RECIPE.series_uid, "1.2.3.4"]
    with pytest.raises(InputError, match=r"'DICOMDIR' holds 2 series: .*Name one of its files"):
        read_volume(medium / "DICOMDIR")
    assert len(find_series(medium)) == 3


def test_an_index_is_imported_and_is_no_scan_itself(medium, tmp_path):
    report = import_scans([medium / "DICOMDIR"], tmp_path / "study")
    assert report.refused == ()
    assert len(report.imported) == 2
    again = import_scans([medium], tmp_path / "study")
    assert again.refused == ()
    assert len(again.skipped) + len(again.imported) == 3
    assert [each.source for each in again.left_out] == ["cd/DICOMDIR"]
    assert "index" in again.left_out[0].reason


def test_files_that_an_index_names_and_that_are_not_there(medium, tmp_path):
    next((medium / "dicom" / "s1").iterdir()).unlink()
    report = import_scans([medium / "DICOMDIR"], tmp_path / "study")
    assert len(report.imported) == 1
    assert "may be incomplete: DICOM/S1/CT0" in report.refused[0].reason
    for path in (medium / "dicom").rglob("ct*"):
        path.unlink()
    with pytest.raises(InputError, match=r"names 12 files and none of them is there\. Give the folder"):
        read_geometry(medium / "DICOMDIR")


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_an_index_that_leads_out_of_its_folder(tmp_path):
    write_series(tmp_path / "outside", RECIPE)
    (tmp_path / "cd").mkdir()
    write_index(tmp_path / "cd" / "DICOMDIR", {"1.2": [["..", "outside", "CT0000"]]})
    with pytest.raises(InputError, match="none of them is there"):
        series_at(tmp_path / "cd" / "DICOMDIR")


def test_a_damaged_index(tmp_path):
    write_index(tmp_path / "DICOMDIR", {"1.2": [["A"]]})
    whole = (tmp_path / "DICOMDIR").read_bytes()
    (tmp_path / "DICOMDIR").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(InputError, match="DICOMDIR"):
        series_at(tmp_path / "DICOMDIR")


def test_an_index_under_another_name_spoils_no_series(tmp_path):
    write_series(tmp_path, RECIPE)
    write_index(tmp_path / "dicomdir.old", {"1.2": [["A"]]})
    np.testing.assert_array_equal(read_volume(tmp_path).image_hu, RECIPE.expected_hu)


def with_text(path, keyword_tag, text):
    """Put a text into a DS or IS element of the same length, in the file as it lies."""
    raw = path.read_bytes()
    at = raw.index(keyword_tag)
    (length,) = np.frombuffer(raw[at + 6 : at + 8], "<u2")
    value = text.encode().ljust(length)
    assert len(value) == length
    path.write_bytes(raw[: at + 8] + value + raw[at + 8 + length :])


POSITION, SPACING, THICKNESS, NUMBER = (
    b"\x20\x00\x32\x00DS",
    b"\x28\x00\x30\x00DS",
    b"\x18\x00\x50\x00DS",
    b"\x20\x00\x13\x00IS",
)


@pytest.mark.parametrize(
    ("tag", "text", "match"),
    [
        (
            POSITION,
            r"-101,2\-33,5\-250",
            r"ImagePositionPatient \(0020,0032\) = '-101,2\\-33,5\\-250': .*not with a comma",
        ),
        (POSITION, r"-101.2\-33.5", r"ImagePositionPatient \(0020,0032\) = '-101.2\\-33.5', which should be 3 numbers"),
        (POSITION, r"-101.2\x\-250", r"in which 'x' is no number"),
        (POSITION, r"1e999\0\0", r"which is no finite number"),
        (SPACING, r"0,8\0,7", r"PixelSpacing \(0028,0030\) = '0,8\\0,7': decimals are written with a point"),
    ],
)
def test_odd_numbers_are_named_with_tag_and_value(tmp_path, tag, text, match):
    paths = write_series(tmp_path / "scan", RECIPE)
    with_text(paths[2], tag, text)
    with pytest.raises(InputError, match=rf"{paths[2].name} has .*{match}.*export the series again"):
        read_volume(tmp_path / "scan")
    for path in paths:
        with_text(path, tag, text)
    report = import_scans([tmp_path / "scan"], tmp_path / "study")
    assert report.imported == ()
    assert text.split("\\")[0] in report.refused[0].reason


@pytest.mark.parametrize(("tag", "text"), [(THICKNESS, "2,5"), (NUMBER, "x")])
def test_odd_numbers_that_are_not_needed_harm_nothing(tmp_path, tag, text):
    paths = write_series(tmp_path / "scan", RECIPE)
    for path in paths:
        with_text(path, tag, text)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, RECIPE.expected_hu)


def of_patient(name):
    def edit(dataset, k):
        dataset.PatientID, dataset.StudyInstanceUID = name, f"1.2.3.{ord(name[-1])}"

    return edit


@pytest.mark.parametrize("together", [True, False])
def test_two_patients_under_one_uid_become_two_cases(tmp_path, together):
    source = tmp_path / "in"
    for name, intercept in (("Q1", -1024), ("Q2", -924)):
        write_series(source / "ct" / name, replace(RECIPE, intercept=intercept), edit=of_patient(name))
    sources = [source] if together else [source / "ct" / "Q1", source / "ct" / "Q2"]
    report = import_scans(sources, tmp_path / "study")
    assert report.refused == ()
    assert len({case.case_id for case in report.imported}) == 2
    assert len({case.patient_key for case in report.imported}) == 2
    first = {case.patient_key: int(read_volume(case.path).image_hu[0, 0, 0]) for case in report.imported}
    assert len(set(first.values())) == 2
    again = import_scans([source / "ct" / "Q2"], tmp_path / "study")
    assert (len(again.imported), len(again.skipped), again.refused) == (0, 1, ())


def test_a_case_that_an_earlier_version_imported_is_known(tmp_path):
    """It knew series by the hash of their UID alone; another patient's scan under that UID is another case."""
    write_series(tmp_path / "a", RECIPE)
    report = import_scans([tmp_path / "a"], tmp_path / "study")
    facts_path = tmp_path / "study" / ".medai" / "cases" / f"{report.imported[0].case_id}.json"
    facts = json.loads(facts_path.read_text())
    (series,) = find_series(tmp_path / "a")
    assert facts["origin"] == series.origin != series.former_origin
    facts["origin"] = series.former_origin
    del facts["also"], facts["images"]
    facts_path.write_text(json.dumps(facts))
    (tmp_path / "a").rename(tmp_path / "renamed")
    again = import_scans([tmp_path / "renamed"], tmp_path / "study")
    assert again.skipped == (report.imported[0].case_id,)
    write_series(tmp_path / "b", replace(RECIPE, intercept=-900), edit=of_patient("Q9"))
    other = import_scans([tmp_path / "b"], tmp_path / "study")
    assert len(other.imported) == 1


def test_import_says_what_lies_beside_and_refuses_it_alone(tmp_path):
    write_series(tmp_path / "in" / "ct", RECIPE)
    scout = slice_dataset(replace(RECIPE, orientation=(1.0, 0, 0, 0, 0, -1.0)), 0)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "in" / "ct" / "scout")
    write_report(tmp_path / "in" / "contours", replace(RECIPE, modality="RTSTRUCT"))
    write_series(
        tmp_path / "in" / "localisers",
        replace(RECIPE, series_uid="1.2.3.7", shape_ijk=(10, 11, 2)),
        edit=lambda dataset, k: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    report = import_scans([tmp_path / "in"], tmp_path / "study")
    assert report.refused == ()
    assert len(report.imported) == 1
    told = " ".join(each.reason for each in report.left_out)
    for words in ("1 localiser (scout)", "It holds no scan: structure set (RTSTRUCT)", "It holds no scan: localisers"):
        assert words in told
    alone = import_scans([tmp_path / "in" / "localisers"], tmp_path / "other")
    assert alone.left_out == ()
    assert "holds only localisers" in alone.refused[0].reason


def test_phases_of_one_series_become_cases_of_one_patient(tmp_path):
    for number in (1, 2):

        def edit(dataset, k, number=number):
            dataset.AcquisitionNumber, dataset.SOPInstanceUID = number, f"1.2.3.{number}.{k}"

        write_series(tmp_path / "ct" / str(number), replace(RECIPE, intercept=-1024 + number), edit=edit)
    report = import_scans([tmp_path / "ct"], tmp_path / "study")
    assert report.refused == ()
    assert len({case.case_id for case in report.imported}) == 2
    assert len({case.patient_key for case in report.imported}) == 1
    again = import_scans([tmp_path / "ct"], tmp_path / "study")
    assert (len(again.skipped), len(again.imported)) == (2, 0)


def test_a_lookup_table_is_named(tmp_path):
    def edit(dataset, k):
        dataset.ModalityLUTSequence = [Dataset()]

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    with pytest.raises(InputError, match="has a modality lookup table instead of rescale"):
        read_volume(tmp_path / "scan")


def test_a_folder_of_damaged_files_is_never_silent(tmp_path):
    for path in write_series(tmp_path / "scan", RECIPE):
        path.write_bytes(path.read_bytes()[:150])
    report = import_scans([tmp_path / "scan"], tmp_path / "study")
    assert (report.imported, report.skipped) == ((), ())
    assert len(report.refused) == 6
    assert "scan/CT0000" in [each.source for each in report.refused]


def test_a_multi_frame_file_is_held_to_the_budget_before_it_is_decoded(tmp_path):
    write_multiframe(tmp_path / "enhanced", replace(RECIPE, syntax="rle"))
    with pytest.raises(InputError, match=r"enhanced has 10×11×6 voxels of 2 bytes .*at most 600 voxels"):
        read_volume(tmp_path / "enhanced", options=ReadOptions(budget=ReadBudget(largest_voxels=600)))
