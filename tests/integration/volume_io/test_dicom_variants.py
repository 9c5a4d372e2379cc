"""Every way a CT may be stored gives the same voxels at the same place."""

import logging
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from tests.support.dicom_factory import (
    JPEG_LS_SHAPE_IJK,
    SYNTAXES,
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
from medai.volume_io.readers import read_geometry, read_volume

_ANGLE = math.radians(20)
ORIENTATIONS = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "flipped": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (math.cos(_ANGLE), math.sin(_ANGLE), 0.0, -math.sin(_ANGLE) * 0.6, math.cos(_ANGLE) * 0.6, 0.8),
}


def assert_is(volume, recipe):
    np.testing.assert_array_equal(volume.image_hu, recipe.expected_hu)
    np.testing.assert_allclose(volume.geometry.affine_ijk_to_ras_mm, recipe.affine_ras, atol=1e-5)


@pytest.mark.parametrize("syntax", sorted(SYNTAXES))
def test_transfer_syntaxes(tmp_path, syntax):
    recipe = SeriesRecipe(syntax=syntax, shape_ijk=JPEG_LS_SHAPE_IJK if syntax == "jpeg-ls" else (10, 11, 12))
    write_series(tmp_path / "scan", recipe)
    volume = read_volume(tmp_path / "scan")
    assert_is(volume, recipe)
    assert volume.image_hu.dtype == np.int16
    assert volume.image_hu.flags.f_contiguous
    assert read_geometry(tmp_path / "scan").is_same_grid(volume.geometry, 1e-9)


@pytest.mark.parametrize("name", sorted(ORIENTATIONS))
def test_orientations_agree_with_simpleitk(tmp_path, name):
    recipe = SeriesRecipe(orientation=ORIENTATIONS[name])
    write_series(tmp_path / "scan", recipe, seed=3)
    volume = read_volume(tmp_path / "scan")
    assert_is(volume, recipe)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "scan")))
    image = reader.Execute()
    for index in [(0, 0, 0), (9, 0, 0), (0, 10, 0), (0, 0, 11), (3, 4, 5)]:
        ras = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(volume.geometry.ijk_to_ras(index), ras, atol=1e-3)
        assert volume.image_hu[index] == image[index]


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg-2000"])
@pytest.mark.parametrize("name", ["axial", "oblique"])
def test_enhanced_multi_frame(tmp_path, name, syntax):
    recipe = SeriesRecipe(orientation=ORIENTATIONS[name], syntax=syntax)
    write_multiframe(tmp_path / "enhanced", recipe)
    for path in (tmp_path / "enhanced", tmp_path):
        volume = read_volume(path)
        assert_is(volume, recipe)
    assert volume.header["SliceThickness"] == "2.5"


def test_files_anywhere_under_any_name_beside_anything(tmp_path):
    recipe = SeriesRecipe()
    paths = write_series(tmp_path / "a", recipe)
    (tmp_path / "a" / "deep" / "er").mkdir(parents=True)
    for n, path in enumerate(paths[::3]):
        path.rename(tmp_path / "a" / "deep" / "er" / f"picture {n}.jpg")
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM not really")
    (tmp_path / "a" / "notes.txt").write_text("nothing")
    (tmp_path / "a" / "empty").write_bytes(b"")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert_is(read_volume(tmp_path / "a"), recipe)


def test_files_without_preamble(tmp_path):
    recipe = SeriesRecipe(syntax="implicit")
    for path in write_series(tmp_path / "scan", recipe):
        path.write_bytes(path.read_bytes()[132:])
    assert_is(read_volume(tmp_path / "scan"), recipe)


