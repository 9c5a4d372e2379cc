"""NRRD as Slicer, ITK and teem write it: spaces, encodings, detached headers, layered segmentations."""

import bz2
import gzip

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medai.domain import LabelMap, Segment
from medai.errors import InputError
from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.writers import encode_label_map_nrrd

DIRECTIONS = np.array([[0.7, 0.0, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 2.5]])


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_spaces(tmp_path, space, signs):
    path = tmp_path / "s.nrrd"
    header = {"space": space, "space directions": DIRECTIONS, "space origin": [1.5, 2.5, 3.5]}
    nrrd.write(str(path), np.zeros((10, 11, 12), np.int16), header)
    affine = read_geometry(path).affine_ijk_to_ras_mm
    np.testing.assert_allclose(affine[:3, 3], np.array(signs) * [1.5, 2.5, 3.5])
    np.testing.assert_allclose(np.diag(affine)[:3], np.array(signs) * [0.7, 0.8, 2.5])
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(np.array(image.GetOrigin()) * (-1, -1, 1), affine[:3, 3])


def test_a_file_without_orientation_is_taken_as_itk_takes_it(tmp_path):
    path = tmp_path / "s.nrrd"
    nrrd.write(str(path), np.zeros((10, 11, 12), np.int16), {"spacings": [0.7, 0.8, 2.5]})
    image = sitk.ReadImage(str(path))
    geometry = read_geometry(path)
    np.testing.assert_allclose(geometry.spacing_mm, image.GetSpacing())
    corner = np.array(image.TransformIndexToPhysicalPoint((9, 10, 11))) * (-1, -1, 1)
    np.testing.assert_allclose(geometry.ijk_to_ras((9, 10, 11)), corner)


def test_unknown_space_is_named(tmp_path):
    header = {"space": "left-posterior-superior-time", "space directions": np.eye(4), "space origin": [0, 0, 0, 0]}
    nrrd.write(str(tmp_path / "s.nrrd"), np.zeros((4, 5, 6, 7), np.int16), header)
    with pytest.raises(InputError, match=r"s\.nrrd"):
        read_geometry(tmp_path / "s.nrrd")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "f4", "u1"])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_encodings(tmp_path, encoding, dtype, suffix, rng):
    values = rng.integers(0, 200, size=(10, 11, 12)).astype(dtype)
    path = tmp_path / f"s{suffix}"
    header = {"encoding": encoding, "space": "LPS", "space directions": DIRECTIONS, "space origin": [0, 0, 0]}
    nrrd.write(str(path), values, header)
    image_hu = read_volume(path).image_hu
    assert image_hu.dtype == np.int16
    np.testing.assert_array_equal(image_hu, values)


def test_skipped_bytes_and_lines(tmp_path, rng):
    values = rng.integers(0, 200, size=(10, 11, 12)).astype("<i2")
    (tmp_path / "s.raw").write_bytes(b"a line\n12345" + values.tobytes(order="F"))
    (tmp_path / "s.nhdr").write_text(
        "NRRD0004\n# a comment\ntype: short\ndimension: 3\nsizes: 10 11 12\nspacings: 1 2 3\nendian: little\n"
        "encoding: raw\nline skip: 1\nbyte skip: 5\ndata file: s.raw\n\n"
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "s.nhdr").image_hu, values)


def test_several_data_files_are_refused(tmp_path):
    (tmp_path / "s.nhdr").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 1 1 2\nendian: little\nencoding: raw\n"
        "data file: s%02d.raw 0 1 1\n\n"
    )
    with pytest.raises(InputError, match="several files"):
        read_volume(tmp_path / "s.nhdr")


def segmentation(path, layers, fields, axis_first=True):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.vstack([[np.nan] * 3, DIRECTIONS] if axis_first else [DIRECTIONS]),
        "space origin": [1.0, 2.0, 3.0],
        "kinds": ["list", "domain", "domain", "domain"] if axis_first else ["domain"] * 3,
        **fields,
    }
    nrrd.write(str(path), layers, header)


def test_layered_segmentation_of_slicer(tmp_path, caplog):
    layers = np.zeros((2, 10, 11, 12), np.uint8)
    layers[0, 1:4, 2:5, 3:6] = 1
    layers[0, 7, 7, 7] = 2
    layers[1, 3:6, 2:5, 3:6] = 1
    fields = {}
    for n, (name, value, layer) in enumerate([("first", 1, 0), ("second", 2, 0), ("third", 1, 1)]):
        fields |= {
            f"Segment{n}_ID": f"S{n}",
            f"Segment{n}_Name": name,
            f"Segment{n}_LabelValue": str(value),
            f"Segment{n}_Layer": str(layer),
            f"Segment{n}_Color": f"0.{n} 0.5 1",
        }
    segmentation(tmp_path / "m.seg.nrrd", layers, fields)
    label_map = read_label_map(tmp_path / "m.seg.nrrd")
    assert label_map.label_names == {"first": 1, "second": 2, "third": 3}
    assert label_map.segments[2].colour_rgb == (0.2, 0.5, 1.0)
    expected = np.zeros((10, 11, 12), int)
    expected[layers[0] == 1] = 1
    expected[layers[0] == 2] = 2
    expected[layers[1] == 1] = 3
    np.testing.assert_array_equal(label_map.labels, expected)
    assert "segments overlap in 9 voxels" in caplog.text
    np.testing.assert_allclose(label_map.geometry.spacing_mm, (0.7, 0.8, 2.5))


