"""What is no chest CT in Hounsfield units is refused with its likely cause; what patients and scanners do is not."""

import re

import numpy as np
import pytest
from tests.support.scan_factory import make_scan, named_geometry
from tests.support.spoiled_scans import HONEST, HONEST_WHOLE, SPOILED, SPOILED_WHOLE

from medai.domain import Volume
from medai.errors import UnsupportedScanError
from medai.geometry import IndexBox, VolumeGeometry
from medai.volume_io.plausibility import check_chest_ct, read_chest_ct
from medai.volume_io.writers import write_volume

WHOLE, CROP = "whole scan", "crop around a nodule"


@pytest.fixture(scope="module")
def scans():
    scan = make_scan(named_geometry("axial"), np.random.default_rng(4))
    # At the nodule of the right lung, with the mediastinum beside it.
    middle = np.rint(scan.geometry.ras_to_ijk(scan.nodules[0].centre_ras_mm)).astype(int)
    half = (11, 10, 5)
    box = IndexBox(start_ijk=tuple((middle - half).tolist()), stop_ijk=tuple((middle + half).tolist()))
    return {WHOLE: scan.volume, CROP: scan.volume.crop(box)}


def changed(volume, change):
    image = np.asfortranarray(change(np.asarray(volume.image_hu)))
    affine = volume.geometry.affine_ijk_to_ras_mm
    return Volume(geometry=VolumeGeometry(shape_ijk=image.shape, affine_ijk_to_ras_mm=affine), image_hu=image)


@pytest.mark.parametrize("name", [*SPOILED, *SPOILED_WHOLE])
def test_a_spoiled_scan_is_refused(scans, name):
    with pytest.raises(UnsupportedScanError, match=r"does not look like a chest CT in Hounsfield units: .*looks like"):
        check_chest_ct(changed(scans[WHOLE], (SPOILED | SPOILED_WHOLE)[name]))


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_crop_is_refused(scans, name):
    with pytest.raises(UnsupportedScanError, match=r"does not look like a chest CT in Hounsfield units: .*looks like"):
        check_chest_ct(changed(scans[CROP], SPOILED[name]))


@pytest.mark.parametrize("where", [WHOLE, CROP])
@pytest.mark.parametrize("name", HONEST)
def test_what_patients_and_scanners_do_is_not_refused(scans, where, name):
    check_chest_ct(changed(scans[where], HONEST[name]))


@pytest.mark.parametrize("name", HONEST_WHOLE)
def test_a_part_of_a_chest_is_not_refused(scans, name):
    check_chest_ct(changed(scans[WHOLE], HONEST_WHOLE[name]))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("HU + 1024, unsigned", "HU + 1024: subtract 1024, or export it with the rescale intercept applied"),
        ("HU + 1024, filled with -1024 outside", "HU + 1024"),
        ("HU + 32768", "HU + 32768"),
        ("unsigned wrap", "negative values were stored as unsigned"),
        ("HU - 1024", "intercept applied twice: add 1024"),
        ("HU x 2", "HU × 2"),
        ("HU x 10", "divide it by 10"),
        ("HU / 10", "multiply it by 10"),
        ("left-justified", "left-justified): divide it by 16"),
        ("left-justified stored", "divide by 16, subtract 1024"),
        ("bytes swapped", "bytes swapped"),
        ("inverted stored - 1024", "MONOCHROME1"),
        ("0..1", "normalised for a network"),
        ("8-bit lung window", "a picture of 8 bits"),
        ("mask", "a mask or a label map"),
        ("MR", "another modality"),
        ("constant 0", "an empty volume: every voxel looked at is 0"),
        ("stored x 2 - 1024", "stored values × 2 less 1024"),
    ],
)
def test_the_likely_cause_is_named(scans, name, advice):
    with pytest.raises(UnsupportedScanError, match=re.escape(advice)):
        check_chest_ct(changed(scans[WHOLE], (SPOILED | SPOILED_WHOLE)[name]))


def test_the_message_says_what_was_seen_and_what_is_expected(scans):
    with pytest.raises(UnsupportedScanError, match=r"99 % of its voxels are above .*lung \(about -850 HU\) and air"):
        check_chest_ct(changed(scans[WHOLE], SPOILED["HU + 1024"]))


