"""Stored value × slope + intercept, whatever a header or a decoder would make of it; else a refusal by name."""

import base64
import math
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from tests.support.dicom_factory import (
    JPEG_LS_SHAPE_IJK,
    SYNTAXES,
    SeriesRecipe,
    set_pixels,
    stored_values,
    write_multiframe,
    write_series,
)

from medai.errors import InputError, UnsupportedScanError
from medai.volume_io.readers import read_volume

RECIPE = SeriesRecipe(shape_ijk=(10, 11, 4))

# One slice of 13×14 pixels of the factory's formula, by encoders that the test environment has not: 12 bits of
# JPEG lossless (imagecodecs 2026.3.6), then the same less 1024 as signed JPEG lossless, JPEG 2000 and JPEG-LS.
LOSSLESS_12 = (
    "/9j/xAAXAAEBAQEAAAAAAAAAAAAAAAAGBwQL/8MACwwADgANAQARAP/aAAgBAAAGAADj5JUqVKlSpUqVKlS2Vo0atWzZu3cOHLmytGjV"
    "q2bN27hw5c2Vo0atWzZu3cOHLmytGjVq2bN27hw5c2Vo0atWzZu3cOHLmytGjVq2bN27hw5c2Vo0atWzZu3cOHLmytGjVq2bN27hw5c2"
    "Vo0atWzZu3cOC+mytGjVq2bN27gtaXNlaNGrVs2bty1pcubK0aNWrZs3buHDlzZWjRq1bNm5W0OHLkD/2Q=="
)
LOSSLESS_SIGNED_12 = (
    "/9j/xAAYAAEBAQEBAAAAAAAAAAAAAAAGBwwEC//DAAsMAA4ADQEAEQD/2gAIAQAABgAA9fNKlSpUqVKlSpUqWytGjVq2bN27hw5wHFla"
    "NGrVs2bt8Bv4G/gcaDmytGjVq2wGvgbeBtoOHDlzZWjTAaeBp4Gug2bt3Dhy5suAz8DPQatWzZu3cOHLnAyaDRo1atmzdu4cOXNlaNGr"
    "Vs2bt3Dhy5srRo1atmzdu4cOXNlaNGrVs2bt3Dgv02Vo0atWzZu3cFrS5srRo1atmzduWtLlzZWjRq1bNm7dw4cubK0aNWrZs3K2hw5c"
    "gP/Z"
)
JPEG_2000_SIGNED_16 = (
    "/0//UQApAAAAAAANAAAADgAAAAAAAAAAAAAADQAAAA4AAAAAAAAAAAABjwEB/1IADAAAAAEAAAQEAAH/XAAEQID/ZAAlAAFDcmVhdGVk"
    "IGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAADmAAH/k8D+bUCTBpuIhQQ3yYj/BdYLEV4KdZKNWFx4CfApZEry1a+hUolk"
    "+0nknEEApMaFjfxYZ6Y+XD+cCj6HidkFbKgglr+gSXKuBP7Mt0ReIda02RxRwW2xrZgNbXg0nEMXkHUyFoSwgVf1ATnB3npiuIaIKnHx"
    "+e9a4AbQ0Znz+meZ4k9+s63s46HYQfZo5i7GLfW8uBS7NQRmWbgwEnAdFnbuiRx6qKc3VY8f/1CbVgnMVR9juLagRgScDXNYE4E3ff6U"
    "tXUuYwMmfpggVkGfpgfpM9dylu26v//Z"
)
JPEG_LS_SIGNED_16 = (
    "/9j/9wALEAAOAA0BAREA//gADQH//wASAEMBFABA/9oACAEBAAAAACDESYjyLIdBn89nc5m9rZzKiZEqSJGolCoE+nk6uImTKuLa0srC"
    "urKq6gFAGcMyKimpKKgpoAQBm5euROsa9cuQBAM1LVq1YsSdYm6AbMsWK1atWqVJOmTY1atUqVKlKlSpU6wqlSlSpUqVKhQwp1hZZYYY"
    "YXXXXXU7gYXXXXXXXWWA1hBvsMMMMMMMLoyTEqG8wwwuuuuujBMK6obq666666yZYBWWVDce973OclywOcqA/9k="
)


def refused(folder, match, error=UnsupportedScanError):
    with pytest.raises(error, match=match):
        read_volume(folder)


