"""Every format gives back every voxel at its place, and agrees with SimpleITK and nibabel on where that is."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from medai.domain import LabelMap, Segment, Volume
from medai.geometry import VolumeGeometry
from medai.geometry.frames import points_lps_to_ras
from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.writers import encode_label_map_nrrd, write_label_map, write_volume

SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".mha"]


def sitk_image(volume):
    """The same scan made by SimpleITK's own setters."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.image_hu.T))
    affine_lps = np.diag([-1, -1, 1, 1]) @ volume.geometry.affine_ijk_to_ras_mm
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine_lps[:3, 3].tolist())
    return image


def assert_same_place_as_sitk(path, geometry, image_hu):
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == geometry.shape_ijk
    for index in [(0, 0, 0), (9, 0, 0), (0, 10, 0), (0, 0, 11), (3, 4, 5)]:
        ras = points_lps_to_ras(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(geometry.ijk_to_ras(index), ras, atol=2e-4)
        assert image[index] == image_hu[index]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_keeps_voxels_and_place(tmp_path, volume, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(volume, path)
    back = read_volume(path)
    assert back.image_hu.dtype == np.int16
    assert back.image_hu.flags.f_contiguous
    np.testing.assert_array_equal(back.image_hu, volume.image_hu)
    np.testing.assert_allclose(back.geometry.affine_ijk_to_ras_mm, volume.geometry.affine_ijk_to_ras_mm, atol=1e-4)
    assert read_geometry(path).is_same_grid(back.geometry, tolerance_voxels=1e-9)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_we_write_lies_where_simpleitk_says(tmp_path, volume, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(volume, path)
    assert_same_place_as_sitk(path, read_geometry(path), volume.image_hu)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".nhdr", ".mhd"])
def test_what_simpleitk_writes_lies_where_we_say(tmp_path, volume, suffix):
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk_image(volume), str(path), useCompression=True)
    back = read_volume(path)
    np.testing.assert_array_equal(back.image_hu, volume.image_hu)
    np.testing.assert_allclose(back.geometry.affine_ijk_to_ras_mm, volume.geometry.affine_ijk_to_ras_mm, atol=2e-4)
    assert_same_place_as_sitk(path, back.geometry, volume.image_hu)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_nibabel_agrees(tmp_path, volume, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(volume, path)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.image_hu)
    np.testing.assert_array_equal(image.affine, read_geometry(path).affine_ijk_to_ras_mm)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_fractional_hu_stay_float32(tmp_path, geometry, suffix, rng):
    image_hu = rng.normal(0, 100, size=geometry.shape_ijk).astype(np.float32)
    write_volume(Volume(geometry=geometry, image_hu=image_hu), tmp_path / f"scan{suffix}")
    back = read_volume(tmp_path / f"scan{suffix}").image_hu
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, image_hu)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd", ".nii", ".mha"])
@pytest.mark.parametrize("largest", [3, 255, 256, 40000])
def test_label_map_round_trip(tmp_path, geometry, suffix, largest, rng):
    labels = np.where(rng.random(geometry.shape_ijk) < 0.1, largest, 0).astype(np.uint32)
    labels[4, 5, 6] = 1
    segments = (Segment(value=1, name="one"), Segment(value=largest, name="last"))
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=segments), tmp_path / f"m{suffix}")
    back = read_label_map(tmp_path / f"m{suffix}")
    assert back.labels.dtype == (np.uint8 if largest <= 255 else np.uint16)
    np.testing.assert_array_equal(back.labels, labels)
    assert [s.value for s in back.segments] == [1, largest]
    names = {"one": 1, "last": largest} if "nrrd" in suffix else {"label_1": 1, f"label_{largest}": largest}
    assert back.label_names == names


shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))


@settings(max_examples=25, deadline=None)
@given(shape=shapes, value=st.integers(1, 255), order=st.sampled_from("CF"), seed=st.integers(0, 2**31))
def test_encoded_label_map_is_read_back_by_simpleitk(tmp_path_factory, shape, value, order, seed):
    rng = np.random.default_rng(seed)
    labels = np.asarray(rng.integers(0, 2, size=shape) * value, dtype=np.uint8, order=order)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([-0.7, -0.8, 1.25, 1]))
    segments = (Segment(value=value, name="Nodule 1 · 8.2 mm solid"),)
    path = tmp_path_factory.mktemp("nrrd") / "m.seg.nrrd"
    path.write_bytes(encode_label_map_nrrd(LabelMap(geometry=geometry, labels=labels, segments=segments)))
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, labels)
    assert image.GetMetaData("Segment0_Name") == "Nodule 1 · 8.2 mm solid"
    np.testing.assert_array_equal(read_label_map(path).labels, labels)
    assert read_label_map(path).label_names == {"Nodule 1 · 8.2 mm solid": value}