def test_segmentation_of_slicer_four_has_a_component_a_segment(tmp_path):
    layers = np.zeros((2, 10, 11, 12), np.uint8)
    layers[0, 1, 1, 1] = layers[1, 2, 2, 2] = 1
    fields = {"Segment0_ID": "a", "Segment0_Name": "A", "Segment1_ID": "b", "Segment1_Name": "B"}
    segmentation(tmp_path / "m.seg.nrrd", layers, fields)
    label_map = read_label_map(tmp_path / "m.seg.nrrd")
    assert label_map.label_names == {"A": 1, "B": 2}
    assert (label_map.labels[1, 1, 1], label_map.labels[2, 2, 2]) == (1, 2)


def test_segment_in_a_layer_that_is_not_there(tmp_path):
    fields = {"Segment0_ID": "a", "Segment0_Name": "A", "Segment0_Layer": "5"}
    segmentation(tmp_path / "m.seg.nrrd", np.zeros((2, 10, 11, 12), np.uint8), fields)
    with pytest.raises(InputError, match="segment 'A' is in layer 5 of 2"):
        read_label_map(tmp_path / "m.seg.nrrd")


def test_components_without_names_are_refused(tmp_path):
    segmentation(tmp_path / "m.nrrd", np.zeros((2, 10, 11, 12), np.uint8), {})
    with pytest.raises(InputError, match="2 values a voxel and no segment names"):
        read_label_map(tmp_path / "m.nrrd")


def test_header_fields_slicer_needs(geometry):
    labels = np.zeros(geometry.shape_ijk, np.uint8)
    labels[1, 2, 3] = 2
    segments = (
        Segment(value=1, name="two\nlines", colour_rgb=(1, 0, 0)),
        Segment(value=2, name="Knoten · ü", colour_rgb=(0.25, 0.5, 1)),
    )
    encoded = encode_label_map_nrrd(LabelMap(geometry=geometry, labels=labels, segments=segments))
    header, voxels = encoded.split(b"\n\n", 1)
    fields = nrrd.read_header(header.decode().split("\n"))
    assert fields["Segment0_Name"] == "two lines"
    assert fields["Segment0_Color"] == "1 0 0"
    assert fields["Segment1_Name"] == "Knoten · ü"
    assert fields["Segment1_Color"] == "0.25 0.5 1"
    assert fields["Segment1_LabelValue"] == "2"
    assert fields["Segment1_Extent"] == "0 9 0 10 0 11"
    assert fields["Segment1_Layer"] == fields["Segment1_NameAutoGenerated"] == "0"
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert "Segment2_ID" not in fields
    assert np.frombuffer(gzip.decompress(voxels), np.uint8).reshape(12, 11, 10).T[1, 2, 3] == 2


def plain(path, *lines, values=None, encoding="raw", stored=None):
    values = np.arange(10 * 11 * 12, dtype="<i2").reshape((10, 11, 12), order="F") if values is None else values
    head = ["NRRD0005", "type: short", "dimension: 3", "sizes: 10 11 12", "endian: little", f"encoding: {encoding}"]
    content = values.tobytes(order="F") if stored is None else stored
    path.write_bytes(("\n".join([*head, *lines]) + "\n\n").encode() + content)
    return path


@pytest.mark.parametrize(
    ("centres", "first"),
    [
        ((), (-10.35, 19.6, 31.25)),
        (("centers: node node node",), (-10.0, 20.0, 30.0)),
        (("centerings: cell node ???",), (-10.35, 20.0, 31.25)),
    ],
)
def test_minima_without_a_space_place_the_first_voxel(tmp_path, centres, first):
    path = plain(tmp_path / "s.nrrd", "spacings: 0.7 0.8 2.5", "axis mins: 10 -20 30", *centres)
    geometry = read_geometry(path)
    np.testing.assert_allclose(geometry.origin_ras_mm, first)
    np.testing.assert_allclose(np.diag(geometry.affine_ijk_to_ras_mm)[:3], (-0.7, -0.8, 2.5))
    assert read_label_map(plain(path, "axismins: 10 -20 30", *centres, "spacings: 0.7 0.8 2.5")).geometry.is_same_grid(
        geometry
    )


