"""NIfTI's own rules: scaling, sform before qform, units, byte order, several gzip members."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from medai.volume_io.readers import read_geometry, read_label_map, read_volume


def save(path, stored, slope=1.0, inter=0.0, affine=None, cls=nib.Nifti1Image):
    image = cls(stored, np.diag([-0.7, -0.8, 2.5, 1.0]) if affine is None else affine)
    image.header.set_slope_inter(slope, inter)
    image.header.set_data_dtype(stored.dtype)
    # Written as stored: nibabel would scale the values back.
    with (gzip.open if path.name.endswith(".gz") else open)(path, "wb") as stream:
        image.header["vox_offset"] = 352 if cls is nib.Nifti1Image else 544
        header = image.header.as_byteswapped(">") if stored.dtype.byteorder == ">" else image.header
        header.write_to(stream)
        stream.write(stored.tobytes(order="F"))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u2", "i4", "f4", ">f8", "u1", "i1"])
def test_whole_numbers_become_int16(tmp_path, dtype, rng):
    low, high = (-128, 127) if dtype == "i1" else (0, 250)
    stored = rng.integers(low, high, size=(10, 11, 12)).astype(dtype)
    save(tmp_path / "s.nii.gz", stored)
    image_hu = read_volume(tmp_path / "s.nii.gz").image_hu
    assert image_hu.dtype == np.int16
    assert image_hu.dtype.isnative
    np.testing.assert_array_equal(image_hu, stored)


def test_scaling_is_honoured(tmp_path, rng):
    stored = rng.integers(0, 4000, size=(10, 11, 12)).astype(np.uint16)
    save(tmp_path / "a.nii.gz", stored, 1.0, -1024.0)
    image_hu = read_volume(tmp_path / "a.nii.gz").image_hu
    assert image_hu.dtype == np.int16
    np.testing.assert_array_equal(image_hu, stored.astype(int) - 1024)
    save(tmp_path / "b.nii.gz", stored, 0.5, -1024.0)
    image_hu = read_volume(tmp_path / "b.nii.gz").image_hu
    assert image_hu.dtype == np.float32
    np.testing.assert_allclose(image_hu, nib.load(tmp_path / "b.nii.gz").get_fdata(), atol=1e-3)


def test_values_beyond_int16_become_float32(tmp_path):
    stored = np.zeros((10, 11, 12), np.int32)
    stored[9, 10, 11] = 40000
    save(tmp_path / "s.nii", stored)
    image_hu = read_volume(tmp_path / "s.nii").image_hu
    assert image_hu.dtype == np.float32
    np.testing.assert_array_equal(image_hu, stored)


def test_a_late_fraction_keeps_the_whole_numbers_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr("medai.volume_io.voxel_stream._SLAB_BYTES", 10 * 11 * 4)
    stored = np.arange(10 * 11 * 12, dtype=np.float32).reshape((10, 11, 12), order="F")
    stored[9, 10, 11] += 0.25
    save(tmp_path / "s.nii.gz", stored)
    image_hu = read_volume(tmp_path / "s.nii.gz").image_hu
    assert image_hu.dtype == np.float32
    np.testing.assert_array_equal(image_hu, stored)


def test_sform_before_qform_before_neither(tmp_path):
    stored = np.zeros((10, 11, 12), np.int16)
    sform = np.diag([-0.7, -0.8, 2.5, 1.0])
    qform = np.diag([0.7, 0.8, 2.5, 1.0])
    for s_code, q_code in [(1, 1), (0, 1), (1, 0), (0, 0), (2, 3)]:
        image = nib.Nifti1Image(stored, sform)
        image.header.set_sform(sform, s_code)
        image.header.set_qform(qform, q_code)
        nib.save(nib.Nifti1Image(stored, None, image.header), tmp_path / "s.nii.gz")
        np.testing.assert_array_equal(
            read_geometry(tmp_path / "s.nii.gz").affine_ijk_to_ras_mm, nib.load(tmp_path / "s.nii.gz").affine
        )


def test_metres_become_millimetres(tmp_path):
    image = nib.Nifti1Image(np.zeros((10, 11, 12), np.int16), np.diag([-0.0007, -0.0008, 0.0025, 1.0]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "s.nii.gz")
    np.testing.assert_allclose(read_geometry(tmp_path / "s.nii.gz").spacing_mm, (0.7, 0.8, 2.5), rtol=1e-6)


def test_nifti_two_trailing_axes_and_several_gzip_members(tmp_path, rng):
    stored = rng.integers(-1000, 1000, size=(10, 11, 12, 1)).astype(np.int16)
    save(tmp_path / "s.nii", stored, cls=nib.Nifti2Image)
    whole = (tmp_path / "s.nii").read_bytes()
    (tmp_path / "s.nii.gz").write_bytes(gzip.compress(whole[:900]) + gzip.compress(whole[900:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "s.nii.gz").image_hu, stored[..., 0])


def test_float_label_map_becomes_uint8(tmp_path):
    stored = np.zeros((10, 11, 12), np.float64)
    stored[2, 3, 4] = 7
    save(tmp_path / "m.nii.gz", stored)
    label_map = read_label_map(tmp_path / "m.nii.gz")
    assert label_map.labels.dtype == np.uint8
    assert label_map.label_names == {"label_7": 7}
