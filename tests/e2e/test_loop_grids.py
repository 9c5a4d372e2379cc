"""The annotation loop on every kind of grid: the real server, MONAI Label's own client, real 3D Slicer libraries.

Every answer and every submission is checked to the voxel in RAS: as CT comes, oblique, flipped, and left-handed (which
Slicer loads with its slices reversed, so that its voxel indices are not the file's).
"""

from pathlib import Path

import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException
from tests.support.scan_factory import GRID_NAMES, SyntheticScan, make_scan, named_geometry, right_handed, write_file
from tests.support.slicer_annotator import SlicerAnnotator
from tests.support.slicer_checks import assert_shown_as_sent, dice, stored_masks, within

from medai.active_learning.strategies import STRATEGIES
from medai.geometry import IndexBox

pytestmark = [pytest.mark.server, pytest.mark.slicer]
every_grid = pytest.mark.parametrize("case", [*GRID_NAMES, "mirrored"])
CLICK, LUNGS = "nodule_click", "lungs"


def test_the_module_can_show_what_the_server_offers(annotator: SlicerAnnotator) -> None:
    info = annotator.info
    assert annotator.models("segmentation", "detection")[0] == "nodule_segmentation"
    # What the module runs unasked on a new case.
    assert annotator.auto_model() == "nodule_segmentation"
    assert annotator.models("deepgrow", "deepedit") == [CLICK]
    assert LUNGS in annotator.models("segmentation")
    assert annotator.models("detection") == ["nodule_detection"]
    assert annotator.models("scribbles")
    assert list(info["trainers"]) == ["nodule_click", "nodule_detection", "nodule_classification"]
    assert list(info["strategies"]) == list(STRATEGIES)
    assert info["models"][CLICK]["dimension"] == 3
    for section in ("models", "trainers", "strategies"):
        for entry in info[section].values():
            assert entry["description"]
            for value in entry.get("config", {}).values():
                # The options table knows texts, numbers, ticks, and lists of texts.
                assert isinstance(value, str | int | float | bool | list)
                assert not isinstance(value, list) or (value and all(isinstance(item, str) for item in value))


@every_grid
def test_click_edit_submit(annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str) -> None:
    scan, nodule = scans[case], scans[case].nodules[0]
    annotator.open_case(study, case)
    assert annotator.scene.segment_names() == annotator.info["labels"]
    reply = annotator.click(CLICK, "nodule", [nodule.centre_ras_mm])
    assert_shown_as_sent(annotator, reply, "nodule", 1, scan.geometry)
    outlined = annotator.scene.segment_mask("nodule", scan.geometry)
    assert dice(outlined, nodule.mask) > 0.6
    centroid = annotator.scene.segment_points_ras_mm("nodule").mean(axis=0)
    assert np.linalg.norm(centroid - nodule.centre_ras_mm) < 3.0

    # Boxes of the brush are in Slicer's own indices; the mask is compared through RAS.
    (i, j, k), *_ = annotator.scene.points_to_ijk([nodule.centre_ras_mm])
    bump = IndexBox(start_ijk=(i + 4, j, k), stop_ijk=(i + 9, j + 2, k + 1))
    hole = IndexBox(start_ijk=(i - 1, j - 1, k), stop_ijk=(i + 1, j + 1, k + 1))
    annotator.scene.paint("nodule", bump)
    annotator.scene.erase("nodule", hole)
    edited = annotator.scene.segment_mask("nodule", scan.geometry)
    assert edited.sum() != outlined.sum()
    annotator.submit()
    stored = stored_masks(study, annotator, case, scan.geometry)
    assert np.array_equal(stored["nodule"], edited)
    assert annotator.info["datastore"]["completed"] >= 1