def inverted(dataset, k):
    dataset.PhotometricInterpretation = "MONOCHROME1"


def test_what_the_screen_paints_white_changes_no_number(tmp_path):
    for syntax in sorted(SYNTAXES):
        recipe = replace(RECIPE, syntax=syntax, shape_ijk=JPEG_LS_SHAPE_IJK if syntax == "jpeg-ls" else (10, 11, 4))
        folder = tmp_path / syntax
        write_series(
            folder, recipe, edit=lambda dataset, k: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1")
        )
        np.testing.assert_array_equal(read_volume(folder).image_hu, recipe.expected_hu, err_msg=syntax)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big-endian", "deflated", "rle"])
@pytest.mark.parametrize("signed", [False, True])
def test_left_justified_samples(tmp_path, syntax, signed):
    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.astype(np.int32) - (1024 if signed else 0)
        cells = ((stored & 0xFFF) << 4).astype(np.uint16)
        set_pixels(dataset, cells[np.newaxis], syntax)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 15, int(signed)
        dataset.RescaleIntercept = 0 if signed else -1024

    write_series(tmp_path / "scan", replace(RECIPE, syntax=syntax), edit=edit)
    expected = RECIPE.expected_hu
    expected = np.where(expected >= 2048, expected - 4096, expected) if signed else expected
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, expected)


@pytest.mark.parametrize("extended", [True, False])
def test_signed_samples_of_12_bits(tmp_path, extended):
    """Bits above the sample repeat its sign, as the standard wants it, or are zero."""

    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.astype(np.int16) - 1500
        set_pixels(dataset, stored[np.newaxis], "explicit")
        if not extended:
            dataset.PixelData = (stored.astype(np.int32) & 0xFFF).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit = 12, 11

    write_series(tmp_path / "scan", replace(RECIPE, intercept=0), edit=edit)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "scan").image_hu, stored_values((10, 11, 4)).astype(int) - 1500
    )


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_overlays_in_unused_bits_are_no_numbers(tmp_path, syntax):
    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.copy()
        stored[2:5, 3:6] |= 0x8000
        set_pixels(dataset, stored[np.newaxis], syntax)
        dataset.add_new((0x6000, 0x0100), "US", 16)
        dataset.add_new((0x6000, 0x0102), "US", 15)

    write_series(tmp_path / "scan", replace(RECIPE, syntax=syntax), edit=edit)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, RECIPE.expected_hu)


def test_bits_that_nothing_explains(tmp_path):
    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.copy()
        stored[2, 3] = 4100
        set_pixels(dataset, stored[np.newaxis], "explicit")

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(tmp_path / "scan", r"CT\d{4} has 1 pixels with bits outside the 12 .*BitsStored 12, HighBit 11", InputError)


def test_padding_that_the_sample_cannot_hold(tmp_path):
    """−2000 written into 16 bits of which the header counts 12: outside the scanner's circle, not 1072 HU."""

    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.copy()
        stored[0, :3] = 63536
        set_pixels(dataset, stored[np.newaxis], "explicit")
        dataset.add_new("PixelPaddingValue", "US", 63536)

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    expected = RECIPE.expected_hu
    expected[:3, 0] = -1024
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, expected)


@pytest.mark.parametrize(
    ("stream", "syntax", "bits", "signed"),
    [
        (LOSSLESS_12, "jpeg-lossless", 12, False),
        (LOSSLESS_12, "jpeg-lossless", 16, False),
        (LOSSLESS_SIGNED_12, "jpeg-lossless", 12, True),
        (JPEG_2000_SIGNED_16, "jpeg-2000", 16, True),
        (JPEG_2000_SIGNED_16, "jpeg-2000", 12, True),
        (JPEG_LS_SIGNED_16, "jpeg-ls", 16, True),
    ],
)
def test_depth_and_sign_of_compressed_samples(tmp_path, stream, syntax, bits, signed):
    def edit(dataset, k):
        dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        dataset.PixelData = encapsulate([base64.b64decode(stream)])
        dataset["PixelData"].VR = "OB"
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.RescaleIntercept = 0 if signed else -1024

    recipe = replace(RECIPE, shape_ijk=(13, 14, 2))
    write_series(tmp_path / "scan", recipe, edit=edit)
    expected = stored_values((13, 14, 1)).astype(int) - 1024
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, np.repeat(expected, 2, axis=2))


