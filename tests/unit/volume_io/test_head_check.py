"""What a checkout, a download or a copy leaves where a scan should be, told by a file's first and last bytes."""

import gzip

import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.head_check import check_first_bytes, check_head, may_be_cut_off
from medai.volume_io.writers import write_volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def volume(rng):
    affine = np.diag([-0.7, 0.8, 2.5, 1.0])
    image_hu = rng.integers(-1000, 900, size=(40, 41, 42)).astype(np.int16)
    return Volume(geometry=VolumeGeometry(shape_ijk=(40, 41, 42), affine_ijk_to_ras_mm=affine), image_hu=image_hu)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_good_scan(tmp_path, volume, ending):
    path = tmp_path / f"scan{ending}"
    write_volume(volume, path)
    geometry = check_head(path)
    assert geometry.shape_ijk == (40, 41, 42)
    assert not may_be_cut_off(path, geometry)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "'git lfs pull' fetches it"),
        (b"/annex/objects/SHA256E-s9--00.nii.gz\n", "'git annex get' fetches it"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (bytes(4096), "cut off|gzip-compressed|not an NRRD|no header"),
    ],
)
def test_what_is_no_scan(tmp_path, ending, content, reason):
    path = tmp_path / f"scan{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        check_first_bytes(path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0.2, 0.7, 0.999])
def test_a_file_that_was_cut_off_is_doubted(tmp_path, volume, ending, share):
    path = tmp_path / f"scan{ending}"
    write_volume(volume, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    try:
        geometry = check_head(path)
    except InputError as error:
        assert "trunc" in str(error)
    else:
        assert may_be_cut_off(path, geometry)


def test_blocks_of_gzip_are_not_doubted(tmp_path, volume):
    path = tmp_path / "scan.nii"
    write_volume(volume, path)
    blocks = tmp_path / "blocks.nii.gz"
    content = path.read_bytes()
    blocks.write_bytes(gzip.compress(content[:50000]) + gzip.compress(content[50000:]) + gzip.compress(b""))
    assert not may_be_cut_off(blocks, check_head(blocks))


def test_a_scan_nobody_may_open_and_a_link_to_nothing(tmp_path):
    (tmp_path / "gone.nrrd").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="link to a file that is not there"):
        check_first_bytes(tmp_path / "gone.nrrd")