@every_grid
def test_every_nodule_has_its_own_segment(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan = scans[case]
    first, second = scan.nodules
    umlaut = "Rundherd 2 · größer"
    annotator.open_case(study, case)
    annotator.scene.add_empty_segments([umlaut, "never drawn"])
    reply = annotator.click(CLICK, "nodule", [first.centre_ras_mm])
    assert_shown_as_sent(annotator, reply, "nodule", 1, scan.geometry)
    kept = annotator.scene.segment_mask("nodule", scan.geometry)
    reply = annotator.click(CLICK, umlaut, [second.centre_ras_mm])
    assert_shown_as_sent(annotator, reply, umlaut, 1, scan.geometry)
    assert np.array_equal(annotator.scene.segment_mask("nodule", scan.geometry), kept)
    assert dice(annotator.scene.segment_mask(umlaut, scan.geometry), second.mask) > 0.6
    annotator.submit()
    stored = stored_masks(study, annotator, case, scan.geometry)
    assert np.array_equal(stored["nodule"], kept)
    assert np.array_equal(stored[umlaut], annotator.scene.segment_mask(umlaut, scan.geometry))
    assert not stored.get("never drawn", np.zeros(1, dtype=bool)).any()


def test_two_points_outline_two_nodules_and_more_points_keep_the_rest(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan]
) -> None:
    scan = scans["oblique"]
    annotator.open_case(study, "oblique")
    centres = [nodule.centre_ras_mm for nodule in scan.nodules]
    annotator.click(CLICK, "nodule", centres[:1])
    before = annotator.scene.segment_mask("nodule", scan.geometry)
    annotator.click(CLICK, "nodule", centres)
    both = annotator.scene.segment_mask("nodule", scan.geometry)
    for nodule in scan.nodules:
        assert dice(both & within(scan.geometry, nodule.centre_ras_mm, 25.0), nodule.mask) > 0.6
    assert np.count_nonzero(before & ~both) <= 0.05 * np.count_nonzero(before)


