"""What is not a CT on a regular grid is refused, naming the reason and never the patient."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from tests.support.dicom_factory import (
    SeriesRecipe,
    save,
    slice_dataset,
    write_multiframe,
    write_report,
    write_series,
)

from medai.errors import InputError, UnsupportedScanError
from medai.volume_io.dicom_series import find_series
from medai.volume_io.options import ReadOptions
from medai.volume_io.readers import read_geometry, read_label_map, read_volume

RECIPE = SeriesRecipe()


def refused(path, error, match, options=ReadOptions()):  # noqa: B008 - frozen
    with pytest.raises(error, match=match) as caught:
        read_volume(path, options=options)
    for secret in ("SECRET-ID-4711", "Secret", "19500101", str(path.parent)):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("modality", ["MR", "PT", "DX", "US", ""])
def test_other_modalities(tmp_path, modality):
    write_series(tmp_path / "scan", replace(RECIPE, modality=modality))
    refused(tmp_path / "scan", UnsupportedScanError, f"has the modality '{modality}'; medai works on CT only")


@pytest.mark.parametrize("modality", ["SR", "RTSTRUCT"])
def test_files_without_images(tmp_path, modality):
    (tmp_path / "scan").mkdir()
    write_report(tmp_path / "scan" / "report", replace(RECIPE, modality=modality))
    refused(tmp_path / "scan", UnsupportedScanError, f"has the modality '{modality}'")


def test_ct_without_pixels(tmp_path):
    (tmp_path / "scan").mkdir()
    write_report(tmp_path / "scan" / "report", RECIPE)
    refused(tmp_path / "scan", InputError, "report has no pixel data")
    write_series(tmp_path / "other", RECIPE, edit=lambda dataset, k: k == 3 and dataset.__delitem__("PixelData"))
    refused(tmp_path / "other", InputError, r"CT\d{4} has no pixel data")


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big-endian", "rle", "jpeg-2000", "jpeg-lossless"])
def test_truncated_pixels(tmp_path, syntax):
    paths = write_series(tmp_path / "scan", replace(RECIPE, syntax=syntax))
    whole = paths[5].read_bytes()
    paths[5].write_bytes(whole[:-40])
    refused(tmp_path / "scan", InputError, f"{paths[5].name} has a truncated image")
    with pytest.raises(InputError, match="a truncated image"):
        read_geometry(tmp_path / "scan")


def test_truncated_multi_frame(tmp_path):
    write_multiframe(tmp_path / "enhanced", RECIPE)
    (tmp_path / "enhanced").write_bytes((tmp_path / "enhanced").read_bytes()[:-500])
    refused(tmp_path / "enhanced", InputError, "enhanced has a truncated image")


@pytest.mark.parametrize("keep", [140, 200, 420, 700])
def test_truncated_header(tmp_path, keep):
    paths = write_series(tmp_path / "scan", RECIPE)
    paths[0].write_bytes(paths[0].read_bytes()[:keep])
    refused(tmp_path / "scan", InputError, paths[0].name)


def test_damaged_compression(tmp_path):
    paths = write_series(tmp_path / "scan", replace(RECIPE, syntax="jpeg-2000"))
    damaged = bytearray(paths[5].read_bytes())
    position = damaged.index(b"\xff\x4f")
    damaged[position : position + 60] = bytes(60)
    paths[5].write_bytes(damaged)
    refused(tmp_path / "scan", InputError, f"pixels of {paths[5].name} cannot be decoded")


@pytest.mark.parametrize(("offset", "value"), [(0, 7), (4, 0), (8, 0), (11, 0x7F)])
def test_run_lengths_that_contradict_the_header_never_reach_the_decoder(tmp_path, offset, value):
    """GDCM's decoder dies of segments that begin nowhere."""
    paths = write_series(tmp_path / "scan", replace(RECIPE, syntax="rle"))
    damaged = bytearray(paths[5].read_bytes())
    damaged[damaged.index(b"\x02\0\0\0\x40\0\0\0") + offset] = value
    paths[5].write_bytes(damaged)
    refused(tmp_path / "scan", InputError, f"{paths[5].name} has a damaged image")