def test_several_series_are_all_offered(tmp_path):
    first = SeriesRecipe()
    second = SeriesRecipe(series_uid="1.2.826.0.1.3680043.8.498.2", spacing_ijk_mm=(0.7, 0.8, 5.0))
    magnetic = SeriesRecipe(series_uid="1.2.826.0.1.3680043.8.498.3", modality="MR")
    paths = write_series(tmp_path / "all", first)
    for recipe in (second, magnetic):
        for k, path in enumerate(write_series(tmp_path / "more", recipe)):
            path.rename(tmp_path / "all" / f"{recipe.series_uid}_{k}")
    write_report(tmp_path / "all" / "report", first)
    found = {series.series_instance_uid: series for series in find_series(tmp_path / "all")}
    assert {uid[-2:]: (s.modality, len(s.files)) for uid, s in found.items()} == {
        ".1": ("CT", 12), ".2": ("CT", 12), ".3": ("MR", 12), "99": ("CT", 1),
    }  # fmt: skip
    assert_is(read_series(found[second.series_uid]), second)
    with pytest.raises(
        InputError,
        match=r"holds 2 series: .*498\.2 \(CT, 12 images, 5 mm, .*498\.1 \(CT, 12 images, 2\.5 mm, kernel B70f",
    ):
        read_volume(tmp_path / "all")
    assert_is(read_volume(paths[4]), first)


def test_reports_beside_the_only_ct_do_not_matter(tmp_path):
    recipe = SeriesRecipe()
    write_series(tmp_path / "scan", recipe)
    write_report(tmp_path / "scan" / "report", replace(recipe, modality="SR"))
    assert_is(read_volume(tmp_path / "scan"), recipe)


def test_slope_and_intercept_of_each_slice(tmp_path):
    def edit(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = (2, -1000) if k % 2 else (1, -1024)

    recipe = SeriesRecipe()
    write_series(tmp_path / "scan", recipe, edit=edit)
    expected = stored_values(recipe.shape_ijk).astype(int)
    expected[:, :, 1::2] = expected[:, :, 1::2] * 2 - 1000
    expected[:, :, ::2] -= 1024
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, expected)


def test_fractional_slope_gives_float32(tmp_path):
    recipe = SeriesRecipe(slope=0.25, intercept=-1000.5)
    write_series(tmp_path / "scan", recipe)
    image_hu = read_volume(tmp_path / "scan").image_hu
    assert image_hu.dtype == np.float32
    np.testing.assert_array_equal(image_hu, recipe.expected_hu.astype(np.float32))


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big-endian", "rle"])
def test_signed_pixels(tmp_path, syntax):
    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.astype(np.int16) - 1024
        set_pixels(dataset, stored[np.newaxis], syntax)

    recipe = SeriesRecipe(syntax=syntax, intercept=0.0)
    write_series(tmp_path / "scan", recipe, edit=edit)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, recipe.expected_hu - 1024)


@pytest.mark.parametrize(("padding", "limit", "low", "high"), [(0, None, 0, 0), (5, 2, 2, 5), (2000, None, 2000, 2000)])
def test_padding_becomes_air(tmp_path, padding, limit, low, high):
    def edit(dataset, k):
        stored = stored_values((10, 11, 1), first_slice=k)[:, :, 0].T.copy()
        stored[0, :6] = [0, 2, 3, 5, 6, 2000]
        set_pixels(dataset, stored[np.newaxis], "explicit")
        dataset.add_new("PixelPaddingValue", "US", padding)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "US", limit)
        dataset.RescaleIntercept = -1000

    recipe = SeriesRecipe()
    write_series(tmp_path / "scan", recipe, edit=edit)
    stored = stored_values(recipe.shape_ijk).astype(int)
    stored[:6, 0, :] = np.array([0, 2, 3, 5, 6, 2000])[:, None]
    expected = np.where((stored >= low) & (stored <= high), -1024, stored - 1000)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").image_hu, expected)


def test_signed_padding_that_was_written_unsigned(tmp_path):
    def edit(dataset, k):
        stored = np.full((1, 11, 10), 500 + k, dtype=np.int16)
        stored[0, 0, 0] = -2000
        set_pixels(dataset, stored, "explicit")
        dataset.add_new("PixelPaddingValue", "US", 63536)

    write_series(tmp_path / "scan", SeriesRecipe(), edit=edit)
    image_hu = read_volume(tmp_path / "scan").image_hu
    assert (image_hu[0, 0, 3], image_hu[1, 0, 3]) == (-1024, 500 + 3 - 1024)