@pytest.mark.parametrize("case", ["flipped", "mirrored"])
def test_a_box_drawn_in_slicer_bounds_the_outline(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan, nodule = scans[case], scans[case].nodules[0]
    annotator.open_case(study, case)
    # The box ends at the nodule's middle on its patient-left side.
    size_mm = np.array([24.0, 40.0, 40.0])
    centre = nodule.centre_ras_mm + np.array([size_mm[0] / 2, 0.0, 0.0])
    roi = annotator.scene.roi_to_ijk(centre, size_mm)
    annotator.click(CLICK, "nodule", [nodule.centre_ras_mm + np.array([3.0, 0.0, 0.0])], roi=roi)
    points = annotator.scene.segment_points_ras_mm("nodule")
    assert len(points) > 0
    slack_mm = np.array(scan.geometry.spacing_mm)
    assert np.all(np.abs(points - centre) <= size_mm / 2 + slack_mm)


@every_grid
def test_lungs_are_on_their_own_side(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan = scans[case]
    annotator.open_case(study, case)
    reply = annotator.segment(LUNGS)
    for value, name in enumerate(reply.names, 1):
        assert_shown_as_sent(annotator, reply, name, value, scan.geometry)
    for side, value in (("right", 1), ("left", 2)):
        (name,) = (name for name in reply.names if side in name.lower())
        assert dice(annotator.scene.segment_mask(name, scan.geometry), scan.lungs == value) > 0.85


@every_grid
def test_scribbles_in_the_list_do_not_shift_the_labels(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan = scans[case]
    annotator.open_case(study, case)
    annotator.scene.add_scribbles()
    annotator.scene.add_empty_segments(["nodule 2"])
    box_1 = IndexBox(start_ijk=(30, 31, 20), stop_ijk=(34, 36, 26))
    box_2 = IndexBox(start_ijk=(60, 41, 31), stop_ijk=(63, 45, 33))
    annotator.scene.paint("nodule", box_1)
    annotator.scene.paint("nodule 2", box_2)
    annotator.submit()
    stored = stored_masks(study, annotator, case, scan.geometry)
    assert set(stored) == {"nodule", "nodule 2"}
    for name in stored:
        assert np.array_equal(stored[name], annotator.scene.segment_mask(name, scan.geometry))


@pytest.mark.parametrize("case", ["oblique", "mirrored"])
def test_scribbles_cut_the_nodule_out(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan, nodule = scans[case], scans[case].nodules[0]
    annotator.open_case(study, case)
    annotator.scene.add_scribbles()
    (centre,) = annotator.scene.points_to_ijk([nodule.centre_ras_mm])
    annotator.scene.paint("foreground_scribbles", IndexBox.around(centre, (3, 3, 3)))
    beside = IndexBox.around(centre, (2, 12, 2)).shift((11, 0, 0))
    annotator.scene.paint("background_scribbles", beside)
    (method,) = annotator.models("scribbles")[:1]
    reply = annotator.scribble(method, "nodule")
    assert_shown_as_sent(annotator, reply, "nodule", 1, scan.geometry)
    assert dice(annotator.scene.segment_mask("nodule", scan.geometry), nodule.mask) > 0.6


def test_a_segmentation_file_can_be_submitted_too(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan]
) -> None:
    scan = scans["mirrored"]
    annotator.open_case(study, "mirrored")
    annotator.scene.add_scribbles()
    annotator.scene.add_empty_segments(["nodule 2"])
    annotator.scene.paint("nodule", IndexBox(start_ijk=(30, 31, 20), stop_ijk=(34, 36, 26)))
    annotator.scene.paint("nodule 2", IndexBox(start_ijk=(60, 41, 31), stop_ijk=(63, 45, 33)))
    annotator.submit(".seg.nrrd")
    stored = stored_masks(study, annotator, "mirrored", scan.geometry)
    for name in ("nodule", "nodule 2"):
        assert np.array_equal(stored[name], annotator.scene.segment_mask(name, scan.geometry))


@every_grid
def test_an_annotator_elsewhere_downloads_the_same_scan_and_clicks_on_it(
    annotator: SlicerAnnotator, study: Path, scans: dict[str, SyntheticScan], case: str
) -> None:
    scan, nodule = scans[case], scans[case].nodules[1]
    annotator.shares_files = False
    annotator.open_case(study, case)
    assert annotator.geometry is not None
    assert annotator.geometry.is_same_grid(right_handed(scan.geometry), tolerance_voxels=1e-3)
    shown_hu = annotator.scene.volume_array()
    reversed_k = annotator.geometry.directions_ras[:, 2] @ scan.geometry.directions_ras[:, 2] < 0
    assert np.array_equal(shown_hu[:, :, ::-1] if reversed_k else shown_hu, scan.volume.image_hu)
    reply = annotator.click(CLICK, "nodule", [nodule.centre_ras_mm])
    assert_shown_as_sent(annotator, reply, "nodule", 1, scan.geometry)
    assert dice(annotator.scene.segment_mask("nodule", scan.geometry), nodule.mask) > 0.6


def test_a_scan_of_the_annotators_own_is_worked_on_in_a_session_and_then_uploaded(
    annotator: SlicerAnnotator, study: Path, tmp_path: Path
) -> None:
    scan = make_scan(named_geometry("oblique"), np.random.default_rng(77))
    case = "1.2.826.0.1.3680043"
    own = tmp_path / "own scan.nrrd"
    write_file(scan.volume.image_hu, scan.geometry, own)
    annotator.geometry = annotator.scene.load_volume(own, case)
    annotator.scene.add_empty_segments(annotator.info["labels"])
    saved = tmp_path / "upload.nii.gz"
    annotator.scene.save_volume(saved)
    session = annotator.client().create_session(str(saved))["session_id"]
    annotator.sample = {"id": case, "session_id": session}
    reply = annotator.click(CLICK, "nodule", [scan.nodules[0].centre_ras_mm])
    assert_shown_as_sent(annotator, reply, "nodule", 1, scan.geometry)
    assert dice(annotator.scene.segment_mask("nodule", scan.geometry), scan.nodules[0].mask) > 0.6
    annotator.client().upload_image(str(saved), case)
    annotator.submit()
    stored = stored_masks(study, annotator, case, scan.geometry)
    assert np.array_equal(stored["nodule"], annotator.scene.segment_mask("nodule", scan.geometry))


def test_a_click_outside_the_scan_is_refused_in_words(annotator: SlicerAnnotator, study: Path) -> None:
    annotator.open_case(study, "axial")
    with pytest.raises(MONAILabelClientException) as refusal:
        annotator.click(CLICK, "nodule", [[5000.0, 0.0, 0.0]])
    assert "Status: 4" in refusal.value.msg
    assert "outside" in refusal.value.msg