@pytest.mark.parametrize("syntax", ["jpeg-lossless", "jpeg-ls"])
@pytest.mark.parametrize(("offset", "value"), [(2, 0xA8), (3, 0x7F), (5, 0x7F), (7, 3)])
def test_a_jpeg_that_contradicts_the_header_never_reaches_the_decoder(tmp_path, syntax, offset, value):
    """GDCM's decoder dies of the first of these: a sample depth of 168 bits."""
    paths = write_series(tmp_path / "scan", replace(RECIPE, syntax=syntax, shape_ijk=(13, 14, 3)))
    damaged = bytearray(paths[1].read_bytes())
    marker = b"\xff\xc3" if syntax == "jpeg-lossless" else b"\xff\xf7"
    damaged[damaged.index(marker) + 2 + offset] = value
    paths[1].write_bytes(damaged)
    refused(tmp_path / "scan", InputError, f"{paths[1].name} has a damaged image")


def test_different_images_at_one_position(tmp_path):
    paths = write_series(tmp_path / "scan", RECIPE)
    other = slice_dataset(RECIPE, 4)
    other.SOPInstanceUID = "1.2.3"
    other.PixelData = bytes(len(other.PixelData))
    save(other, tmp_path / "scan" / "second")
    refused(tmp_path / "scan", UnsupportedScanError, rf"different images at one position, -240\.0 mm .*{paths[4].name}")


def test_only_localisers(tmp_path):
    write_series(
        tmp_path / "scan", RECIPE, edit=lambda dataset, k: setattr(dataset, "ImageType", ["A", "B", "LOCALIZER"])
    )
    refused(tmp_path / "scan", UnsupportedScanError, "only localisers")


def test_mixed_orientations_sizes_and_spacings(tmp_path):
    for name, other, match in [
        ("orientation", replace(RECIPE, orientation=(1.0, 0, 0, 0, 0, -1.0)), "mixes orientations: .*not parallel"),
        ("size", replace(RECIPE, shape_ijk=(10, 13, 12)), "mixes image sizes: .* 10×11 pixels, .* 10×13"),
        ("spacing", replace(RECIPE, spacing_ijk_mm=(0.9, 0.8, 2.5)), "mixes pixel sizes: "),
    ]:
        write_series(tmp_path / name, RECIPE)
        save(slice_dataset(other, 11), tmp_path / name / "ZZ")
        refused(tmp_path / name, UnsupportedScanError, match)


def test_without_a_place_in_the_patient(tmp_path):
    def edit(dataset, k):
        del dataset.ImagePositionPatient
        del dataset.PixelSpacing

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(tmp_path / "scan", UnsupportedScanError, "has no ImagePositionPatient, PixelSpacing; its place")


def test_one_slice(tmp_path):
    write_series(tmp_path / "scan", replace(RECIPE, shape_ijk=(10, 11, 1)))
    refused(tmp_path / "scan", UnsupportedScanError, "one slice; a scan needs at least two")


def test_all_slices_at_one_position(tmp_path):
    write_series(tmp_path / "scan", RECIPE, edit=lambda dataset, k: setattr(dataset, "ImagePositionPatient", [0, 0, 7]))
    refused(
        tmp_path / "scan", UnsupportedScanError, r"12 images at one position \(ImagePositionPatient\); a scan needs"
    )