def test_the_same_numbers_as_pydicom(tmp_path):
    paths = write_series(tmp_path / "scan", replace(RECIPE, slope=0.5, intercept=-1000.25))
    image_hu = read_volume(tmp_path / "scan").image_hu
    for k, path in enumerate(paths):
        np.testing.assert_array_equal(image_hu[:, :, k].T, pydicom.dcmread(path).pixel_array * 0.5 - 1000.25)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"HighBit": 8}, "HighBit 8 with BitsStored 12 and BitsAllocated 16, which contradict each other"),
        ({"BitsStored": 17, "HighBit": 16}, "BitsStored 17 with BitsAllocated 16"),
        ({"BitsAllocated": 12}, "BitsAllocated 12; medai reads samples of 8, 16 and 32 bits"),
        ({"PixelRepresentation": 2}, "PixelRepresentation 2, which is neither"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a palette .PhotometricInterpretation PALETTE COLOR"),
        ({"Rows": 0}, "10 columns and 0 rows"),
    ],
)
def test_layouts_that_make_no_sense(tmp_path, changes, match):
    def edit(dataset, k):
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(tmp_path / "scan", rf"CT\d{{4}} has .*{match}", InputError)


def test_left_justified_jpeg_is_refused_by_name(tmp_path):
    def edit(dataset, k):
        dataset.BitsStored, dataset.HighBit = 12, 15

    write_series(tmp_path / "scan", replace(RECIPE, syntax="jpeg-2000"), edit=edit)
    refused(tmp_path / "scan", "HighBit 15 with BitsStored 12 in JPEG 2000", InputError)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"RescaleSlope": None}, "no RescaleSlope: its stored values cannot be turned into Hounsfield units"),
        ({"RescaleIntercept": None}, "no RescaleIntercept: "),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "no RescaleSlope and no RescaleIntercept"),
        ({"RescaleSlope": ""}, "no RescaleSlope"),
        ({"RescaleSlope": 0}, "RescaleSlope 0 and RescaleIntercept -1024: the slope of a CT is positive"),
        ({"RescaleSlope": -1}, "RescaleSlope -1 .* is positive"),
        ({"RescaleSlope": 1000}, "steps of 1000 HU are too coarse"),
        ({"RescaleSlope": 0.0001}, "values from -1024 to -1023.59, but a CT"),
        ({"RescaleIntercept": 0}, "unsigned pixels of 12 bits that gives values from 0 to 4095, but a CT"),
        ({"RescaleIntercept": -100000}, "values from -100000 to -95905"),
    ],
)
def test_rescale_that_gives_no_hounsfield_units(tmp_path, changes, match):
    def edit(dataset, k):
        if k == 2:
            for keyword, value in changes.items():
                if value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(tmp_path / "scan", rf"CT\d{{4}} has .*{match}.*Export the series again")


@pytest.mark.parametrize("value", [b"nan ", b"inf ", b"1,0 ", b"1_0 ", b"one "])
def test_rescale_that_is_no_number(tmp_path, value):
    paths = write_series(tmp_path / "scan", RECIPE)
    raw = paths[1].read_bytes()
    tag = b"\x28\x00\x53\x10DS\x04\x00"
    assert tag in raw
    position = raw.index(tag) + len(tag)
    paths[1].write_bytes(raw[:position] + value + raw[position + 4 :])
    refused(tmp_path / "scan", rf"RescaleSlope \(0028,1053\) = '{value.decode().strip()}'", InputError)


def test_signed_pixels_whose_intercept_is_the_converters_shift(tmp_path):
    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.astype(np.int32) - 32768
        set_pixels(dataset, stored.astype(np.int16)[np.newaxis], "explicit")
        dataset.RescaleIntercept = 32768

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(
        tmp_path / "scan", "values from 0 to 65535.* shift of 32768 .*intercept was, which is lost. Export the series"
    )