def test_identical_duplicates_are_dropped_with_a_warning(tmp_path, caplog):
    recipe = SeriesRecipe()
    paths = write_series(tmp_path / "scan", recipe)
    (tmp_path / "scan" / "copy").write_bytes(paths[4].read_bytes())
    assert_is(read_volume(tmp_path / "scan"), recipe)
    assert "is left out" in caplog.text
    assert "copy" in caplog.text


def test_a_series_that_lies_in_two_folders_is_told_in_one_line(tmp_path, caplog):
    recipe = SeriesRecipe()
    for folder in ("first", "second"):
        write_series(tmp_path / folder, recipe)
    assert_is(read_volume(tmp_path), recipe)
    (line,) = [record.getMessage() for record in caplog.records if "repeat" in record.getMessage()]
    assert re.search(r"12 images repeat others and are left out \(second/CT\d{4}, .* and 9 more\)", line)


def test_localisers_are_dropped(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recipe = SeriesRecipe()
    write_series(tmp_path / "scan", recipe)
    scout = slice_dataset(replace(recipe, orientation=ORIENTATIONS["coronal"]), 0)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, tmp_path / "scan" / "scout")
    assert_is(read_volume(tmp_path / "scan"), recipe)
    assert "1 localiser (scout) left out" in caplog.text


def test_positions_rounded_to_a_tenth_are_regular(tmp_path):
    def edit(dataset, k):
        dataset.ImagePositionPatient = [-101.25, -33.5, round(-250 + 0.625 * k, 1)]

    recipe = SeriesRecipe(spacing_ijk_mm=(0.7, 0.8, 0.625), shape_ijk=(10, 11, 33))
    write_series(tmp_path / "scan", recipe, edit=edit)
    volume = read_volume(tmp_path / "scan")
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.7, 0.8, 0.625), atol=1e-6)
    np.testing.assert_array_equal(volume.image_hu, recipe.expected_hu)


def test_missing_slices_are_filled_in_on_request(tmp_path):
    recipe = SeriesRecipe(shape_ijk=(10, 11, 20))
    paths = write_series(tmp_path / "scan", recipe)
    for k in (5, 11, 12):
        paths[k].unlink()
    with pytest.raises(
        UnsupportedScanError,
        match=r"lacks 3 of its slices, at -237\.5, -222\.5, -220\.0 mm\. medai import --resample-irregular",
    ):
        read_volume(tmp_path / "scan")
    volume = read_volume(tmp_path / "scan", options=ReadOptions(resample_irregular=True))
    expected = recipe.expected_hu.copy()
    expected[:, :, 5] = np.rint((expected[:, :, 4] + expected[:, :, 6]) / 2)
    for k, weight in ((11, 1 / 3), (12, 2 / 3)):
        expected[:, :, k] = np.rint(recipe.expected_hu[:, :, 10] * (1 - weight) + recipe.expected_hu[:, :, 13] * weight)
    np.testing.assert_array_equal(volume.image_hu, expected)
    assert volume.image_hu.dtype == np.int16
    np.testing.assert_allclose(volume.geometry.affine_ijk_to_ras_mm, recipe.affine_ras, atol=1e-5)


def test_uneven_slices_are_resampled_to_the_finest_spacing_on_request(tmp_path):
    heights = np.array([0, 1, 2, 3, 5.5, 8, 10.5, 13, 14, 15.0])

    def edit(dataset, k):
        dataset.ImagePositionPatient = [0, 0, float(heights[k])]
        dataset.PixelData = np.full((11, 10), 1000 + 10 * heights[k]).astype(np.uint16).tobytes()

    write_series(tmp_path / "scan", SeriesRecipe(shape_ijk=(10, 11, 10)), edit=edit)
    with pytest.raises(UnsupportedScanError, match=r"unevenly spaced slices: .*2\.50 mm between 3\.0 and 5\.5 mm"):
        read_volume(tmp_path / "scan")
    volume = read_volume(tmp_path / "scan", options=ReadOptions(resample_irregular=True))
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.7, 0.8, 1.0))
    np.testing.assert_array_equal(volume.image_hu[0, 0], 1000 + 10 * np.arange(16) - 1024)


