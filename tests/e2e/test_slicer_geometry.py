"""Our files and 3D Slicer's agree about where every voxel lies, for any grid and format.

A disagreement here is a mask drawn beside the nodule: the module sends voxel indices of Slicer's grid and draws the
reply where the reply's own header says. Slicer reverses k where a file's axes are left-handed; the random grids hold
both kinds, and ``right_handed`` says which grid Slicer's indices are of.
"""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.scan_factory import (
    named_geometry,
    random_geometry,
    random_labels,
    right_handed,
    rotation,
    write_file,
)
from tests.support.slicer_client import SlicerScene

from medai.domain import LabelMap, Segment, Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.geometry.frames import affine_ras_to_lps
from medai.volume_io.readers import read_geometry, read_label_map, read_volume
from medai.volume_io.writers import encode_label_map_nrrd, write_label_map, write_volume

pytestmark = pytest.mark.slicer
FORMATS = (".nii.gz", ".nrrd", ".mha")
seeds = st.integers(min_value=0, max_value=2**32 - 1)
# Each example writes a file and asks another process; the folder and the scene may be shared by all of them.
any_grid = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _random_hu(geometry: VolumeGeometry, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-1024, 3000, size=geometry.shape_ijk, dtype=np.int16)


def _assert_same_places(ours: VolumeGeometry, slicers: VolumeGeometry) -> None:
    assert ours.shape_ijk == slicers.shape_ijk
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in ours.shape_ijk])).reshape(3, -1).T
    # NIfTI stores its affine in float32; everything else is exact to far below this.
    assert np.max(np.abs(ours.ijk_to_ras(corners) - slicers.ijk_to_ras(corners))) < 1e-3


def _as_loaded(voxels: np.ndarray, geometry: VolumeGeometry) -> np.ndarray:
    """Voxels in the order of the grid as Slicer loads it."""
    return voxels if right_handed(geometry) is geometry else voxels[:, :, ::-1]


@pytest.mark.parametrize("suffix", FORMATS)
@any_grid
@given(seed=seeds)
def test_slicer_sees_a_scan_of_ours_where_we_put_it(
    slicer_scene: SlicerScene, tmp_path: Path, suffix: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng)
    image_hu = _random_hu(geometry, rng)
    path = tmp_path / f"ours{suffix}"
    write_volume(Volume(geometry=geometry, image_hu=image_hu), path)
    _assert_same_places(right_handed(geometry), slicer_scene.load_volume(path))
    assert np.array_equal(slicer_scene.volume_array(), _as_loaded(image_hu, geometry))


@pytest.mark.parametrize("suffix", FORMATS)
@any_grid
@given(seed=seeds)
def test_we_see_a_scan_where_slicer_sees_it(slicer_scene: SlicerScene, tmp_path: Path, suffix: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng)
    path = tmp_path / f"theirs{suffix}"
    write_file(_random_hu(geometry, rng), geometry, path)
    ours = read_volume(path)
    slicers = slicer_scene.load_volume(path)
    _assert_same_places(right_handed(ours.geometry), slicers)
    _assert_same_places(right_handed(read_geometry(path)), slicers)
    assert np.array_equal(_as_loaded(ours.image_hu, geometry), slicer_scene.volume_array())
    voxels = rng.integers(0, geometry.shape_ijk, size=(20, 3))
    assert slicer_scene.points_to_ijk(right_handed(ours.geometry).ijk_to_ras(voxels)) == voxels.tolist()


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".nii.gz"])
@any_grid
@given(seed=seeds)
def test_slicer_draws_our_labels_on_the_very_voxels(
    slicer_scene: SlicerScene, tmp_path: Path, suffix: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng)
    scan_path = tmp_path / "scan.nrrd"
    write_file(_random_hu(geometry, rng), geometry, scan_path)
    labels = random_labels(geometry, (1, 3), rng)
    names = ("first", "absent", "third")
    label_map = LabelMap(
        geometry=geometry,
        labels=labels,
        segments=tuple(Segment(value=n, name=name) for n, name in enumerate(names, 1)),
    )
    path = tmp_path / f"labels{suffix}"
    write_label_map(label_map, path)
    slicer_scene.load_volume(scan_path)
    slicer_scene.import_mask(path, names)
    assert slicer_scene.segment_names() == list(names)
    for value, name in enumerate(names, 1):
        assert np.array_equal(slicer_scene.segment_mask(name, geometry), labels == value)


