"""NIfTI's own rules: scaling, the two forms, units, byte order, several gzip members."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from medai.errors import GeometryError, InputError
from medai.volume_io.readers import is_for_slicer, read_geometry, read_label_map, read_volume


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


TURNED = np.array([[0.0, 0.0, -2.5, 11.0], [0.7, 0.0, 0.0, 12.0], [0.0, 0.8, 0.0, 13.0], [0.0, 0.0, 0.0, 1.0]])


def with_forms(path, qform, sform, codes, **fields):
    header = nib.Nifti1Header()
    header.set_data_shape((10, 11, 12))
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["qform_code"], header["sform_code"] = codes
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(bytes(header.binaryblock) + bytes(4) + bytes(2 * 10 * 11 * 12))
    return path


@pytest.mark.parametrize(
    ("codes", "used"),
    [
        ((0, 1), "sform"), ((0, 4), "sform"), ((1, 0), "qform"), ((1, 1), "sform"), ((4, 1), "sform"),
        ((1, 2), "qform"), ((2, 2), "qform"), ((1, 4), "qform"),
    ],
)  # fmt: skip
def test_the_form_that_itk_takes(tmp_path, codes, used):
    sform = np.diag([-0.7, -0.8, 2.5, 1.0])
    path = with_forms(tmp_path / "s.nii", TURNED, sform, codes)
    expected = sform if used == "sform" else TURNED
    np.testing.assert_allclose(read_geometry(path).affine_ijk_to_ras_mm, expected, atol=1e-6)


def test_without_forms_the_first_voxel_is_at_the_origin_and_axes_are_lps(tmp_path):
    path = with_forms(tmp_path / "s.nii", TURNED, TURNED, (0, 0))
    np.testing.assert_allclose(read_geometry(path).affine_ijk_to_ras_mm, np.diag([-0.7, -0.8, 2.5, 1.0]), atol=1e-6)
    (note,) = read_volume(path).notes
    assert note == "s.nii states no place in the patient (both form codes are 0): taken as 3D Slicer takes it, as LPS."


def test_sizes_are_always_pixdim(tmp_path):
    unit = np.diag([-1.0, -1.0, 1.0, 1.0])
    path = with_forms(tmp_path / "s.nii", np.diag([-0.7, -0.8, 2.5, 1.0]), unit, (0, 2))
    assert read_geometry(path).spacing_mm == pytest.approx((0.7, 0.8, 2.5))
    assert "its sform has it up to 16.8 mm away (6.6 voxels)" in read_volume(path).notes[0]


def test_a_sheared_sform_falls_back_on_the_qform_and_is_refused_without_one(tmp_path):
    sheared = np.diag([-0.7, -0.8, 2.5, 1.0])
    sheared[0, 1] = 0.0002
    for codes in ((1, 1), (2, 1)):
        path = with_forms(tmp_path / "s.nii", TURNED, sheared, codes)
        np.testing.assert_allclose(read_geometry(path).affine_ijk_to_ras_mm, TURNED, atol=1e-6)
    path = with_forms(tmp_path / "s.nii", TURNED, sheared, (0, 1))
    with pytest.raises(GeometryError, match=r"s\.nii has an sform whose axes are not at right angles .*3D Slicer"):
        read_volume(path)
    sheared[0, 1] = 0.00005
    with_forms(tmp_path / "s.nii", TURNED, sheared, (0, 1))
    assert read_geometry(path).spacing_mm == pytest.approx((0.7, 0.8, 2.5))


def test_two_forms_apart_are_reported_by_the_scan_and_in_the_log(tmp_path, caplog):
    apart = TURNED.copy()
    apart[:3, 3] += (3.0, 0.0, 4.0)
    path = with_forms(tmp_path / "s.nii", TURNED, apart, (1, 2))
    (note,) = read_volume(path).notes
    assert note.startswith(
        "s.nii is placed where 3D Slicer places it; its sform has it up to 5.0 mm away (5.0 voxels)."
    )
    assert note in caplog.messages
    apart[:3, 3] = TURNED[:3, 3] + (0.05, 0.0, 0.0)
    assert read_volume(with_forms(tmp_path / "s.nii", TURNED, apart, (1, 2))).notes == ()


def test_mirrored_forms_are_refused(tmp_path):
    mirrored = TURNED.copy()
    mirrored[:3, 2] *= -1
    path = with_forms(tmp_path / "s.nii", TURNED, mirrored, (1, 2))
    with pytest.raises(GeometryError, match=r"mirror images of each other \(1 of three axes"):
        read_geometry(path)


def test_an_offset_inside_the_header_is_352(tmp_path, rng):
    stored = rng.integers(-1000, 1000, size=(10, 11, 12)).astype(np.int16)
    save(tmp_path / "s.nii", stored)
    whole = bytearray((tmp_path / "s.nii").read_bytes())
    for offset in (0.0, 348.0, -16.0, np.nan, 352.9):
        whole[108:112] = struct.pack("<f", offset)
        (tmp_path / "s.nii").write_bytes(whole)
        np.testing.assert_array_equal(read_volume(tmp_path / "s.nii").image_hu, stored)


def test_extensions_are_passed_over_and_bounded(tmp_path, rng):
    stored = rng.integers(-1000, 1000, size=(10, 11, 12)).astype(np.int16)
    save(tmp_path / "s.nii", stored)
    whole = bytearray((tmp_path / "s.nii").read_bytes())
    whole[108:112] = struct.pack("<f", 384)
    extended = bytes(whole[:348]) + b"\1\0\0\0" + struct.pack("<2i", 1 << 30, 6) + bytes(24) + bytes(whole[352:])
    (tmp_path / "s.nii.gz").write_bytes(gzip.compress(extended))
    np.testing.assert_array_equal(read_volume(tmp_path / "s.nii.gz").image_hu, stored)
    whole[108:112] = struct.pack("<f", 1 << 28)
    (tmp_path / "s.nii.gz").write_bytes(gzip.compress(bytes(whole)) + bytes(300_000))
    with pytest.raises(InputError, match="damaged header: its voxels begin 268435456 bytes after"):
        read_volume(tmp_path / "s.nii.gz")


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_an_intercept_without_a_slope_is_refused(tmp_path, slope):
    path = with_forms(tmp_path / "s.nii", TURNED, TURNED, (1, 1), scl_slope=slope, scl_inter=-1024)
    with pytest.raises(InputError, match=r"intercept -1024: by the NIfTI standard .*Write scl_slope 1"):
        read_volume(path)
    path = with_forms(tmp_path / "s.nii", TURNED, TURNED, (1, 1), scl_slope=2, scl_inter=np.nan)
    with pytest.raises(InputError, match="its values are not known"):
        read_volume(path)


def test_pairs_and_analyze_files_are_named(tmp_path):
    path = with_forms(tmp_path / "s.nii", TURNED, TURNED, (1, 1), magic=b"ni1")
    with pytest.raises(InputError, match=r"header of a pair: .*\.img file .*one \.nii\.gz"):
        read_volume(path)
    path = with_forms(tmp_path / "s.nii", TURNED, TURNED, (1, 1), magic=b"")
    with pytest.raises(InputError, match="Analyze files have no mark"):
        read_volume(path)


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


@pytest.mark.parametrize("trailing", [b"x", b"garbage" * 9, b"\0" * 700])
@pytest.mark.parametrize("members", [1, 2])
def test_what_follows_a_gzip_stream_is_left_alone(tmp_path, rng, trailing, members):
    """Gzip ignores it and 3D Slicer reads such files."""
    stored = rng.integers(-1000, 1000, size=(10, 11, 12)).astype(np.int16)
    save(tmp_path / "s.nii", stored)
    whole = (tmp_path / "s.nii").read_bytes()
    cut = 900 if members == 2 else len(whole)
    packed = gzip.compress(whole[:cut]) + (gzip.compress(whole[cut:]) if members == 2 else b"")
    (tmp_path / "s.nii.gz").write_bytes(packed + trailing)
    np.testing.assert_array_equal(read_volume(tmp_path / "s.nii.gz").image_hu, stored)
    (tmp_path / "s.nii.gz").write_bytes(packed[:-8] + b"1234" + packed[-4:] + trailing)
    with pytest.raises(InputError, match=r"s\.nii\.gz is damaged or truncated"):
        read_volume(tmp_path / "s.nii.gz")


def test_compression_is_told_by_content(tmp_path, rng):
    stored = rng.integers(-1000, 1000, size=(10, 11, 12)).astype(np.int16)
    save(tmp_path / "plain.nii", stored)
    (tmp_path / "called.nii.gz").write_bytes((tmp_path / "plain.nii").read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress((tmp_path / "plain.nii").read_bytes()))
    for name, for_slicer in (("called.nii.gz", True), ("packed.nii", False), ("plain.nii", True)):
        np.testing.assert_array_equal(read_volume(tmp_path / name).image_hu, stored)
        assert is_for_slicer(tmp_path / name) is for_slicer


def test_float_label_map_becomes_uint8(tmp_path):
    stored = np.zeros((10, 11, 12), np.float64)
    stored[2, 3, 4] = 7
    save(tmp_path / "m.nii.gz", stored)
    label_map = read_label_map(tmp_path / "m.nii.gz")
    assert label_map.labels.dtype == np.uint8
    assert label_map.label_names == {"label_7": 7}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_label_values_that_are_nearly_whole_are_whole(tmp_path, dtype):
    stored = np.zeros((10, 11, 12), dtype)
    stored[2, 3, 4], stored[5, 6, 7], stored[1, 1, 1] = 0.9999999, 2.0004, -0.0003
    save(tmp_path / "m.nii", stored)
    labels = read_label_map(tmp_path / "m.nii").labels
    assert labels.dtype == np.uint8
    assert (labels[2, 3, 4], labels[5, 6, 7], np.count_nonzero(labels)) == (1, 2, 2)


@pytest.mark.parametrize(("value", "text"), [(0.9985, "0.9985"), (0.99899995, "0.99899995"), (-0.5, "-0.5")])
def test_a_label_value_that_is_not_whole_is_shown_with_all_its_digits(tmp_path, value, text):
    stored = np.zeros((10, 11, 12), np.float64)
    stored[2, 3, 4] = value
    save(tmp_path / "m.nii", stored)
    with pytest.raises(InputError, match=f"holds the voxel value {text}; a label map holds whole numbers"):
        read_label_map(tmp_path / "m.nii")
