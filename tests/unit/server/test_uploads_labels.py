"""Labels as clients send them: what is stored, and what is refused with nothing changed.

Files are written with nibabel and pynrrd, not with the product's own writers.
"""

import json

import nibabel as nib
import nrrd
import numpy as np
import pytest

from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.server.uploads import UploadLimits, check_label_upload
from medai.store.study import StudyStore
from medai.volume_io.options import ReadBudget

SHAPE = (10, 11, 12)


def affine(kind):
    rotation = np.eye(3)
    if kind == "oblique":
        a, b = np.deg2rad((20, -12))
        rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
            [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
        )
    if kind == "flipped":
        rotation = np.diag([-1.0, -1.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * (0.7, 0.8, 1.5)
    matrix[:3, 3] = (-31.5, 12.25, -140.0)
    return matrix


@pytest.fixture(params=["axial", "oblique", "flipped"])
def scan(request):
    return VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine(request.param))


@pytest.fixture
def axial():
    return VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine("axial"))


@pytest.fixture
def labels():
    """Three segments, the second of which has no voxel: values 1 and 3."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[1:4, 2:5, 3:6] = 1
    values[6:9, 7:10, 8:11] = 3
    return values


@pytest.fixture
def send(tmp_path):
    output = tmp_path / "output"
    output.mkdir()

    def _send(path, scan, **options):
        options = {"tag": "final", "params": {}} | options
        return check_label_upload(path, scan=scan, output_folder=output, **options)

    return _send


def nifti(path, values, matrix):
    image = nib.Nifti1Image(values, matrix)
    image.set_sform(matrix, 1)
    nib.save(image, path)
    return path


def seg_nrrd(path, layers, matrix, segments):
    """As 3D Slicer saves a segmentation: layers first, LPS, one group of header fields a segment."""
    lps = np.diag([-1, -1, 1, 1]) @ matrix
    header = {
        "space": "left-posterior-superior",
        "space directions": np.vstack([np.full(3, np.nan), lps[:3, :3].T]),
        "space origin": lps[:3, 3],
        "kinds": ["list", "domain", "domain", "domain"],
        "encoding": "gzip",
    }
    for n, (name, value, layer) in enumerate(segments):
        header |= {f"Segment{n}_ID": f"S{n}", f"Segment{n}_Name": name}
        header |= {f"Segment{n}_LabelValue": str(value), f"Segment{n}_Layer": str(layer)}
    nrrd.write(str(path), np.stack(layers), header)
    return path


def stored(checked):
    image = nib.load(checked.path)
    return np.asarray(image.dataobj), image.affine


INFO = [{"name": "Nodule 1", "idx": 1}, {"name": "Nodule 2", "idx": 3}, {"name": "Lung", "idx": 4}]


class TestNames:
    def test_idx_is_not_the_value_and_empty_segments_are_left_out(self, send, scan, labels, tmp_path):
        """Scribbles sat between: idx 1, 3, 4 for the values 1, 2, 3; "Nodule 2" has no voxel."""
        path = nifti(tmp_path / "u.nii.gz", labels, scan.affine_ijk_to_ras_mm)
        checked = send(path, scan, params={"label_info": INFO, "client_id": "u"})
        values, matrix = stored(checked)
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(values, np.where(labels == 3, 2, labels))
        np.testing.assert_allclose(matrix, scan.affine_ijk_to_ras_mm, atol=1e-4)
        assert checked.info["label_info"] == [{"name": "Nodule 1", "idx": 1}, {"name": "Lung", "idx": 2}]
        assert checked.info["label_names"] == {"Nodule 1": 1, "Lung": 2}
        assert (checked.info["client_id"], checked.info["no_findings"], checked.tag) == ("u", False, "final")

    def test_names_follow_the_order_of_the_segments(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        info = [{"name": name, "idx": n} for n, name in enumerate(("Lung", "x", "Nodule 1"), start=2)]
        assert send(path, axial, params={"label_info": info}).info["label_names"] == {"Lung": 1, "Nodule 1": 2}

    def test_a_client_whose_idx_is_the_value_is_understood(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        for info in (
            [{"name": "A", "idx": 1}, {"name": "B", "idx": 3}],
            [{"name": "B", "idx": 3}, {"name": "A", "idx": 1}, {"name": "C", "idx": 2}],
        ):
            assert send(path, axial, params={"label_info": info}).info["label_names"] == {"A": 1, "B": 2}

    def test_values_without_names_are_refused(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        with pytest.raises(InputError, match=r"values 1, 3, but label_info names 1 segments: A \(1\)"):
            send(path, axial, params={"label_info": [{"name": "A", "idx": 1}]})

    @pytest.mark.parametrize("info", ["A", [1], [{"idx": 1}], [{"name": "A", "idx": "one"}]])
    def test_label_info_of_another_form_is_refused(self, send, axial, labels, tmp_path, info):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        with pytest.raises(InputError, match="label_info"):
            send(path, axial, params={"label_info": info})

    def test_a_name_that_occurs_twice_stays_apart(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        info = [{"name": name, "idx": n} for n, name in enumerate(("Nodule", "x", " Nodule\n"), start=1)]
        assert send(path, axial, params={"label_info": info}).info["label_names"] == {"Nodule": 1, "Nodule (2)": 2}

    def test_without_label_info_values_name_themselves(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        assert send(path, axial).info["label_names"] == {"label_1": 1, "label_3": 2}

    def test_a_stored_label_sent_again_is_the_same(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        first = send(path, axial, params={"label_info": INFO})
        again = tmp_path / "again.nii.gz"
        first.path.rename(again)
        second = send(again, axial, params={"label_info": first.info["label_info"]})
        assert second.info["label_info"] == first.info["label_info"]


class TestSegmentations:
    def test_a_segmentation_brings_its_names_and_leaves_scribbles_out(self, send, scan, labels, tmp_path):
        layers = [labels + (labels == 0) * (np.indices(SHAPE)[2] == 0) * np.uint8(2)]
        segments = [("Nodule 1", 1, 0), ("foreground_scribbles", 2, 0), ("Lung", 3, 0), ("empty", 4, 0)]
        path = seg_nrrd(tmp_path / "u.seg.nrrd", layers, scan.affine_ijk_to_ras_mm, segments)
        checked = send(path, scan, params={"label_info": [{"name": "wrong", "idx": 9}]})
        values, _ = stored(checked)
        np.testing.assert_array_equal(values, np.where(labels == 3, 2, labels))
        assert checked.path.name.endswith(".nii.gz")
        assert checked.info["label_names"] == {"Nodule 1": 1, "Lung": 2}

    def test_where_segments_overlap_the_later_one_has_the_voxel(self, send, axial, tmp_path):
        first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        first[2:7, 2:7, 2:7] = 1
        second[5:9, 5:9, 5:9] = 1
        segments = [("Lung", 1, 0), ("Nodule", 1, 1)]
        path = seg_nrrd(tmp_path / "u.seg.nrrd", [first, second], axial.affine_ijk_to_ras_mm, segments)
        values, _ = stored(send(path, axial))
        np.testing.assert_array_equal(values, np.where(second == 1, 2, first))

    def test_a_cropped_segmentation_returns_to_its_place(self, send, scan, labels, tmp_path):
        matrix = scan.affine_ijk_to_ras_mm.copy()
        matrix[:3, 3] = scan.ijk_to_ras((1, 2, 3))
        path = seg_nrrd(tmp_path / "u.seg.nrrd", [labels[1:9, 2:10, 3:11]], matrix, [("A", 1, 0), ("B", 3, 0)])
        values, _ = stored(send(path, scan))
        np.testing.assert_array_equal(values, np.where(labels == 3, 2, labels))

    def test_too_many_layers_are_refused_by_the_header(self, send, axial, labels, tmp_path):
        path = seg_nrrd(tmp_path / "u.seg.nrrd", [labels] * 3, axial.affine_ijk_to_ras_mm, [("A", 1, 0)])
        with pytest.raises(InputError, match=r"3×10×11×12 voxels of .*at most 3000 voxels"):
            send(path, axial, limits=UploadLimits(budget=ReadBudget(largest_voxels=3000)))


class TestGrid:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
    @pytest.mark.parametrize("reversed_axes", [(), (0,), (1, 2), (0, 1, 2)])
    def test_another_storage_order_of_the_same_grid_is_put_right(
        self, send, scan, labels, tmp_path, order, reversed_axes
    ):
        values = labels.transpose(order)
        matrix = scan.affine_ijk_to_ras_mm[:, [*order, 3]]
        for axis in reversed_axes:
            matrix = matrix.copy()
            matrix[:3, 3] += matrix[:3, axis] * (values.shape[axis] - 1)
            matrix[:3, axis] *= -1
            values = np.flip(values, axis)
        path = nifti(tmp_path / "u.nii.gz", np.ascontiguousarray(values), matrix)
        found, found_affine = stored(send(path, scan, params={"label_info": INFO}))
        np.testing.assert_array_equal(found, np.where(labels == 3, 2, labels))
        np.testing.assert_allclose(found_affine, scan.affine_ijk_to_ras_mm, atol=1e-4)

    @pytest.mark.parametrize(
        "change",
        [
            lambda v, m: (v[:, :, :-1], m),
            lambda v, m: (np.concatenate([v, v], axis=2), m),
            lambda v, m: (v, m @ np.diag([1, 1, 1.1, 1])),
            lambda v, m: (v, m + np.array([[0, 0, 0, 0.4]] + [[0, 0, 0, 0]] * 3)),
            lambda v, m: (v, np.eye(4)),
        ],
        ids=["a slice less", "twice the slices", "other spacing", "half a voxel off", "no position"],
    )
    def test_another_grid_is_refused_with_both_named(self, send, scan, labels, tmp_path, change):
        values, matrix = change(labels, scan.affine_ijk_to_ras_mm)
        path = nifti(tmp_path / "u.nii.gz", np.ascontiguousarray(values), matrix)
        with pytest.raises(GeometryError, match=r"Label: \d+×.* Scan: 10×11×12 voxels of 0.7×0.8×1.5 mm"):
            send(path, scan)

    def test_rounding_in_a_header_is_tolerated(self, send, scan, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, np.round(scan.affine_ijk_to_ras_mm, 4))
        _, matrix = stored(send(path, scan))
        np.testing.assert_allclose(matrix, scan.affine_ijk_to_ras_mm, atol=1e-5)

    def test_a_segmentation_of_another_scan_is_refused(self, send, axial, labels, tmp_path):
        matrix = axial.affine_ijk_to_ras_mm.copy()
        matrix[:3, 3] = axial.ijk_to_ras((6, 0, 0))
        path = seg_nrrd(tmp_path / "u.seg.nrrd", [labels], matrix, [("A", 1, 0), ("B", 3, 0)])
        with pytest.raises(GeometryError, match="27 labelled voxels lie outside the scan"):
            send(path, axial)


class TestBadFiles:
    def test_an_empty_file(self, send, axial, tmp_path):
        (tmp_path / "u.nii.gz").write_bytes(b"")
        with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
            send(tmp_path / "u.nii.gz", axial)

    @pytest.mark.parametrize("name", ["u.nii.gz", "u.nii", "u.seg.nrrd"])
    @pytest.mark.parametrize("part", [0.3, 0.9])
    def test_a_truncated_file(self, send, axial, tmp_path, name, part, rng):
        noise = rng.integers(0, 3, SHAPE, dtype=np.uint8)
        if name.endswith("nrrd"):
            path = seg_nrrd(tmp_path / name, [noise], axial.affine_ijk_to_ras_mm, [("A", 1, 0)])
        else:
            path = nifti(tmp_path / name, noise, axial.affine_ijk_to_ras_mm)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(InputError):
            send(path, axial)

    def test_bytes_that_are_no_label(self, send, axial, tmp_path):
        (tmp_path / "u.nii.gz").write_bytes(b"<html>not found</html>" * 100)
        with pytest.raises(InputError):
            send(tmp_path / "u.nii.gz", axial)

    def test_a_file_larger_than_the_limit(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii", labels, axial.affine_ijk_to_ras_mm)
        with pytest.raises(InputError, match="this server takes 0 MB"):
            send(path, axial, limits=UploadLimits(largest_bytes=100))

    def test_a_header_that_asks_for_more_memory_than_allowed(self, send, axial, tmp_path):
        image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), axial.affine_ijk_to_ras_mm)
        image.header["dim"][1:4] = (30000, 30000, 30000)
        (tmp_path / "u.nii").write_bytes(image.header.binaryblock + bytes(4) + bytes(1320))
        with pytest.raises(InputError, match=r"30000×30000×30000 voxels of .*at most"):
            send(tmp_path / "u.nii", axial)

    @pytest.mark.parametrize(
        ("value", "message"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0.5, "0.5"), (-1, "-1")]
    )
    def test_values_that_are_no_labels(self, send, axial, labels, tmp_path, value, message):
        values = labels.astype(np.float32)
        values[0, 0, 0] = value
        with pytest.raises(InputError, match=message):
            send(nifti(tmp_path / "u.nii.gz", values, axial.affine_ijk_to_ras_mm), axial)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16, np.int32])
    def test_whole_numbers_of_any_type_are_taken(self, send, axial, labels, tmp_path, dtype):
        path = nifti(tmp_path / "u.nii.gz", labels.astype(dtype), axial.affine_ijk_to_ras_mm)
        values, _ = stored(send(path, axial, params={"label_info": INFO}))
        assert values.dtype == np.uint8

    def test_the_scan_instead_of_its_label(self, send, axial, tmp_path, rng):
        values = rng.integers(0, 4000, SHAPE, dtype=np.int16)
        with pytest.raises(InputError, match="Is it the scan instead of its label"):
            send(nifti(tmp_path / "u.nii.gz", values, axial.affine_ijk_to_ras_mm), axial)

    def test_colours_instead_of_labels(self, send, axial, tmp_path):
        rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        with pytest.raises(InputError):
            send(nifti(tmp_path / "u.nii.gz", rgb, axial.affine_ijk_to_ras_mm), axial)

    def test_an_unknown_ending_and_a_bad_tag(self, send, axial, tmp_path):
        (tmp_path / "u.exe").write_bytes(b"x")
        with pytest.raises(InputError, match="must end in one of"):
            send(tmp_path / "u.exe", axial)
        with pytest.raises(InputError, match="label tag"):
            send(tmp_path / "u.exe", axial, tag="../../evil")

    def test_parameters_without_end(self, send, axial, labels, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        with pytest.raises(InputError, match="larger than the 256 KB"):
            send(path, axial, params={"note": "x" * 300_000})


class TestNothingFound:
    def test_an_empty_label_is_refused_with_the_way_to_say_it(self, send, axial, tmp_path):
        path = nifti(tmp_path / "u.nii.gz", np.zeros(SHAPE, np.uint8), axial.affine_ijk_to_ras_mm)
        with pytest.raises(InputError, match="empty segment named 'no nodules'"):
            send(path, axial, params={"label_info": [{"name": "nodule", "idx": 1}]})

    @pytest.mark.parametrize(
        "params", [{"label_info": [{"name": "No_Nodules", "idx": 1}]}, {"no_findings": True}], ids=["segment", "flag"]
    )
    def test_a_scan_without_nodules_can_be_completed(self, send, axial, tmp_path, params):
        path = nifti(tmp_path / "u.nii.gz", np.zeros(SHAPE, np.uint8), axial.affine_ijk_to_ras_mm)
        checked = send(path, axial, params=params)
        assert not stored(checked)[0].any()
        assert (checked.info["label_info"], checked.info["no_findings"]) == ([], True)


def roi(size=(10.0, 12.0, 14.0), centre=(31.0, -14.0, -135.0), label="Detection ROI - 0-1", **more):
    points = [{"id": "1", "label": label, "position": list(centre)}]
    markup = {"type": "ROI", "coordinateSystem": "LPS", "roiType": "Box", "center": list(centre), "size": list(size)}
    return {**markup, "controlPoints": points, **more}


class TestDetections:
    @pytest.fixture
    def boxes(self, tmp_path):
        def write(*markups):
            (tmp_path / "u.json").write_text(json.dumps({"@schema": "s", "markups": list(markups)}))
            return tmp_path / "u.json"

        return write

    @pytest.mark.parametrize(
        ("tag", "expected"),
        [
            ("final", "detection"),
            ("original", "detection_original"),
            ("detection", "detection"),
            ("r2", "detection_r2"),
        ],
    )
    def test_boxes_never_get_the_tag_of_a_segmentation(self, send, axial, boxes, tag, expected):
        checked = send(boxes(roi()), axial, tag=tag, params={"label_info": [], "client_id": "u"})
        assert checked.tag == expected
        assert (checked.info["detections"], checked.info["client_id"]) == (1, "u")

    def test_prompts_of_tools_and_boxes_without_extent_are_dropped(self, send, axial, boxes):
        path = boxes(
            roi(),
            {"type": "ROI", "controlPoints": []},
            roi(size=(0, 0, 0)),
            roi(size=(5, 0, 5)),
            roi(label="SAM2 ROI-1"),
            roi(label="Scribbles ROI-1"),
            {"type": "Fiducial", "controlPoints": []},
            roi(centre=(-31.0, 14.0, -135.0), coordinateSystem="RAS"),
        )
        checked = send(path, axial)
        assert json.loads(checked.path.read_text()) == {
            "@schema": "s",
            "markups": [roi(), roi(centre=(-31.0, 14.0, -135.0), coordinateSystem="RAS")],
        }

    @pytest.mark.parametrize(
        ("markup", "message"),
        [
            (roi(size=(0, 0, 0)), "None of the 1 markups is a box with an extent"),
            (roi(centre=(310.0, 0, 0)), "outside the scan"),
            (roi(centre=(float("nan"), 0, 0)), "center is three numbers"),
            (roi(size=("a", 1, 2)), "size is three numbers"),
            (roi(coordinateSystem="IJK"), "LPS or RAS"),
            ("text", "no list of markups"),
        ],
    )
    def test_boxes_that_are_none_are_refused(self, send, axial, boxes, markup, message):
        with pytest.raises((InputError, GeometryError), match=message):
            send(boxes(markup), axial)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", "[" * 5000, '{"markups": 1}'])
    def test_a_file_that_is_no_markups_is_refused(self, send, axial, tmp_path, content):
        (tmp_path / "u.json").write_text(content)
        with pytest.raises(InputError, match=r"empty|not JSON|no list of markups"):
            send(tmp_path / "u.json", axial)

    def test_a_segmentation_stays_beside_the_boxes(self, send, axial, boxes, labels, tmp_path):
        """Stock MONAI Label: the boxes, saved as ``final``, replace the segmentation and are fed to the trainer."""
        (tmp_path / "study").mkdir()
        nifti(tmp_path / "study" / "a.nii.gz", np.zeros(SHAPE, np.int16), axial.affine_ijk_to_ras_mm)
        study = StudyStore(tmp_path / "study")
        path = nifti(tmp_path / "u.nii.gz", labels, axial.affine_ijk_to_ras_mm)
        for checked in (send(path, axial, params={"label_info": INFO}), send(boxes(roi()), axial)):
            study.save_label("a", checked.path, checked.tag, checked.info)
        assert study.label_path("a", "final").name == "a.nii.gz"
        assert study.label_path("a", "detection").name == "a.json"
