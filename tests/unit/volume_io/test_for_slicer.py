"""Which files 3D Slicer shows as they are; the end-to-end tests ask Slicer itself."""

import bz2
import zlib

import nibabel as nib
import numpy as np
import pytest

from medai.volume_io.readers import is_for_slicer, read_volume
from medai.volume_io.writers import write_volume

STORED = np.arange(10 * 11 * 12, dtype="<i2").tobytes()
NRRD = "NRRD0005\ntype: short\ndimension: 3\nsizes: 10 11 12\nendian: little\nspacings: 1 2 3\n"
META = "NDims = 3\nDimSize = 10 11 12\nElementType = MET_SHORT\nElementSpacing = 1 2 3\n"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_what_medai_writes(tmp_path, volume, suffix):
    write_volume(volume, tmp_path / f"scan{suffix}")
    assert is_for_slicer(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bzip2.nrrd", f"{NRRD}encoding: bzip2\n\n".encode() + bz2.compress(STORED)),
        ("beside.nhdr", f"{NRRD}encoding: raw\ndata file: v.raw\n\n".encode()),
        ("beside.mhd", f"{META}ElementDataFile = v.raw\n".encode()),
        ("packed.mha", f"{META}CompressedData = True\nElementDataFile = LOCAL\n".encode() + zlib.compress(STORED)),
    ],
)
def test_read_by_medai_and_not_by_slicer(tmp_path, name, content):
    (tmp_path / "v.raw").write_bytes(STORED)
    (tmp_path / name).write_bytes(content)
    assert read_volume(tmp_path / name).image_hu.tobytes(order="F") == STORED
    assert not is_for_slicer(tmp_path / name)


def test_nifti_that_itk_does_not_read_as_written(tmp_path):
    image = nib.Nifti2Image(np.zeros((10, 11, 12), np.int16), np.diag([-0.7, -0.8, 2.5, 1.0]))
    nib.save(image, tmp_path / "two.nii")
    assert not is_for_slicer(tmp_path / "two.nii")
    nib.save(nib.Nifti1Image(np.zeros((10, 11, 12), np.int16), np.eye(4)), tmp_path / "one.nii")
    assert is_for_slicer(tmp_path / "one.nii")
    whole = bytearray((tmp_path / "one.nii").read_bytes())
    whole[108:112] = bytes(4)
    (tmp_path / "one.nii").write_bytes(whole)
    assert not is_for_slicer(tmp_path / "one.nii")
