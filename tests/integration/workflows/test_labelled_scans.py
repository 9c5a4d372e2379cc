"""What a detector learns from: where the nodules of submitted labels are, read from real study folders."""

import json

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Segment, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.labelled_scans import collect_labelled_scans

# Oblique, flipped, anisotropic.
GEOMETRY = VolumeGeometry(
    shape_ijk=(20, 22, 24),
    affine_ijk_to_ras_mm=np.array([[-0.7, 0, 0, 5.0], [0, 0, 2.0, -7.0], [0, 0.8, 0, 9.0], [0, 0, 0, 1.0]]),
)


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    return StudyStore(folder)


def add_scan(study, tmp_path, case_id):
    image_hu = lung_hu(GEOMETRY.shape_ijk, -800)
    write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), tmp_path / f"{case_id}.nii.gz")
    study.add_image(tmp_path / f"{case_id}.nii.gz")


def add_label(study, tmp_path, case_id, nodules=1, info=None):
    add_scan(study, tmp_path, case_id)
    labels = np.zeros(GEOMETRY.shape_ijk, np.uint8)
    for n in range(nodules):
        labels[3:7, 2:6, 3 + 8 * n : 7 + 8 * n] = 1
    segments = (Segment(value=1, name="nodule"),)
    write_label_map(LabelMap(geometry=GEOMETRY, labels=labels, segments=segments), tmp_path / "label.nii.gz")
    study.save_label(case_id, tmp_path / "label.nii.gz", "final", info or {})


def add_boxes(study, tmp_path, case_id, markups):
    add_scan(study, tmp_path, case_id)
    (tmp_path / "boxes.json").write_text(json.dumps({"markups": markups}))
    study.save_label(case_id, tmp_path / "boxes.json", "detection", {})


def test_outlines_become_places_with_the_diameter_of_their_volume(study, tmp_path):
    for n in range(3):
        add_label(study, tmp_path, f"case{n}", nodules=1 + n % 2)
    found = collect_labelled_scans(study)
    scans = {scan.case_id: scan for scan in (*found.train, *found.held_back)}
    assert sorted(scans) == ["case0", "case1", "case2"]
    assert set(found.trained_on) | set(found.judged_on) == set(scans)
    assert not {s.patient_id for s in found.train} & {s.patient_id for s in found.held_back}
    first, second = scans["case1"].nodules
    np.testing.assert_allclose(first.centre_ras_mm, GEOMETRY.ijk_to_ras((4.5, 3.5, 4.5)), atol=1e-6)
    np.testing.assert_allclose(second.centre_ras_mm, GEOMETRY.ijk_to_ras((4.5, 3.5, 12.5)), atol=1e-6)
    assert first.diameter_mm == pytest.approx((6 / np.pi * 64 * 0.7 * 0.8 * 2.0) ** (1 / 3))
    case = scans["case1"].load()
    assert case.volume.geometry.is_same_grid(GEOMETRY)
    assert (case.case_id, case.nodules) == ("case1", scans["case1"].nodules)


def test_boxes_count_where_there_is_no_outline(study, tmp_path):
    centre_ras = GEOMETRY.ijk_to_ras((9, 9, 9))
    box = {"type": "ROI", "coordinateSystem": "LPS", "center": [*(-centre_ras[:2]), centre_ras[2]], "size": [6, 8, 9]}
    for n in range(3):
        add_boxes(study, tmp_path, f"boxed{n}", [box, {"type": "Fiducial"}])
    add_label(study, tmp_path, "both")
    (tmp_path / "boxes.json").write_text(json.dumps({"markups": [box, box]}))
    study.save_label("both", tmp_path / "boxes.json", "detection", {})
    found = collect_labelled_scans(study)
    scans = {scan.case_id: scan for scan in (*found.train, *found.held_back)}
    (nodule,) = scans["boxed0"].nodules
    np.testing.assert_allclose(nodule.centre_ras_mm, centre_ras, atol=1e-6)
    assert nodule.diameter_mm == pytest.approx((6 * 8 * 9) ** (1 / 3))
    assert len(scans["both"].nodules) == 1


def test_a_scan_without_nodules_counts_where_its_annotator_said_so(study, tmp_path):
    for n in range(4):
        add_label(study, tmp_path, f"case{n}")
    add_label(study, tmp_path, "clear", nodules=0, info={"no_findings": True})
    add_label(study, tmp_path, "untouched", nodules=0)
    add_boxes(study, tmp_path, "damaged", [{"type": "ROI", "center": "here"}])
    found = collect_labelled_scans(study)
    scans = {scan.case_id: scan for scan in (*found.train, *found.held_back)}
    assert scans["clear"].nodules == ()
    assert set(found.skipped) == {"untouched", "damaged"}
    assert "does not say that there is none" in found.skipped["untouched"]
    assert "no boxes that can be read" in found.skipped["damaged"]


def test_scans_without_any_nodule_teach_no_detector(study, tmp_path):
    for n in range(5):
        add_label(study, tmp_path, f"case{n}", nodules=0, info={"no_findings": True})
    with pytest.raises(InputError, match="holds a nodule: there is nothing to find"):
        collect_labelled_scans(study)


def test_an_empty_study_says_what_a_detector_learns_from(study):
    with pytest.raises(InputError, match=r"No case of this study.*all their nodules labelled, of at least two"):
        collect_labelled_scans(study)