def body_without_lung(filling_hu, air_inside_hu=-1000.0):
    """A trunk of tissue with bone in the middle and a bubble of bowel gas, in air, on a table of foam."""
    i, j, _ = np.meshgrid(np.arange(110), np.arange(100), np.arange(14), indexing="ij")
    rng = np.random.default_rng(9)
    image = np.full(i.shape, -1000.0)
    image[(i > 10) & (i < 100) & (j > 82) & (j < 92)] = -930
    image[((i - 55) / 45) ** 2 + ((j - 46) / 34) ** 2 < 1] = filling_hu
    image[(i - 55) ** 2 + (j - 66) ** 2 < 40] = 500
    image[(i - 40) ** 2 + (j - 36) ** 2 < 60] = air_inside_hu
    image += rng.normal(0, 14, i.shape)
    affine = np.array([[-3.1, 0, 0.2, 90], [0, -3.2, 0, 80], [0.2, 0, 5.5, -40], [0, 0, 0, 1]])
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1]) * 5.5 / 9.9
    return Volume(
        geometry=VolumeGeometry(shape_ijk=i.shape, affine_ijk_to_ras_mm=affine),
        image_hu=np.asfortranarray(np.rint(image).astype(np.int16)),
    )


def test_a_ct_of_another_region_is_refused():
    with pytest.raises(UnsupportedScanError, match=r"shows no lung: 0\.\d\d% of the body.*head, the abdomen"):
        check_chest_ct(body_without_lung(40.0))


def test_one_small_aerated_part_of_a_lung_is_enough():
    check_chest_ct(body_without_lung(40.0, air_inside_hu=-820.0))


@pytest.mark.parametrize(
    ("factor", "advice"),
    [(0.001, "metres taken for"), (0.1, "centimetres"), (1000.0, "micrometres taken for")],
)
def test_a_wrong_unit_of_length_is_refused(scans, factor, advice):
    affine = scans[WHOLE].geometry.affine_ijk_to_ras_mm.copy()
    affine[:3, :3] *= factor * 0.4
    geometry = VolumeGeometry(shape_ijk=scans[WHOLE].geometry.shape_ijk, affine_ijk_to_ras_mm=affine)
    with pytest.raises(UnsupportedScanError, match=advice):
        check_chest_ct(Volume(geometry=geometry, image_hu=scans[WHOLE].image_hu))


def test_more_than_a_person_is_refused(scans):
    affine = np.diag([12.0, 12.0, 15.0, 1.0])
    geometry = VolumeGeometry(shape_ijk=scans[WHOLE].geometry.shape_ijk, affine_ijk_to_ras_mm=affine)
    with pytest.raises(UnsupportedScanError, match="1152×1080×900 mm large, more than a person"):
        check_chest_ct(Volume(geometry=geometry, image_hu=scans[WHOLE].image_hu))


def test_slices_stored_along_another_axis_are_judged_alike(scans):
    volume = scans[WHOLE]
    affine = volume.geometry.affine_ijk_to_ras_mm[:, [2, 0, 1, 3]]
    image = np.asfortranarray(np.transpose(volume.image_hu, (2, 0, 1)))
    turned = Volume(geometry=VolumeGeometry(shape_ijk=image.shape, affine_ijk_to_ras_mm=affine), image_hu=image)
    check_chest_ct(turned)
    with pytest.raises(UnsupportedScanError, match=r"HU \+ 1024"):
        check_chest_ct(changed(turned, SPOILED["HU + 1024"]))


def test_reading_checks(tmp_path, scans):
    write_volume(scans[CROP], tmp_path / "good.nii.gz")
    assert read_chest_ct(tmp_path / "good.nii.gz").geometry.shape_ijk == scans[CROP].geometry.shape_ijk
    write_volume(changed(scans[CROP], SPOILED["HU + 1024"]), tmp_path / "bad.nrrd")
    with pytest.raises(UnsupportedScanError, match=r"HU \+ 1024"):
        read_chest_ct(tmp_path / "bad.nrrd")