def test_unspecified_units_with_a_sound_rescale_are_hounsfield(tmp_path):
    """ITK and 3D Slicer write RescaleType US into every CT."""
    write_series(tmp_path / "scan", RECIPE, edit=lambda dataset, k: setattr(dataset, "RescaleType", "US"))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, RECIPE.expected_hu)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"RescaleType": "mg/ml"}, "images in 'mg/ml' .RescaleType., not Hounsfield units"),
        ({"RescaleType": "HU_MOD"}, "virtual non-contrast"),
        ({"RescaleType": "Z_EFF"}, "effective atomic number maps"),
        ({"RescaleType": "EDW"}, "electron density maps"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "material maps"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 IODINE"]}, "iodine maps"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "maximum intensity projections"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MINIP"]}, "minimum intensity projections"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localisers"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PERFUSION"]}, "perfusion maps"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "SUBTRACTION"]}, "subtraction images"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Thorax MIP 8mm"}, "maximum intensity"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "ImageComments": "Iodine density"}, "iodine maps"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Lung MIPs 8 mm"}, "maximum intensity"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Cor MnIP"}, "minimum intensity"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "SeriesDescription": "GSI VUE"}, "virtual non-contrast"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "DE VNCa"}, "virtual non-contrast"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Uric Acid"}, "material maps"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "SeriesDescription": "Water (Iodine)"}, "maps"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Perfused Blood Vol"}, "perfusion maps"),
        ({"VolumeBasedCalculationTechnique": "MIN_IP"}, "minimum intensity projections"),
        ({"VolumetricProperties": "DISTORTED"}, "curved reformats"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "RescaleSlope": ""}, "screenshots or report pages"),
    ],
)
def test_maps_projections_and_localisers_are_refused_by_name(tmp_path, changes, match):
    def edit(dataset, k):
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(tmp_path / "scan", f"holds only .*{match}.*, no scan in Hounsfield units")


@pytest.mark.parametrize("code", ["113078", "113062", "129104"])
def test_derivations_by_code(tmp_path, code):
    def edit(dataset, k):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = code, "DCM"
        dataset.DerivationCodeSequence = [item]

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(tmp_path / "scan", "no scan in Hounsfield units")


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"], "MultienergyCTAcquisition": "YES"},
        {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION"]},
        {"SeriesDescription": "Thorax 1.0 for MIP"},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "SeriesDescription": "chest with iodine 80 ml"},
        {"RescaleType": "HU"},
        {"ImageType": ""},
    ],
)
def test_images_in_hounsfield_units_stay(tmp_path, changes):
    def edit(dataset, k):
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, RECIPE.expected_hu)


def test_units_of_an_enhanced_image_are_those_of_its_frames(tmp_path):
    def edit(dataset):
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.PixelValueTransformationSequence[0].RescaleType = "MGML"

    write_multiframe(tmp_path / "enhanced", RECIPE, edit=edit)
    refused(tmp_path / "enhanced", "holds only material maps in mg/ml, no scan")

    def without(dataset):
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.PixelValueTransformationSequence

    write_multiframe(tmp_path / "bare", RECIPE, edit=without)
    refused(tmp_path / "bare", "bare has no RescaleSlope and no RescaleIntercept")


def test_rescale_shared_by_all_frames(tmp_path):
    def edit(dataset):
        shared, frames = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence
        shared.PixelValueTransformationSequence = frames[0].PixelValueTransformationSequence
        shared.PixelValueTransformationSequence[0].RescaleIntercept = -1024
        for group in frames:
            del group.PixelValueTransformationSequence

    write_multiframe(tmp_path / "enhanced", RECIPE, edit=edit)
    np.testing.assert_array_equal(read_volume(tmp_path / "enhanced").image_hu, RECIPE.expected_hu + np.arange(4))


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
@pytest.mark.parametrize("count", [5, 100_000_000, 2_000_000_000])
def test_frame_counts_are_checked_against_the_file(tmp_path, syntax, count):
    def edit(dataset):
        dataset.NumberOfFrames = count

    write_multiframe(tmp_path / "enhanced", replace(RECIPE, syntax=syntax), edit=edit)
    refused(tmp_path / "enhanced", "enhanced has a truncated image", InputError)


def test_a_voxel_written_as_hounsfield_stays_what_it_is(tmp_path):
    """Slopes and intercepts that are no whole numbers, at the ends of 16 bits."""

    def edit(dataset, k):
        set_pixels(dataset, np.full((1, 11, 10), 65535, np.uint16), "explicit")
        dataset.BitsStored, dataset.HighBit = 16, 15

    write_series(tmp_path / "scan", replace(RECIPE, slope=0.0625, intercept=-1024.0), edit=edit)
    assert math.isclose(float(read_volume(tmp_path / "scan").image_hu.max()), 65535 * 0.0625 - 1024)
