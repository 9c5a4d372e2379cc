"""Each kind of unusable file is refused in words that say what is wrong with it."""

import contextlib
import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medai.domain import LabelMap, Volume
from medai.errors import GeometryError, InputError, StorageError
from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.writers import write_label_map, write_volume

SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".mha"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_truncated(tmp_path, volume, suffix, keep):
    path = tmp_path / f"scan{suffix}"
    write_volume(volume, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match=r"scan\S+ is (damaged or )?truncated"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n", "Git LFS pointer: .* 'git lfs pull'"),
        (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page"),
    ],
)
def test_what_stands_for_a_file_that_was_not_fetched(tmp_path, suffix, content, match):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    for read in (read_volume, read_geometry, read_label_map):
        with pytest.raises(InputError, match=match):
            read(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_flipped_bits_are_noticed(tmp_path, volume, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(volume, path)
    damaged = bytearray(path.read_bytes())
    for position in range(len(damaged) - 200, len(damaged) - 100):
        damaged[position] ^= 0x5A
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged or truncated"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("content", [b"", b"\0" * 700, b"\x1f\x8b\x08garbage", b"NRRD0004\ntype: what\n\n", b"a = b\n"])
def test_not_an_image_at_all(tmp_path, suffix, content):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    for read in (read_volume, read_geometry, read_label_map):
        with pytest.raises(InputError, match="scan"):
            read(path)


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(InputError, match=r"no file or folder '.*nothing\.nii\.gz'"):
        read_volume(tmp_path / "nothing.nii.gz")
    (tmp_path / "scan.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(InputError, match=r"'scan\.jpg' is not in a format medai reads.*NIfTI.*NRRD.*MetaImage"):
        read_volume(tmp_path / "scan.jpg")


@pytest.mark.parametrize("name", ["scan.hdr", "scan.IMG", "scan.img.gz"])
def test_a_pair_of_files_is_named_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(400))
    with pytest.raises(InputError, match=r"one file of a pair .*3D Slicer.*save it as \.nii\.gz"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, geometry, suffix, value):
    image_hu = np.zeros(geometry.shape_ijk, dtype=np.float32)
    image_hu[1, 2, 3] = value
    write_volume(Volume(geometry=geometry, image_hu=image_hu), tmp_path / f"scan{suffix}")
    with pytest.raises(InputError, match="holds 1 voxels that are not numbers"):
        read_volume(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_four_axes(tmp_path, suffix):
    series = sitk.JoinSeries([sitk.Image(5, 6, 7, sitk.sitkInt16)] * 3)
    sitk.WriteImage(series, str(tmp_path / f"scan{suffix}"))
    with pytest.raises(InputError, match=r"has 4 axes .*a scan has three"):
        read_volume(tmp_path / f"scan{suffix}")


def test_one_slice_picture(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((5, 6), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="has 2 axes"):
        read_geometry(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colours(tmp_path, suffix):
    colours = sitk.Compose(*[sitk.Image(5, 6, 7, sitk.sitkUInt8)] * 3)
    sitk.WriteImage(colours, str(tmp_path / f"scan{suffix}"))
    with pytest.raises(InputError, match=r"colours|values a voxel|axes"):
        read_volume(tmp_path / f"scan{suffix}")
    colours = nib.Nifti1Image(np.zeros((5, 6, 7), np.dtype([(c, "u1") for c in "RGB"])), np.eye(4))
    nib.save(colours, tmp_path / "rgb.nii.gz")
    with pytest.raises(InputError, match="holds colours"):
        read_volume(tmp_path / "rgb.nii.gz")


def test_a_header_that_promises_terabytes_is_refused_before_memory_is_taken(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.int16)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(400)))
    with pytest.raises(InputError, match="truncated: its header promises 54000000000000 bytes"):
        read_volume(tmp_path / "scan.nii.gz")


def test_sheared_affine(tmp_path):
    affine = np.eye(4)
    affine[1, 2] = 0.2
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), affine), tmp_path / "scan.nii")
    with pytest.raises(GeometryError, match="not at right angles"):
        read_geometry(tmp_path / "scan.nii")


def test_detached_header_may_not_reach_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(5 * 6 * 7))
    inside = tmp_path / "in"
    inside.mkdir()
    text = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 6 7\nencoding: raw\ndata file: {}\n\n"
    for name in ("../secret.raw", str(secret)):
        (inside / "scan.nhdr").write_text(text.format(name))
        with pytest.raises(InputError, match="outside its own folder"):
            read_volume(inside / "scan.nhdr")
        (inside / "scan.mhd").write_text(
            f"ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementType = MET_UCHAR\nElementDataFile = {name}\n"
        )
        with pytest.raises(InputError, match="outside its own folder"):
            read_volume(inside / "scan.mhd")
    (inside / "scan.nhdr").write_text(text.format("absent.raw"))
    with pytest.raises(InputError, match=r"'absent\.raw', which is not beside it"):
        read_geometry(inside / "scan.nhdr")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(("value", "text"), [(-1024, "-1024"), (70000, "70000"), (0.5, "0.5")])
def test_a_scan_is_not_a_label_map(tmp_path, suffix, value, text):
    image = sitk.Image(5, 6, 7, sitk.sitkFloat32)
    image[1, 2, 3] = value
    sitk.WriteImage(image, str(tmp_path / f"m{suffix}"))
    with pytest.raises(InputError, match=f"holds the voxel value {text}; a label map"):
        read_label_map(tmp_path / f"m{suffix}")


def test_writers_refuse_other_endings_and_leave_nothing(tmp_path, volume):
    with pytest.raises(InputError, match=r"'scan\.dcm' has an ending medai does not write"):
        write_volume(volume, tmp_path / "scan.dcm")
    with pytest.raises(InputError, match="int16 or float32, this one is float64"):
        write_volume(
            Volume(geometry=volume.geometry, image_hu=volume.image_hu.astype(np.float64)), tmp_path / "scan.nii"
        )
    labels = LabelMap(geometry=volume.geometry, labels=np.full(volume.image_hu.shape, 65536, np.uint32), segments=())
    with pytest.raises(InputError, match="from 0 to 65535"):
        write_label_map(labels, tmp_path / "m.nrrd")
    with pytest.raises(StorageError, match=r"scan\.nii could not be written"):
        write_volume(volume, tmp_path / "absent" / "scan.nii")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, volume, monkeypatch):
    path = tmp_path / "scan.nii.gz"
    write_volume(volume, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medai.volume_io.writers.open_deflated", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_volume(volume, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_truncated_inside_the_compressed_header(tmp_path, volume):
    path = tmp_path / "scan.nii.gz"
    write_volume(volume, path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"scan\.nii\.gz"):
        read_geometry(path)


def test_nifti_two_with_a_bad_magic(tmp_path):
    (tmp_path / "scan.nii").write_bytes(struct.pack("<i", 540) + bytes(600))
    with pytest.raises(InputError, match=r"scan\.nii"):
        read_geometry(tmp_path / "scan.nii")


def test_random_damage_never_escapes_as_another_error(tmp_path, volume, rng):
    """A fault of the file is an InputError, whichever library stumbles over it."""
    for suffix in SUFFIXES:
        path = tmp_path / f"scan{suffix}"
        write_volume(volume, path)
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for position in rng.integers(0, min(len(whole), 400), size=3):
                damaged[position] = rng.integers(0, 256)
            path.write_bytes(damaged)
            for read in (read_volume, read_geometry, read_label_map):
                with contextlib.suppress(InputError):
                    read(path)
