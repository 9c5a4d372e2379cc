"""What 3D Slicer itself does with replies and submissions: the facts that the server's answers are built on.

No server here. Where one of these fails after an update of slicer-core, the shape of our replies must be thought over.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.support.scan_factory import GRID_NAMES, make_scan, named_geometry, right_handed, rotation, write_file
from tests.support.slicer_client import SlicerError, SlicerScene

from medai.geometry import IndexBox, VolumeGeometry
from medai.geometry.frames import points_ras_to_lps

pytestmark = pytest.mark.slicer
BOX_A = IndexBox(start_ijk=(10, 20, 30), stop_ijk=(15, 27, 33))
BOX_B = IndexBox(start_ijk=(40, 41, 42), stop_ijk=(44, 47, 50))


@pytest.fixture(params=GRID_NAMES)
def geometry(request: pytest.FixtureRequest) -> VolumeGeometry:
    return named_geometry(request.param)


@pytest.fixture
def scan_path(geometry: VolumeGeometry, tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    write_file(np.zeros(geometry.shape_ijk, dtype=np.int16), geometry, path)
    return path


def _mask(boxes: dict[int, IndexBox]) -> np.ndarray:
    labels = np.zeros(named_geometry("axial").shape_ijk, dtype=np.uint8)
    for value, box in boxes.items():
        labels[box.slices] = value
    return labels


def _reply(scene: SlicerScene, scan_path: Path, boxes: dict[int, IndexBox]) -> Path:
    geometry = scene.load_volume(scan_path)
    path = scan_path.with_name("reply.nrrd")
    write_file(_mask(boxes), geometry, path)
    return path


def test_label_value_k_becomes_the_kth_name_and_an_absent_value_an_empty_segment(
    slicer_scene: SlicerScene, geometry: VolumeGeometry, scan_path: Path
) -> None:
    reply = _reply(slicer_scene, scan_path, {1: BOX_A, 3: BOX_B})
    slicer_scene.import_mask(reply, ["first", "second", "third"])
    assert slicer_scene.segment_names() == ["first", "second", "third"]
    assert np.array_equal(slicer_scene.segment_mask("first", geometry), _mask({1: BOX_A}) > 0)
    assert np.array_equal(slicer_scene.segment_mask("third", geometry), _mask({1: BOX_B}) > 0)
    assert len(slicer_scene.segment_points_ras_mm("second")) == 0


def test_a_value_beyond_the_names_is_lost(slicer_scene: SlicerScene, scan_path: Path) -> None:
    slicer_scene.import_mask(_reply(slicer_scene, scan_path, {1: BOX_A, 2: BOX_B}), ["only"])
    assert slicer_scene.segment_names() == ["only"]
    assert len(slicer_scene.segment_points_ras_mm("only")) == np.prod(BOX_A.shape_ijk)


def test_a_reply_replaces_the_segment_of_its_name_and_leaves_the_others(
    slicer_scene: SlicerScene, geometry: VolumeGeometry, scan_path: Path
) -> None:
    first = _reply(slicer_scene, scan_path, {1: BOX_A})
    second = first.with_name("second.nrrd")
    slicer_scene.load_volume(scan_path)
    write_file(_mask({1: BOX_B}), geometry, second)
    slicer_scene.add_empty_segments(["kept", "clicked"])
    slicer_scene.import_mask(first, ["kept"])
    slicer_scene.import_mask(first, ["clicked"])
    assert np.array_equal(slicer_scene.segment_mask("kept", geometry), _mask({1: BOX_A}) > 0)
    slicer_scene.import_mask(second, ["clicked"])
    assert np.array_equal(slicer_scene.segment_mask("kept", geometry), _mask({1: BOX_A}) > 0)
    assert np.array_equal(slicer_scene.segment_mask("clicked", geometry), _mask({1: BOX_B}) > 0)


def test_submitted_values_run_over_the_saved_segments_while_idx_counts_all(
    slicer_scene: SlicerScene, scan_path: Path, geometry: VolumeGeometry, tmp_path: Path
) -> None:
    slicer_scene.load_volume(scan_path)
    slicer_scene.add_empty_segments(["background"])
    slicer_scene.add_scribbles()
    slicer_scene.add_empty_segments(["nodule", "empty", "other"])
    slicer_scene.paint("foreground_scribbles", BOX_B)
    slicer_scene.paint("nodule", BOX_A)
    slicer_scene.paint("other", BOX_B)
    info = slicer_scene.export_label(tmp_path / "submitted.nii.gz")
    assert info == [{"name": "nodule", "idx": 4}, {"name": "empty", "idx": 5}, {"name": "other", "idx": 6}]
    submitted = nibabel.load(tmp_path / "submitted.nii.gz")
    assert np.array_equal(np.asarray(submitted.dataobj), _mask({1: BOX_A, 3: BOX_B}))
    assert np.allclose(submitted.affine, geometry.affine_ijk_to_ras_mm, atol=1e-4)


def test_painting_and_erasing_change_exactly_those_voxels(
    slicer_scene: SlicerScene, geometry: VolumeGeometry, scan_path: Path
) -> None:
    slicer_scene.import_mask(_reply(slicer_scene, scan_path, {1: BOX_A}), ["nodule"])
    grown = IndexBox(start_ijk=(14, 26, 32), stop_ijk=(18, 30, 35))
    hole = IndexBox(start_ijk=(11, 21, 30), stop_ijk=(13, 23, 32))
    slicer_scene.paint("nodule", grown)
    slicer_scene.erase("nodule", hole)
    expected = _mask({1: BOX_A}) + _mask({1: grown}) > 0
    expected[hole.slices] = False
    assert np.array_equal(slicer_scene.segment_mask("nodule", geometry), expected)


def test_a_point_on_a_voxel_is_sent_as_that_voxel(
    slicer_scene: SlicerScene, geometry: VolumeGeometry, scan_path: Path
) -> None:
    slicer_scene.load_volume(scan_path)
    voxels = np.array([[0, 0, 0], [95, 89, 59], [12, 57, 33]])
    jitter = np.array([[0.4, -0.4, 0.4], [-0.4, 0.4, 0.3], [0.1, 0.2, -0.45]])
    assert slicer_scene.points_to_ijk(geometry.ijk_to_ras(voxels + jitter)) == voxels.tolist()


def test_a_roi_is_sent_unsorted_where_axes_flip(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    geometry = named_geometry("flipped")
    path = tmp_path / "scan.nii.gz"
    write_file(np.zeros(geometry.shape_ijk, dtype=np.int16), geometry, path)
    slicer_scene.load_volume(path)
    centre = geometry.ijk_to_ras([30, 40, 25])
    assert slicer_scene.roi_to_ijk(centre, [16.0, 21.0, 30.0]) == [26, 34, 45, 35, 30, 20]


def test_a_box_along_an_oblique_grid_keeps_its_place_its_axes_and_its_words(
    slicer_scene: SlicerScene, tmp_path: Path
) -> None:
    axes_ras = rotation((14.0, -9.0, 21.0))
    centre_ras_mm = np.array([31.0, -48.0, -120.0])
    axes_lps = np.diag([-1.0, -1.0, 1.0]) @ axes_ras
    centre_lps_mm = points_ras_to_lps(centre_ras_mm).tolist()
    markup = {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "roiType": "Box",
        "center": centre_lps_mm,
        "orientation": axes_lps.ravel().tolist(),
        "size": [8.0, 9.0, 10.0],
        "controlPoints": [{"id": "1", "label": "N1", "description": "solid", "position": centre_lps_mm}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": [markup, markup]}))
    boxes = slicer_scene.load_markups(path)
    assert [box.name for box in boxes] == ["Detection ROI - 0", "Detection ROI - 1"]
    for box in boxes:
        assert np.allclose(box.centre_ras_mm, centre_ras_mm)
        assert np.allclose(box.axes_ras, axes_ras)
        assert np.allclose(box.size_mm, [8.0, 9.0, 10.0])
        assert (box.labels, box.descriptions) == (["N1"], ["solid"])


def test_trouble_in_slicer_reaches_the_test(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nrrd"
    broken.write_text("not an image")
    with pytest.raises(SlicerError, match="load_volume"):
        slicer_scene.load_volume(broken)
    assert slicer_scene.versions()["vtk"].startswith("9.")


def test_a_left_handed_scan_is_loaded_with_its_slices_in_reverse(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    geometry = named_geometry("mirrored")
    image_hu = np.arange(np.prod(geometry.shape_ijk), dtype=np.int32).reshape(geometry.shape_ijk) % 3000
    path = tmp_path / "scan.nii.gz"
    write_file(image_hu.astype(np.int16), geometry, path)
    loaded = slicer_scene.load_volume(path)
    assert np.array_equal(slicer_scene.volume_array(), image_hu[:, :, ::-1])
    last_k = geometry.shape_ijk[2] - 1
    # The same place in the patient is another voxel index: this is what a click on such a scan sends.
    assert np.allclose(loaded.ijk_to_ras([12, 57, 20]), geometry.ijk_to_ras([12, 57, last_k - 20]), atol=1e-3)
    assert slicer_scene.points_to_ijk([geometry.ijk_to_ras([12, 57, last_k - 20])]) == [[12, 57, 20]]
    assert loaded.is_same_grid(right_handed(geometry))
    slicer_scene.add_empty_segments(["nodule"])
    slicer_scene.paint("nodule", BOX_A)
    slicer_scene.export_label(tmp_path / "submitted.nii.gz")
    submitted = nibabel.load(tmp_path / "submitted.nii.gz")
    assert np.allclose(submitted.affine, loaded.affine_ijk_to_ras_mm, atol=1e-3)


def test_the_synthetic_scan_has_its_nodules_where_it_says(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    scan = make_scan(named_geometry("oblique"), np.random.default_rng(5))
    path = tmp_path / "scan.nrrd"
    write_file(scan.volume.image_hu, scan.geometry, path)
    slicer_scene.load_volume(path)
    image_hu = slicer_scene.volume_array()
    for nodule in scan.nodules:
        (point,) = slicer_scene.points_to_ijk([nodule.centre_ras_mm])
        assert nodule.mask[tuple(point)]
        assert -80 < image_hu[tuple(point)] < 120
        assert (nodule.centre_ras_mm[0] > 0) == (nodule.side == "right")
