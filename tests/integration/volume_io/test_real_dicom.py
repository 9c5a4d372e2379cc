"""The real series of the development data: to the voxel what SimpleITK reads, and fit for a study."""

import tarfile

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medai.volume_io.dicom_series import find_series
from medai.volume_io.readers import read_geometry, read_volume
from medai.workflows.import_study import import_scans

pytestmark = pytest.mark.real_data

SERIES = {
    "lidc_slab_0001": ((512, 512, 16), (0.703125, 0.703125, 2.5)),
    "lidc_slab_0002": ((512, 512, 12), (0.681641, 0.681641, 1.25)),
    "cptac_lscc_C3N-00247": ((512, 512, 99), (0.564453125, 0.564453125, 3.0)),
    "lung_pet_ct_dx_A0001": ((512, 512, 64), (0.841796875, 0.841796875, 5.0)),
}


@pytest.fixture(scope="module")
def unpacked(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    for name in SERIES:
        with tarfile.open(real_data / "dicom" / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", sorted(SERIES))
def test_agrees_with_simpleitk(unpacked, name):
    volume = read_volume(unpacked / name)
    shape_ijk, spacing_mm = SERIES[name]
    assert volume.geometry.shape_ijk == shape_ijk
    np.testing.assert_allclose(volume.geometry.spacing_mm, spacing_mm, atol=1e-6)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(unpacked / name)))
    image = reader.Execute()
    # SimpleITK leaves the voxels outside the scanner's circle as they are: -2000 - 1024 on GE scanners.
    expected = sitk.GetArrayViewFromImage(image).T
    np.testing.assert_array_equal(volume.image_hu, np.where(expected == -3024, -1024, expected))
    for index in [(0, 0, 0), tuple(n - 1 for n in shape_ijk), (100, 200, 5)]:
        ras = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(volume.geometry.ijk_to_ras(index), ras, atol=1e-3)
    assert read_geometry(unpacked / name).is_same_grid(volume.geometry, 1e-9)
    assert volume.image_hu.dtype == np.int16


def test_all_series_are_offered_and_imported(unpacked, tmp_path):
    assert sorted(series.folder.name for series in find_series(unpacked)) == sorted(SERIES)
    report = import_scans([unpacked], tmp_path / "study")
    assert report.refused == ()
    assert len(report.imported) == len(SERIES)
    # The folder of this scan is named after the patient.
    case = next(case for case in report.imported if case.case_id.startswith("cptac"))
    assert "00247" not in case.case_id
    volume = read_volume(case.path)
    original = read_volume(unpacked / "cptac_lscc_C3N-00247")
    np.testing.assert_array_equal(volume.image_hu, original.image_hu)
    assert volume.geometry.is_same_grid(original.geometry, tolerance_voxels=1e-3)
    keys = {case.patient_key for case in report.imported}
    assert len(keys) == len(SERIES)


def test_nodule_files_agree_with_nibabel(real_data):
    import nibabel as nib

    for path in sorted((real_data / "lidc_nodules" / "images").glob("*.nii.gz"))[::100]:
        volume = read_volume(path)
        image = nib.load(path)
        np.testing.assert_array_equal(volume.image_hu, np.asarray(image.dataobj))
        np.testing.assert_array_equal(volume.geometry.affine_ijk_to_ras_mm, image.affine)
        assert volume.image_hu.dtype == np.int16
