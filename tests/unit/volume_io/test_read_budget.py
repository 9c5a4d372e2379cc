"""A reader asks its budget of the header alone: nothing is inflated and no memory taken for what is too large."""

import bz2
import contextlib
import gzip
import tracemalloc

import numpy as np
import pytest

from medai.domain import LabelMap
from medai.errors import InputError
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.writers import write_label_map, write_volume

SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".mha"]
VOXELS = 10 * 11 * 12


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "small",
    [ReadBudget(largest_voxels=VOXELS - 1), ReadBudget(largest_bytes=2 * VOXELS - 1)],
    ids=["voxels", "bytes"],
)
def test_a_scan_above_the_budget_is_refused_with_both_numbers(tmp_path, volume, suffix, small):
    path = tmp_path / f"scan{suffix}"
    write_volume(volume, path)
    said = r"scan\S+ has 10×11×12 voxels of 2 bytes \(0.00264 MB\); at most \d+ voxels .*Crop or resample"
    with pytest.raises(InputError, match=said):
        read_volume(path, options=ReadOptions(budget=small))
    with pytest.raises(InputError, match=said):
        read_geometry(path, budget=small)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_as_large_as_the_budget_is_read(tmp_path, volume, suffix):
    write_volume(volume, tmp_path / f"scan{suffix}")
    just = ReadBudget(largest_voxels=VOXELS, largest_bytes=2 * VOXELS)
    assert read_geometry(tmp_path / f"scan{suffix}", budget=just).shape_ijk == (10, 11, 12)
    found = read_volume(tmp_path / f"scan{suffix}", options=ReadOptions(budget=just))
    np.testing.assert_array_equal(found.image_hu, volume.image_hu)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_label_map_above_the_budget_is_refused(tmp_path, geometry, suffix):
    labels = LabelMap(geometry=geometry, labels=np.zeros(geometry.shape_ijk, np.uint8), segments=())
    write_label_map(labels, tmp_path / f"m{suffix}")
    with pytest.raises(InputError, match="at most 1319 voxels"):
        read_label_map(tmp_path / f"m{suffix}", budget=ReadBudget(largest_voxels=VOXELS - 1))
    assert read_label_map(tmp_path / f"m{suffix}", budget=ReadBudget(largest_voxels=VOXELS)).label_names == {}


ZEROS = bytes(2 * 300 * 300 * 300)


@pytest.mark.parametrize("encoding", ["gzip", "bzip2", "raw", "text", "hex"])
def test_a_stream_is_never_inflated_beyond_what_its_header_promises(tmp_path, encoding):
    packed = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)(ZEROS[: 1 << 24])
    head = f"NRRD0005\ntype: short\ndimension: 3\nsizes: 10 11 12\nendian: little\nencoding: {encoding}\n"
    path = tmp_path / "scan.nrrd"
    path.write_bytes(f"{head}byte skip: {-1 if encoding in ('gzip', 'bzip2') else 0}\n\n".encode() + packed)
    budget = ReadBudget(largest_bytes=1 << 20)
    tracemalloc.start()
    try:
        with contextlib.suppress(InputError):
            read_volume(path, options=ReadOptions(budget=budget))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "said"), [("raw", "truncated"), ("gzip", "truncated"), ("hex", "truncated"), ("text", "truncated"),
                           ("bzip2", "at most 2147483648 voxels")],
)  # fmt: skip
def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path, encoding, said):
    head = f"NRRD0005\ntype: short\ndimension: 3\nsizes: 30000 30000 30000\nendian: little\nencoding: {encoding}\n\n"
    (tmp_path / "scan.nrrd").write_bytes(head.encode() + bz2.compress(ZEROS[:1000]))
    for read in (read_volume, read_geometry, read_label_map):
        with pytest.raises(InputError, match=said):
            read(tmp_path / "scan.nrrd")