@any_grid
@given(seed=seeds)
def test_the_reply_to_a_click_opens_as_a_segmentation_with_its_names_and_colours(
    slicer_scene: SlicerScene, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng)
    scan_path = tmp_path / "scan.nrrd"
    write_file(_random_hu(geometry, rng), geometry, scan_path)
    labels = random_labels(geometry, (1, 2), rng)
    segments = (
        Segment(value=1, name="Nodule 1 · 8.2 mm solid · right", colour_rgb=(0.2, 0.4, 0.6)),
        Segment(value=2, name="Nodule 2 · 5.0 mm part-solid · left", colour_rgb=(0.9, 0.1, 0.3)),
    )
    path = tmp_path / "reply.seg.nrrd"
    path.write_bytes(encode_label_map_nrrd(LabelMap(geometry=geometry, labels=labels, segments=segments)))
    slicer_scene.load_volume(scan_path)
    slicer_scene.load_segmentation(path)
    shown = slicer_scene.segments()
    assert [s.name for s in shown] == [s.name for s in segments]
    assert np.allclose([s.colour_rgb for s in shown], [s.colour_rgb for s in segments], atol=1e-4)
    for segment in segments:
        assert np.array_equal(slicer_scene.segment_mask(segment.name, geometry), labels == segment.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
@any_grid
@given(seed=seeds)
def test_we_read_what_slicer_saves_on_the_very_voxels(
    slicer_scene: SlicerScene, tmp_path: Path, suffix: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng)
    path = tmp_path / "scan.nrrd"
    write_file(_random_hu(geometry, rng), geometry, path)
    labels = random_labels(geometry, (1, 2), rng)
    drawn_path = tmp_path / "drawn.nrrd"
    write_file(labels, geometry, drawn_path)
    slicer_scene.load_volume(path)
    slicer_scene.import_mask(drawn_path, ["nodule", "other"])
    saved_path = tmp_path / f"saved{suffix}"
    info = slicer_scene.export_label(saved_path)
    saved = read_label_map(saved_path)
    _assert_same_places(right_handed(geometry), saved.geometry)
    assert np.array_equal(saved.labels, _as_loaded(labels, geometry))
    assert info == [{"name": "nodule", "idx": 1}, {"name": "other", "idx": 2}]
    if suffix == ".seg.nrrd":
        assert saved.label_names == {"nodule": 1, "other": 2}


def test_a_small_segment_saved_by_slicer_comes_back_on_the_whole_grid(
    slicer_scene: SlicerScene, tmp_path: Path
) -> None:
    geometry = named_geometry("oblique")
    path = tmp_path / "scan.nii.gz"
    write_file(np.zeros(geometry.shape_ijk, dtype=np.int16), geometry, path)
    slicer_scene.load_volume(path)
    slicer_scene.add_empty_segments(["nodule", "never drawn"])
    box = IndexBox(start_ijk=(40, 41, 20), stop_ijk=(46, 44, 22))
    slicer_scene.paint("nodule", box)
    saved_path = tmp_path / "saved.seg.nrrd"
    slicer_scene.export_label(saved_path)
    saved = read_label_map(saved_path)
    value = saved.label_names["nodule"]
    expected = geometry.ijk_to_ras(np.argwhere(np.ones(box.shape_ijk)) + box.start_ijk)
    assert np.allclose(saved.geometry.ijk_to_ras(np.argwhere(saved.labels == value)), expected, atol=1e-3)


def test_overlapping_segments_saved_by_slicer_keep_both_names(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    geometry = named_geometry("flipped")
    path = tmp_path / "scan.nrrd"
    write_file(np.zeros(geometry.shape_ijk, dtype=np.int16), geometry, path)
    slicer_scene.load_volume(path)
    boxes = {
        "nodule": IndexBox(start_ijk=(40, 41, 20), stop_ijk=(46, 47, 26)),
        "other": IndexBox(start_ijk=(43, 44, 23), stop_ijk=(50, 50, 30)),
    }
    for name, box in boxes.items():
        mask = np.zeros(geometry.shape_ijk, dtype=np.uint8)
        mask[box.slices] = 1
        write_file(mask, geometry, tmp_path / "one.nrrd")
        slicer_scene.import_mask(tmp_path / "one.nrrd", [name])
    saved_path = tmp_path / "saved.seg.nrrd"
    slicer_scene.export_label(saved_path)
    saved = read_label_map(saved_path)
    assert list(saved.label_names) == ["nodule", "other"]
    shared = boxes["nodule"].intersect(boxes["other"])
    other = np.count_nonzero(saved.labels == saved.label_names["other"])
    nodule = np.count_nonzero(saved.labels == saved.label_names["nodule"])
    # The later segment has the voxels that both claim, as in Slicer's own export.
    assert other == np.prod(boxes["other"].shape_ijk)
    assert nodule == np.prod(boxes["nodule"].shape_ijk) - np.prod(shared.shape_ijk)


def _nifti(path: Path, *, sform: np.ndarray | None, qform: np.ndarray | None) -> None:
    voxels = np.arange(10 * 11 * 12, dtype=np.int16).reshape(10, 11, 12)
    image = nibabel.Nifti1Image(voxels, sform if qform is None else qform)
    image.header.set_xyzt_units("mm")
    image.set_sform(sform, code=0 if sform is None else 1)
    image.set_qform(qform, code=0 if qform is None else 1)
    nibabel.save(image, path)


@pytest.mark.parametrize("forms", ["sform only", "qform only", "both the same", "both, apart"])
def test_nifti_headers_with_one_or_two_affines_are_read_as_slicer_reads_them(
    slicer_scene: SlicerScene, tmp_path: Path, forms: str
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation((10.0, -20.0, 30.0)) @ np.diag([-0.7, -0.8, 1.5])
    affine[:3, 3] = (50.0, -60.0, 70.0)
    apart = affine.copy()
    apart[:3, 3] += (5.0, 6.0, 7.0)
    sform = None if forms == "qform only" else affine
    qform = None if forms == "sform only" else apart if forms == "both, apart" else affine
    path = tmp_path / "scan.nii.gz"
    _nifti(path, sform=sform, qform=qform)
    _assert_same_places(right_handed(read_geometry(path)), slicer_scene.load_volume(path))


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior"])
def test_nrrd_spaces_are_read_as_slicer_reads_them(slicer_scene: SlicerScene, tmp_path: Path, space: str) -> None:
    directions = affine_ras_to_lps(named_geometry("oblique").affine_ijk_to_ras_mm)[:3, :3].T
    path = tmp_path / "scan.nrrd"
    header = {"space": space, "space directions": directions, "space origin": [11.0, -22.0, 33.0]}
    nrrd.write(str(path), np.arange(10 * 11 * 12, dtype=np.int16).reshape(10, 11, 12), header)
    _assert_same_places(right_handed(read_geometry(path)), slicer_scene.load_volume(path))


def test_stored_values_are_rescaled_as_slicer_rescales_them(slicer_scene: SlicerScene, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(np.arange(10 * 11 * 12, dtype=np.uint16).reshape(10, 11, 12), np.eye(4))
    image.header.set_slope_inter(1.0, -1024.0)
    nibabel.save(image, path)
    slicer_scene.load_volume(path)
    assert np.array_equal(read_volume(path).image_hu, slicer_scene.volume_array())