def tilted_series(folder, tilt_deg):
    """A rod at right angles to the slices, at RAS (x, y) = (-103, 8) whatever the slice, in a tilted gantry."""
    recipe = SeriesRecipe(
        shape_ijk=(20, 60, 12), tilt_mm_per_mm=math.tan(math.radians(tilt_deg)), origin_lps_mm=(95.0, -30.0, -250.0)
    )

    def edit(dataset, k):
        x = 95.0 + 0.7 * np.arange(20)
        y = recipe.position(k)[1] + 0.8 * np.arange(60)
        distance = np.hypot(x[None, :] - 103.0, y[:, None] + 8.0)
        dataset.PixelData = np.clip(1500 - 100 * distance, 100, None).astype(np.uint16).tobytes()

    write_series(folder, recipe, edit=edit)
    return recipe


@pytest.mark.parametrize("tilt_deg", [12.0, -12.0, 27.5])
def test_gantry_tilt_is_named_or_corrected(tmp_path, tilt_deg):
    recipe = tilted_series(tmp_path / "scan", tilt_deg)
    with pytest.raises(UnsupportedScanError, match=rf"gantry tilt of {abs(tilt_deg)}°"):
        read_volume(tmp_path / "scan")
    volume = read_volume(tmp_path / "scan", options=ReadOptions(correct_tilt=True))
    assert volume.geometry.shape_ijk[0] == 20
    assert volume.geometry.shape_ijk[1] > 60
    np.testing.assert_allclose(volume.geometry.spacing_mm, recipe.spacing_ijk_mm, atol=1e-6)
    tops = [np.unravel_index(np.argmax(volume.image_hu[:, :, k]), volume.image_hu.shape[:2]) for k in range(12)]
    rod = volume.geometry.ijk_to_ras([(i, j, k) for k, (i, j) in enumerate(tops)])
    np.testing.assert_allclose(rod[:, :2], [[-103.0, 8.0]] * 12, atol=0.7)
    # Nothing of the anatomy is cut off, and what the correction uncovers is air.
    assert (volume.image_hu.max(axis=(0, 1)) > 350).all()
    assert volume.image_hu.min() == -1024


def test_header_keeps_the_acquisition_and_no_identifiers(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    recipe = SeriesRecipe()
    write_series(tmp_path / "scan", recipe)
    header = read_volume(tmp_path / "scan").header
    assert header["SeriesInstanceUID"] == recipe.series_uid
    assert header["ConvolutionKernel"] == "B70f"
    assert header["KVP"] == "120"
    assert header["Manufacturer"] == "ACME"
    assert header["ImageType"] == "ORIGINAL\\PRIMARY\\AXIAL"
    text = f"{header} {find_series(tmp_path / 'scan')[0]} {caplog.text}"
    for secret in ("SECRET-ID-4711", "Secret", "19500101"):
        assert secret not in text
    assert len(find_series(tmp_path / "scan")[0].patient_key) == 16


@pytest.mark.parametrize("padding", [0, -90])
def test_padding_of_the_value_of_tissue_counts_at_the_corners(tmp_path, padding):
    """Converters that store Hounsfield units leave the scanner's padding of 0: water is no hole."""

    def edit(dataset, k):
        stored = np.full((1, 11, 10), 35 + k, dtype=np.int16)
        stored[0, :3, 0] = stored[0, 0, :4] = stored[0, -1, -2:] = padding
        stored[0, 5, 4:7] = stored[0, 7, 0] = padding
        set_pixels(dataset, stored, "explicit")
        dataset.add_new("PixelPaddingValue", "SS", padding)
        dataset.RescaleIntercept = 0

    write_series(tmp_path / "scan", SeriesRecipe(), edit=edit)
    image_hu = read_volume(tmp_path / "scan").image_hu
    expected = np.broadcast_to(35 + np.arange(12), (10, 11, 12)).copy()
    expected[0, :3] = expected[:4, 0] = expected[-2:, -1] = -1024
    expected[4:7, 5] = expected[0, 7] = padding
    np.testing.assert_array_equal(image_hu, expected)
