"""One series UID, several scans: each a volume of its own or refused with a count, never slices that alternate."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from tests.support.dicom_factory import (
    SeriesRecipe,
    save,
    set_pixels,
    slice_dataset,
    stored_values,
    write_multiframe,
    write_report,
    write_series,
)

from medai.errors import InputError, UnsupportedScanError
from medai.volume_io.dicom_series import find_series, read_series
from medai.volume_io.options import ReadOptions
from medai.volume_io.readers import read_volume

RECIPE = SeriesRecipe(shape_ijk=(10, 11, 8))
LIGHTER = 100


def write_second(folder, edit=None, *, shift_mm=0.0, slices=8, recipe=RECIPE):
    """A second scan under the same series UID, 100 HU lighter, shifted along the patient."""
    for k in range(slices):
        dataset = slice_dataset(recipe, k)
        dataset.SOPInstanceUID = f"1.2.3.{k + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.ImagePositionPatient[2] = float(dataset.ImagePositionPatient[2]) + shift_mm
        stored = stored_values((*recipe.shape_ijk[:2], 1), first_slice=k)[:, :, 0].T + np.uint16(LIGHTER)
        set_pixels(dataset, stored[np.newaxis], "explicit")
        if edit is not None:
            edit(dataset, k)
        save(dataset, folder / f"second{k:03d}")


def first_and_second(folder):
    """The two scans that ``write_series`` and ``write_second`` wrote, told apart by their numbers."""
    found = find_series(folder)
    assert len(found) == 2, [series.describe() for series in found]
    assert len({series.origin for series in found}) == 2
    volumes = sorted((read_series(series) for series in found), key=lambda volume: int(volume.image_hu[0, 0, 0]))
    np.testing.assert_array_equal(volumes[0].image_hu, RECIPE.expected_hu)
    np.testing.assert_array_equal(volumes[1].image_hu, RECIPE.expected_hu + LIGHTER)
    return found


def values(**changes):
    def edit(dataset, k):
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    return edit


TELLING = {
    "PatientID": ("P1", "P2"),
    "StudyInstanceUID": ("1.2.3.4", "1.2.3.5"),
    "PatientBirthDate": ("19500101", "19610202"),
    "PatientSex": ("F", "M"),
    "PatientName": ("Adams^A", "Baker^B"),
    "FrameOfReferenceUID": ("1.2.3.6", "1.2.3.7"),
    "ConvolutionKernel": ("B30f", "B70f"),
    "AcquisitionNumber": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "NominalPercentageOfCardiacPhase": (30.0, 70.0),
    "TriggerTime": ("120", "480"),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"]),
    "KVP": ("80", "140"),
    "ContrastBolusAgent": ("", "iodinated"),
    "SeriesDescription": ("native", "portal venous"),
    "AcquisitionTime": ("101500", "101742.5"),
}


@pytest.mark.parametrize("shift_mm", [0.0, 1.25])
@pytest.mark.parametrize("keyword", sorted(TELLING))
def test_scans_that_a_header_value_tells_apart(tmp_path, keyword, shift_mm):
    """At the same positions, and exactly between one another, where together they look regular."""
    first, second = TELLING[keyword]
    write_series(tmp_path, RECIPE, edit=values(**{keyword: first}))
    write_second(tmp_path, values(**{keyword: second}), shift_mm=shift_mm)
    found = first_and_second(tmp_path)
    assert all(series.part for series in found)
    for secret in ("P1", "19500101", "19610202", "SECRET", "Adams", "Baker"):
        assert secret not in "".join(f"{series}{series.describe()}" for series in found)
    with pytest.raises(InputError, match=r"holds 2 series: .*Name one of its files"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path / "second003").image_hu, RECIPE.expected_hu + LIGHTER)


@pytest.mark.parametrize("shift_mm", [0.0, 1.0, 1.25])
@pytest.mark.parametrize("downwards", [False, True])
def test_passes_that_follow_one_another_in_number(tmp_path, shift_mm, downwards):
    write_series(tmp_path, RECIPE)
    number = (lambda k: 8 + 8 - k) if downwards else (lambda k: 8 + k + 1)
    write_second(tmp_path, lambda dataset, k: setattr(dataset, "InstanceNumber", number(k)), shift_mm=shift_mm)
    assert {series.part for series in first_and_second(tmp_path)} == {"pass 1 of 2", "pass 2 of 2"}


@pytest.mark.parametrize("shift_mm", [1.0, 1.25])
def test_stacks_that_are_numbered_alike(tmp_path, shift_mm):
    write_series(tmp_path, RECIPE)
    write_second(tmp_path, shift_mm=shift_mm)
    first_and_second(tmp_path)


def test_images_numbered_position_by_position(tmp_path):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: setattr(dataset, "InstanceNumber", 2 * k + 1))
    write_second(tmp_path, lambda dataset, k: setattr(dataset, "InstanceNumber", 2 * k + 2))
    first_and_second(tmp_path)


def test_two_kernels_in_two_phases_are_four_scans(tmp_path):
    for number, kernel in ((1, "B30f"), (1, "B70f"), (2, "B30f"), (2, "B70f")):
        recipe = replace(RECIPE, intercept=-1024 + 10 * number + (kernel == "B70f"))
        folder = tmp_path / f"{number}{kernel}"

        def edit(dataset, k, number=number, kernel=kernel):
            dataset.AcquisitionNumber, dataset.ConvolutionKernel = number, kernel
            dataset.SOPInstanceUID = f"1.2.3.{number}.{len(kernel)}.{kernel[1]}.{k}"

        write_series(folder, recipe, edit=edit)
    found = find_series(tmp_path)
    assert len(found) == len({series.origin for series in found}) == 4
    corners = sorted(int(read_series(series).image_hu[0, 0, 0]) for series in found)
    start = int(RECIPE.expected_hu[0, 0, 0])
    assert corners == [start + 10, start + 11, start + 20, start + 21]


def test_what_nothing_tells_apart_is_counted_and_refused(tmp_path):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: delattr(dataset, "InstanceNumber"))
    write_second(tmp_path, lambda dataset, k: delattr(dataset, "InstanceNumber"))
    with pytest.raises(UnsupportedScanError, match="8 of its 8 positions hold up to 2 images"):
        read_volume(tmp_path)


@pytest.mark.parametrize("resample", [False, True])
def test_stacks_between_one_another_are_never_resampled_into_one(tmp_path, resample):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: delattr(dataset, "InstanceNumber"))
    write_second(tmp_path, lambda dataset, k: delattr(dataset, "InstanceNumber"), shift_mm=0.75)
    with pytest.raises(UnsupportedScanError, match="2 stacks of about 8 slices that lie between one another") as caught:
        read_volume(tmp_path, options=ReadOptions(resample_irregular=resample))
    assert "resampling" not in str(caught.value)


def test_no_advice_to_resample_where_slices_overlap(tmp_path):
    heights = [0, 2.5, 5, 6.1, 7.5, 10, 12.5, 15]

    def edit(dataset, k):
        dataset.ImagePositionPatient[2] = heights[k]

    write_series(tmp_path, RECIPE, edit=edit)
    with pytest.raises(UnsupportedScanError, match=r"1\.10 mm between .* Slices of 2\.5 mm overlap there") as caught:
        read_volume(tmp_path)
    assert "resampling" not in str(caught.value)


def of_table(dataset, k):
    dataset.AcquisitionNumber, dataset.AcquisitionTime = 1 + k // 4, f"10150{k // 4}"


@pytest.mark.parametrize(
    "edit",
    [
        of_table,
        lambda dataset, k: setattr(dataset, "AcquisitionNumber", k + 1),
        lambda dataset, k: setattr(dataset, "AcquisitionTime", f"1015{k:02d}.{k}"),
        lambda dataset, k: setattr(dataset, "ContentTime", f"10150{k % 3}"),
        lambda dataset, k: setattr(dataset, "FrameOfReferenceUID", f"1.2.3.{k}"),
        lambda dataset, k: setattr(dataset, "InstanceNumber", [5, 2, 8, 1, 7, 3, 6, 4][k]),
        lambda dataset, k: setattr(dataset, "InstanceNumber", 8 - k),
        lambda dataset, k: setattr(dataset, "InstanceNumber", 1 + k % 4),
        lambda dataset, k: setattr(dataset, "InstanceNumber", 1),
        lambda dataset, k: setattr(dataset, "InstanceNumber", [5, 6, 7, 8, 1, 2, 3, 4][k]),
        lambda dataset, k: delattr(dataset, "InstanceNumber"),
        lambda dataset, k: setattr(dataset, "ImageComments", "reviewed" if k % 2 else ""),
        lambda dataset, k: setattr(dataset, "PatientName", "SECRET^PERSON" if k % 2 else "Secret Person"),
        lambda dataset, k: delattr(dataset, "PatientBirthDate") if k == 3 else None,
        lambda dataset, k: delattr(dataset, "FrameOfReferenceUID") if k == 3 else None,
    ],
)
def test_what_varies_along_one_scan_divides_nothing(tmp_path, edit):
    write_series(tmp_path, RECIPE, edit=edit)
    (series,) = find_series(tmp_path)
    assert series.part == series.part_key == ""
    np.testing.assert_array_equal(read_series(series).image_hu, RECIPE.expected_hu)


@pytest.mark.parametrize(
    "heights",
    [
        pytest.param([0, 2, 4, 6, 8, 13, 18, 23], id="another spacing"),
        pytest.param([0, 2, 4, 6, 60, 62, 64, 66], id="far apart"),
        pytest.param([0, 2, 4, 6, 5, 7, 9, 11], id="overlapping at their ends"),
    ],
)
def test_acquisitions_that_form_no_even_scan_together(tmp_path, heights):
    def edit(dataset, k):
        dataset.AcquisitionNumber = 1 + k // 4
        dataset.ImagePositionPatient[2] = heights[k]

    write_series(tmp_path, RECIPE, edit=edit)
    found = find_series(tmp_path)
    assert sorted(series.part for series in found) == ["AcquisitionNumber 1", "AcquisitionNumber 2"]
    for series in found:
        k = 4 * int(series.part.endswith("2"))
        np.testing.assert_array_equal(read_series(series).image_hu, RECIPE.expected_hu[:, :, k : k + 4])


def test_slices_lost_between_acquisitions_of_one_scan_are_named(tmp_path):
    paths = write_series(tmp_path, replace(RECIPE, shape_ijk=(10, 11, 12)), edit=of_table)
    paths[4].unlink()
    with pytest.raises(UnsupportedScanError, match=r"lacks 1 of its slices, at -240\.0 mm"):
        read_volume(tmp_path)


def test_files_without_a_series_uid(tmp_path):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: setattr(dataset, "SeriesInstanceUID", ""))
    with pytest.raises(UnsupportedScanError, match=r"have no SeriesInstanceUID \(0020,000E\).*dcmodify"):
        read_volume(tmp_path)


def test_a_patient_id_for_each_slice(tmp_path):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: setattr(dataset, "PatientID", f"anon{k}"))
    with pytest.raises(UnsupportedScanError, match=r"8 slices of 8 patients .PatientID.*one new id for each old one"):
        read_volume(tmp_path)


def test_the_same_slices_twice_are_one_scan(tmp_path):
    for path in write_series(tmp_path / "a", RECIPE):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    (series,) = find_series(tmp_path)
    np.testing.assert_array_equal(read_series(series).image_hu, RECIPE.expected_hu)


def test_the_same_pixels_under_another_instance_are_one_scan(tmp_path):
    write_series(tmp_path, RECIPE)
    again = slice_dataset(RECIPE, 4)
    again.SOPInstanceUID = "1.2.3"
    save(again, tmp_path / "again")
    np.testing.assert_array_equal(read_volume(tmp_path).image_hu, RECIPE.expected_hu)


def test_phases_in_one_enhanced_file(tmp_path):
    recipe = replace(RECIPE, shape_ijk=(10, 11, 12))

    def edit(dataset):
        # Frames run downwards: 6 positions, first all of one phase, then all of the other.
        for n, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient = [-101.25, -33.5, -250 + 2.5 * (5 - n % 6)]

    write_multiframe(tmp_path / "enhanced", recipe, edit=edit)
    found = find_series(tmp_path)
    assert [series.image_count for series in found] == [6, 6]
    np.testing.assert_array_equal(read_series(found[0]).image_hu, recipe.expected_hu[:, :, 6:])
    np.testing.assert_array_equal(read_series(found[1]).image_hu, recipe.expected_hu[:, :, :6])


def test_what_lies_beside_the_slices_is_left_out_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_series(tmp_path, RECIPE)
    scout = slice_dataset(replace(RECIPE, orientation=(1.0, 0, 0, 0, 0, -1.0)), 0)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "scout")
    page = slice_dataset(replace(RECIPE, shape_ijk=(40, 30, 1)), 0)
    page.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    del page.ImagePositionPatient, page.ImageOrientationPatient, page.RescaleSlope
    save(page, tmp_path / "dose")
    picture = slice_dataset(RECIPE, 0)
    picture.SamplesPerPixel, picture.PhotometricInterpretation, picture.PlanarConfiguration = 3, "RGB", 0
    picture.BitsAllocated = picture.BitsStored = 8
    picture.HighBit = 7
    picture.PixelData = bytes(330)
    save(picture, tmp_path / "picture")
    projection = slice_dataset(RECIPE, 3)
    projection.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "MIP"]
    save(projection, tmp_path / "mip")
    write_report(tmp_path / "contours", replace(RECIPE, modality="RTSTRUCT"))
    write_report(tmp_path / "same uid", replace(RECIPE, modality="SEG", series_uid=RECIPE.series_uid[:-3]))
    found = find_series(tmp_path)
    (scan,) = [series for series in found if not series.beside]
    assert sorted(series.beside for series in found if series.beside) == [
        "segmentation (SEG)",
        "structure set (RTSTRUCT)",
    ]
    np.testing.assert_array_equal(read_series(scan).image_hu, RECIPE.expected_hu)
    told = ", ".join(files.describe() for files in scan.left_out)
    for words in (
        "1 localiser (scout)",
        "1 image without a place in the patient (dose)",
        "1 screenshot or report page (picture)",
        "1 maximum intensity projection (MIP) (mip)",
    ):
        assert words in told
        assert words in caplog.text
    np.testing.assert_array_equal(read_volume(tmp_path).image_hu, RECIPE.expected_hu)


def test_a_lost_position_is_no_screenshot(tmp_path):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: delattr(dataset, "ImagePositionPatient") if k == 7 else None)
    with pytest.raises(UnsupportedScanError, match="has no ImagePositionPatient"):
        read_volume(tmp_path)


@pytest.mark.parametrize("also", [(), ("StudyInstanceUID", "FrameOfReferenceUID")])
def test_one_slice_a_series_uid_is_said_with_advice_that_works(tmp_path, also):
    def edit(dataset, k):
        for keyword in ("SeriesInstanceUID", *also):
            setattr(dataset, keyword, f"1.2.3.{k}")

    paths = write_series(tmp_path, RECIPE, edit=edit)
    (series,) = find_series(tmp_path)
    assert series.image_count == 8
    with pytest.raises(
        UnsupportedScanError, match=r"8 slices, each of which has its own .*SeriesInstanceUID"
    ) as caught:
        read_volume(paths[3])
    import pydicom

    advised = str(caught.value).split("dcmodify -nb ")[1].split(" (other")[0]
    for path in paths:
        dataset = pydicom.dcmread(path)
        for change in advised.split(" -m ")[0:]:
            keyword, value = change.replace("-m ", "").strip('" ').split("=")
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(tmp_path).image_hu, RECIPE.expected_hu)


def test_a_few_single_images_in_series_of_their_own_are_no_scattered_scan(tmp_path):
    write_series(tmp_path, RECIPE)
    for n in range(2):
        image = slice_dataset(replace(RECIPE, series_uid=f"1.2.3.{n}"), n)
        save(image, tmp_path / f"key{n}")
    assert [series.image_count for series in find_series(tmp_path)] == [8, 1, 1]


@pytest.mark.parametrize(
    "keyword", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientBirthDate", "KVP", "SeriesDescription"]
)
@pytest.mark.parametrize("every", [2, 5])
def test_what_some_slices_lack_divides_nothing(tmp_path, keyword, every):
    """Also every second one: halves of twice the spacing would look as regular as the whole."""
    whole = write_series(tmp_path / "whole", RECIPE, edit=values(SeriesDescription="chest"))
    assert len(whole) == 8

    def edit(dataset, k):
        dataset.SeriesDescription = "chest"
        if k % every == 0:
            delattr(dataset, keyword)

    write_series(tmp_path / "some", RECIPE, edit=edit)
    (series,) = find_series(tmp_path / "some")
    (complete,) = find_series(tmp_path / "whole")
    assert (series.origin, series.patient_key) == (complete.origin, complete.patient_key)
    np.testing.assert_array_equal(read_series(series).image_hu, RECIPE.expected_hu)


def test_one_name_in_two_character_sets_is_one_patient(tmp_path):
    def edit(dataset, k):
        dataset.SpecificCharacterSet = "ISO_IR 192" if k % 2 else "ISO_IR 100"
        dataset.PatientName = "Müller^Jörg"

    write_series(tmp_path, RECIPE, edit=edit)
    np.testing.assert_array_equal(read_volume(tmp_path).image_hu, RECIPE.expected_hu)


def test_patients_without_an_id_are_known_by_their_names(tmp_path):
    for name in ("Adams^A", "Baker^B"):
        write_series(tmp_path / name[:5], RECIPE, edit=values(PatientID="", PatientName=name))
    origins = {find_series(tmp_path / name)[0].origin for name in ("Adams", "Baker")}
    assert len(origins) == 2


def test_stacks_between_one_another_with_the_same_numbers(tmp_path):
    write_series(tmp_path, RECIPE)
    write_second(tmp_path, shift_mm=1.25)
    assert {series.part for series in first_and_second(tmp_path)} == {"pass 1 of 2", "pass 2 of 2"}


def test_blocks_of_a_scan_that_each_count_from_one_are_one_scan(tmp_path):
    write_series(tmp_path, RECIPE, edit=lambda dataset, k: setattr(dataset, "InstanceNumber", k % 4 + 1))
    np.testing.assert_array_equal(read_volume(tmp_path).image_hu, RECIPE.expected_hu)


@pytest.mark.parametrize("shift_mm", [0.0, 1.25])
def test_two_multi_frame_files_are_two_scans(tmp_path, shift_mm):
    write_multiframe(tmp_path / "first", RECIPE)

    def second(dataset):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77"
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.PixelValueTransformationSequence[0].RescaleIntercept += LIGHTER
            position = group.PlanePositionSequence[0].ImagePositionPatient
            position[2] = float(position[2]) + shift_mm

    write_multiframe(tmp_path / "second", RECIPE, edit=second)
    first_and_second(tmp_path)