def test_the_advice_for_minima_and_maxima_works(tmp_path):
    extremes = ("axis mins: 10 -20 30", "axis maxs: 17 -11.2 60")
    with pytest.raises(InputError, match=r"'spacings: 0\.7 0\.8 2\.5'"):
        read_geometry(plain(tmp_path / "s.nrrd", *extremes))
    geometry = read_geometry(plain(tmp_path / "s.nrrd", *extremes, "spacings: 0.7 0.8 2.5"))
    assert geometry.spacing_mm == pytest.approx((0.7, 0.8, 2.5))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("axis mins: 1 nan 3", "spacings: 1 2 3"), "'axis mins' for some of its axes only"),
        (("space: LPS", "spacings: 1 2 3"), r"also 'spacings', which 3D Slicer does not open\. State .*remove"),
        (("space directions: (1,0,0) (0,1,0) (0,0,1)",), r"no 'space'; 3D Slicer does not open it\. State the space"),
        (("space: LPS", "space directions: (1,0,0) none (0,0,1)"), "no 'space directions' of three numbers for each"),
        (("space: LPS", "space directions: (1,0,0) (0.3,1,0) (0,0,1)"), r"s\.nrrd has axes that are not at right ang"),
        (("space: RAS", "kinds: domain domain list"), "has 2 axes in space"),
        (("encoding: zrl",), "damaged NRRD header"),
        (("byte skip: -2",), "'byte skip: -2'"),
        (("line skip: -1",), "'line skip: -1'"),
    ],
)
def test_what_cannot_be_where_slicer_is_says_why(tmp_path, lines, said):
    with pytest.raises(InputError, match=said):
        read_volume(plain(tmp_path / "s.nrrd", *lines))


def test_what_slicer_assumes_is_noted(tmp_path):
    assert read_volume(plain(tmp_path / "s.nrrd", "space: RAS", f"space directions: {AXES}")).notes == ()
    for lines, said in (
        ((), "states no voxel size"),
        (("space: scanner-xyz", f"space directions: {AXES}"), "names no directions of the patient: taken as LPS"),
        (("space: LPS", f"space directions: {AXES}", 'space units: "cm" "cm" "cm"'), "states its lengths in cm"),
    ):
        assert any(said in note for note in read_volume(plain(tmp_path / "s.nrrd", *lines)).notes)


AXES = "(0.7,0,0) (0,0.8,0) (0,0,2.5)"


def test_any_spelling_of_a_field_is_read(tmp_path):
    path = plain(tmp_path / "s.nrrd", "SPACE: ras", f"Space Directions: {AXES}", "spaceorigin: (1,2,3)", "Case ID:=A b")
    np.testing.assert_allclose(read_geometry(path).origin_ras_mm, (1, 2, 3))


@pytest.mark.parametrize("first", ["LIST", "LIST 2"])
def test_a_list_of_data_files_is_named(tmp_path, first):
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 1 1 2\nendian: little\nencoding: raw\n"
    (tmp_path / "s.nhdr").write_text(f"{text}data file: {first}\na.raw\nb.raw\n")
    with pytest.raises(
        InputError, match=r"s\.nhdr spreads its voxels over several files .*Open it in 3D Slicer and sa"
    ):
        read_volume(tmp_path / "s.nhdr")


def test_hexadecimal_voxels(tmp_path, rng):
    values = rng.integers(-1000, 1000, size=(10, 11, 12)).astype("<i2")
    digits = values.tobytes(order="F").hex()
    path = plain(tmp_path / "s.nrrd", encoding="hex", stored="\n".join([digits[:1000], digits[1000:]]).encode())
    np.testing.assert_array_equal(read_volume(path).image_hu, values)
    for stored, said in ((digits[:-2], "truncated"), ("xy" + digits[2:], "are no hex")):
        with pytest.raises(InputError, match=said):
            read_volume(plain(path, encoding="hex", stored=stored.encode()))


@pytest.mark.parametrize("encoding", ["gzip", "bzip2", "raw"])
def test_the_voxels_are_the_last_bytes_where_the_header_says_so(tmp_path, encoding, rng):
    values = rng.integers(-1000, 1000, size=(10, 11, 12)).astype("<i2")
    stored = b"something before" + values.tobytes(order="F")
    packed = {"gzip": gzip.compress, "bzip2": bz2.compress, "raw": bytes}[encoding](stored)
    path = plain(tmp_path / "s.nrrd", "byte skip: -1", encoding=encoding, stored=packed)
    np.testing.assert_array_equal(read_volume(path).image_hu, values)


def test_text_that_ends_early_or_is_none(tmp_path):
    numbers = " ".join(str(n) for n in range(10 * 11 * 12 - 1))
    for stored, said in ((numbers, "truncated"), (numbers + " x", "are no text"), (numbers + ",5 6", "are no text")):
        with pytest.raises(InputError, match=said):
            read_volume(plain(tmp_path / "s.nrrd", encoding="text", stored=stored.encode()))