@pytest.mark.parametrize("name", ["IM12.dcm", "IM12.IMA"])
@pytest.mark.parametrize("content", [b"", bytes(700), b"404 not found"])
def test_a_slice_that_was_copied_empty_is_missed(tmp_path, name, content):
    paths = write_series(tmp_path / "scan", RECIPE)
    paths[-1].unlink()
    (tmp_path / "scan" / name).write_bytes(content)
    (tmp_path / "scan" / f"._{name}").write_bytes(b"of a Mac")
    match = rf"may be incomplete: {name} beside it cannot be read"
    refused(tmp_path / "scan", InputError, match)
    refused(paths[0], InputError, match)


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg-2000", "jpeg-lossless"])
def test_more_frames_than_the_header_counts(tmp_path, syntax):
    def fewer(dataset):
        dataset.NumberOfFrames = 11
        del dataset.PerFrameFunctionalGroupsSequence[-1]

    write_multiframe(tmp_path / "enhanced", replace(RECIPE, syntax=syntax), edit=fewer)
    match = (
        "2640 bytes of pixels where 11 frames" if syntax == "explicit" else "12 compressed frames where .* counts 11"
    )
    refused(tmp_path / "enhanced", InputError, match)


def test_more_descriptions_of_frames_than_frames(tmp_path):
    def longer(dataset):
        groups = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = [*groups, groups[0]]

    write_multiframe(tmp_path / "enhanced", RECIPE, edit=longer)
    refused(tmp_path / "enhanced", InputError, "13 descriptions of frames where its header counts 12")


def test_padding_that_is_no_number_is_named(tmp_path):
    write_series(
        tmp_path / "scan", RECIPE, edit=lambda dataset, k: dataset.add_new("PixelPaddingValue", "US", [63536, 0])
    )
    refused(tmp_path / "scan", InputError, r"PixelPaddingValue \(0028,0120\) = '63536.0', which should be one number")


def test_slices_shifted_within_their_plane(tmp_path):
    def edit(dataset, k):
        if k > 5:
            dataset.ImagePositionPatient[0] += 30

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(
        tmp_path / "scan",
        UnsupportedScanError,
        "shifted against each other by up to 30",
        ReadOptions(correct_tilt=True),
    )


def test_resampling_does_not_explode(tmp_path):
    def edit(dataset, k):
        dataset.ImagePositionPatient[2] = -250 + (0.05 if k == 1 else 5 * k)

    write_series(tmp_path / "scan", RECIPE, edit=edit)
    refused(
        tmp_path / "scan",
        UnsupportedScanError,
        "would turn 12 slices into 1101",
        ReadOptions(resample_irregular=True),
    )


def test_colour_and_lookup_tables(tmp_path):
    def colour(dataset, k):
        dataset.SamplesPerPixel = 3
        dataset.PhotometricInterpretation = "RGB"

    write_series(tmp_path / "scan", RECIPE, edit=colour)
    refused(tmp_path / "scan", InputError, "has colour pixels")


def test_empty_folder_missing_folder_and_labels(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", InputError, "'empty' holds no DICOM series")
    with pytest.raises(InputError, match="no folder"):
        find_series(tmp_path / "absent")
    paths = write_series(tmp_path / "scan", RECIPE)
    with pytest.raises(InputError, match="label maps are read from"):
        read_label_map(paths[0])


def test_a_damaged_file_elsewhere_does_not_spoil_a_series(tmp_path):
    write_series(tmp_path / "tree" / "good", RECIPE)
    bad = write_series(tmp_path / "tree" / "bad", replace(RECIPE, series_uid="1.2.3"))
    bad[0].write_bytes(bad[0].read_bytes()[:200])
    found = {series.folder.name: series for series in find_series(tmp_path / "tree")}
    assert found["good"].damaged_names == ()
    assert found["bad"].damaged_names == (bad[0].name,)
    np.testing.assert_array_equal(read_volume(tmp_path / "tree" / "good").image_hu, RECIPE.expected_hu)


def test_random_damage_never_escapes_as_another_error(tmp_path, rng):
    paths = write_series(tmp_path / "scan", replace(RECIPE, shape_ijk=(10, 11, 2)))
    whole = paths[0].read_bytes()
    for _ in range(80):
        damaged = bytearray(whole)
        for position in rng.integers(128, len(whole), size=4):
            damaged[position] = rng.integers(0, 256)
        paths[0].write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_volume(tmp_path / "scan")
