"""MetaImage in its optional forms: read right or refused by name, never what happened to be in memory."""

import gzip
import zlib

import numpy as np
import pytest

from medai.errors import InputError, UnsupportedScanError
from medai.volume_io.readers import read_geometry, read_label_map, read_volume

VALUES = np.arange(10 * 11 * 12, dtype="<i2").reshape((10, 11, 12), order="F") - 700
PLAIN = VALUES.tobytes(order="F")


def write(path, *lines, stored=PLAIN, data_file="LOCAL", **fields):
    own = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "TransformMatrix": "0 1 0 1 0 0 0 0 1",
        "Offset": "1 2 3", "ElementSpacing": "0.7 0.8 2.5", "DimSize": "10 11 12", "ElementType": "MET_SHORT",
    }  # fmt: skip
    text = "\n".join(
        [f"{k} = {v}" for k, v in (own | fields).items()] + list(lines) + [f"ElementDataFile = {data_file}"]
    )
    path.write_bytes((text + "\n").encode() + (stored if data_file == "LOCAL" else b""))
    return path


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
@pytest.mark.parametrize("size", [None, 0, -20, 20, "right"])
def test_compressed_voxels_with_any_size_in_the_header(tmp_path, pack, size):
    stored = pack(PLAIN)
    stated = len(stored) + (0 if size == "right" else size or 0)
    lines = [] if size is None else [f"CompressedDataSize = {stated if size else 0}"]
    path = write(tmp_path / "s.mha", *lines, stored=stored, CompressedData="True")
    if size != 20:  # ITK, which reads the place, refuses a size beyond the file's end.
        np.testing.assert_array_equal(read_volume(path).image_hu, VALUES)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_damaged_compressed_voxels(tmp_path, pack):
    stored = pack(PLAIN)
    for damaged in (stored[:-30], stored[:2], b"", stored[:60] + bytes(20) + stored[80:], stored[:-4] + b"1234"):
        path = write(tmp_path / "s.mha", stored=damaged, CompressedData="True")
        with pytest.raises(InputError, match=r"s\.mha is (damaged|truncated)"):
            read_volume(path)
    path = write(tmp_path / "s.mha", stored=pack(PLAIN[:-2]), CompressedData="True")
    with pytest.raises(InputError, match="truncated: its header promises 2640 bytes"):
        read_volume(path)


@pytest.mark.parametrize(
    ("lines", "fields", "said"),
    [
        ((), {"BinaryData": "False"}, "keeps its voxels as text"),
        ((), {"ObjectType": "Tube"}, "holds a 'Tube', not an image"),
        ((), {"ElementType": "MET_SHORT_ARRAY"}, "type 'MET_SHORT_ARRAY'"),
        (("HeaderSize = 20",), {}, "HeaderSize = 20 before its voxels"),
        (("HeaderSize = x",), {}, "HeaderSize = x"),
        (("HeaderSize = -1",), {"CompressedData": "True"}, "HeaderSize = -1 before compressed"),
        (("ElementToIntensityFunctionOffset = -1024",), {}, "Hounsfield units are not known"),
        (("ElementToIntensityFunctionSlope = two",), {}, "Hounsfield units are not known"),
        (("ElementNumberOfChannels = 2",), {"DimSize": "10 11 6"}, "2 values a voxel"),
        ((), {"CompressedData": "True"}, "neither zlib nor gzip"),
        ((), {"DimSize": "10 11 13"}, "truncated"),
        ((), {"ElementSpacing": "0 1 1"}, r"s\.mha has no usable place"),
        ((), {"TransformMatrix": "1 0 0 0.2 1 0 0 0 1"}, r"s\.mha has axes that are not at right angles .*Resample"),
    ],
)
def test_refused_by_name(tmp_path, lines, fields, said):
    path = write(tmp_path / "s.mha", *lines, **fields)
    for read in (read_volume, read_label_map):
        with pytest.raises(InputError, match=said):
            read(path)


@pytest.mark.parametrize("name", ["LIST", "LIST 2", "slice%02d.raw 1 12 1"])
def test_several_files_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="several files"):
        read_geometry(write(tmp_path / "s.mhd", data_file=name))


def test_voxels_beside_the_header(tmp_path):
    (tmp_path / "v.raw").write_bytes(b"123456789" + PLAIN)
    for size in (9, -1):
        path = write(tmp_path / "s.mhd", f"HeaderSize = {size}", data_file="v.raw")
        np.testing.assert_array_equal(read_volume(path).image_hu, VALUES)


def test_another_modality_is_no_scan_but_may_be_labels(tmp_path):
    path = write(tmp_path / "s.mha", "Modality = MET_MOD_MR", stored=np.abs(VALUES).tobytes(order="F"))
    with pytest.raises(UnsupportedScanError, match=r"s\.mha is MR by its header"):
        read_volume(path)
    assert read_label_map(path).labels.max() == 700


def test_another_unit_of_length_is_noted(tmp_path):
    assert read_volume(write(tmp_path / "s.mha", "DistanceUnits = mm")).notes == ()
    (note,) = read_volume(write(tmp_path / "s.mha", "DistanceUnits = cm")).notes
    assert note == "s.mha states its lengths in cm; they are taken as mm, as 3D Slicer takes them."


def test_longs_of_eight_bytes_are_refused_and_the_advice_works(tmp_path):
    stored = VALUES.astype("<i8").tobytes(order="F")
    with pytest.raises(InputError, match=r"MET_LONG is four bytes\. .*'ElementType = MET_LONG_LONG'"):
        read_volume(write(tmp_path / "s.mha", stored=stored, ElementType="MET_LONG"))
    path = write(tmp_path / "s.mha", stored=stored, ElementType="MET_LONG_LONG")
    np.testing.assert_array_equal(read_volume(path).image_hu, VALUES)
    path = write(tmp_path / "s.mha", stored=VALUES.astype("<i4").tobytes(order="F"), ElementType="MET_LONG")
    np.testing.assert_array_equal(read_volume(path).image_hu, VALUES)
