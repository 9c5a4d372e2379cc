"""Scans as clients send them: what is stored, and what is refused."""

import nibabel as nib
import numpy as np
import pytest
from tests.support.dicom_factory import SeriesRecipe, write_multiframe
from tests.support.lung_voxels import lung_hu

from medai.errors import InputError, UnsupportedScanError
from medai.server.uploads import UploadLimits, check_image_upload
from medai.volume_io.options import ReadBudget

SHAPE = (20, 21, 12)
AFFINE = np.array([[0.7, 0, 0, -30], [0, 0.8, 0, 10], [0, 0, 1.5, -140], [0, 0, 0, 1.0]])


@pytest.fixture
def chest(rng):
    values = rng.normal(-850, 40, SHAPE)
    values[8:12] = rng.normal(40, 20, values[8:12].shape)
    return values.astype(np.int16)


@pytest.fixture
def send(tmp_path):
    def _send(values, name="upload.nii.gz", file_name="case.nii.gz", affine=AFFINE, **options):
        path = tmp_path / name
        if values is not None:
            nib.save(nib.Nifti1Image(values, affine), path)
        options = {"case_id": None} | options
        return check_image_upload(path, file_name=file_name, output_folder=tmp_path, **options)

    return _send


def test_a_chest_ct_is_taken_as_it_is(send, chest, tmp_path):
    checked = send(chest)
    assert (checked.path, checked.case_id) == (tmp_path / "upload.nii.gz", "case")


@pytest.mark.parametrize(
    ("file_name", "case_id", "expected"),
    [
        ("1.2.840.113619.nii.gz", None, "1.2.840.113619"),
        ("1.2.840.113619.nii.gz", "", "1.2.840.113619"),
        ("/home/reader/1.2.3.nrrd", None, "1.2.3"),
        ("tmpabc.nii.gz", "2: CT chest", "2: CT chest"),
    ],
)
def test_the_id_is_the_given_one_or_the_whole_name(send, chest, file_name, case_id, expected):
    """Stock MONAI Label cuts the name at its first dot: any DICOM UID becomes "1"."""
    assert send(chest, file_name=file_name, case_id=case_id).case_id == expected


@pytest.mark.parametrize("case_id", ["../evil", "a/b", ".hidden", "a\x00"])
def test_an_id_that_is_no_file_name_is_refused(send, chest, case_id):
    with pytest.raises(InputError, match="case id"):
        send(chest, case_id=case_id)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda chest: chest + 1024, r"above .*, but a chest CT holds lung .* below -600\. It looks like HU \+ 1024"),
        (lambda chest: (chest > 0).astype(np.uint8), "above 0, but a chest CT"),
        (np.abs, "above .*, but a chest CT holds lung"),
        (lambda chest: chest / np.float32(1000), "above -0.*, but a chest CT.* normalised for a network"),
        (lambda chest: np.full_like(chest, -1000), "nothing but air"),
    ],
    ids=["no intercept", "mask", "MR", "normalised", "air"],
)
def test_what_is_no_ct_in_hounsfield_units_is_refused(send, chest, make, message):
    with pytest.raises(UnsupportedScanError, match=message):
        send(make(chest))


def test_voxels_that_are_no_numbers_are_refused(send, chest):
    values = chest.astype(np.float32)
    values[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        send(values)


def test_metres_instead_of_millimetres_are_refused(send, chest):
    with pytest.raises(UnsupportedScanError, match="which no chest CT has"):
        send(chest, affine=AFFINE * np.array([[1e-3], [1e-3], [1e-3], [1]]))


def test_a_truncated_scan_is_refused(send, chest, tmp_path):
    nib.save(nib.Nifti1Image(chest, AFFINE), tmp_path / "upload.nii.gz")
    content = (tmp_path / "upload.nii.gz").read_bytes()
    (tmp_path / "upload.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated"):
        send(None)


def test_an_empty_file_is_refused(send, tmp_path):
    (tmp_path / "upload.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        send(None)


def test_too_large_a_scan_is_refused(send, chest):
    with pytest.raises(InputError, match=r"20×21×12 voxels of .*at most 1000 voxels"):
        send(chest, limits=UploadLimits(budget=ReadBudget(largest_voxels=1000)))
    with pytest.raises(InputError, match="this server takes 0 MB"):
        send(chest, limits=UploadLimits(largest_bytes=10))


def test_a_time_series_is_refused(send, chest):
    with pytest.raises(InputError):
        send(np.stack([chest, chest], axis=-1))


def test_a_segmentation_is_no_scan(send, tmp_path):
    (tmp_path / "upload.seg.nrrd").write_bytes(b"NRRD0004")
    with pytest.raises(UnsupportedScanError, match="is a segmentation"):
        send(None, name="upload.seg.nrrd", file_name="a.seg.nrrd")


def test_an_unknown_format_is_refused(send, tmp_path):
    (tmp_path / "upload.png").write_bytes(b"x")
    with pytest.raises(InputError, match="must end in one of"):
        send(None, name="upload.png", file_name="a.png")


def show_a_chest(dataset) -> None:
    """Put lung and soft tissue into the frames; the last comes first, a frame's intercept is -1024 less its number."""
    shape = SeriesRecipe().shape_ijk
    stored = lung_hu(shape) + 1024 + np.arange(shape[2])
    dataset.PixelData = np.ascontiguousarray(stored.T[::-1]).astype("<u2").tobytes()


def test_an_enhanced_dicom_file_becomes_a_scan(send, tmp_path):
    recipe = SeriesRecipe()
    write_multiframe(tmp_path / "upload.dcm", recipe, edit=show_a_chest)
    checked = send(None, name="upload.dcm", file_name="1.2.840.dcm")
    assert checked.case_id == "1.2.840"
    assert checked.path.name.endswith(".nii.gz")
    assert nib.load(checked.path).shape == recipe.shape_ijk


def test_a_dicom_file_that_is_no_ct_is_refused(send, tmp_path):
    write_multiframe(tmp_path / "upload.dcm", SeriesRecipe(modality="MR"))
    with pytest.raises(UnsupportedScanError, match="MR"):
        send(None, name="upload.dcm", file_name="1.2.840.dcm")


@pytest.mark.real_data
def test_real_nodule_crops_are_chest_ct(real_data, tmp_path):
    for path in sorted((real_data / "lidc_nodules" / "images").glob("*.nii.gz"))[::100]:
        checked = check_image_upload(path, file_name=path.name, case_id=None, output_folder=tmp_path)
        assert checked.case_id == path.name.removesuffix(".nii.gz")
