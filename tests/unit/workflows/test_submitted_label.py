"""Labels that were put into the study are read as those that were submitted: same place, same names, same refusals."""

import nibabel as nib
import numpy as np
import pytest
from tests.support.label_files import nifti_label, segmentation_file, turned

from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.server.uploads import check_label_upload
from medai.store.study import StudyStore
from medai.workflows.submitted_label import read_submitted

SHAPE = (9, 12, 10)


def matrix(kind):
    angle = np.deg2rad(14)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    found = np.eye(4)
    found[:3, :3] = {"axial": np.eye(3), "oblique": turn, "flipped": np.diag([-1.0, -1.0, 1.0])}[kind] * (0.9, 0.6, 2.0)
    found[:3, 3] = (12.5, -40.25, 7.0)
    return found


TRUTH = np.zeros(SHAPE, np.uint8)
TRUTH[2:4, 3:6, 2:5] = 1
TRUTH[5:8, 7:11, 6:9] = 2
GAPPED = np.where(TRUTH == 2, 5, TRUTH).astype(np.uint8)
SHIFTED = [{"name": "left M2", "idx": 3}, {"name": "right M5", "idx": 4}]
SEGMENTS = [("left M2", 1, 0), ("right M5", 2, 0)]


def layered(path, affine):
    """Two layers that overlap: where the segments meet, the later one has the voxel."""
    first = (TRUTH == 1).astype(np.uint8)
    first[5, 7, 6] = 1
    return segmentation_file(path / "p.seg.nrrd", [first, (TRUTH == 2).astype(np.uint8)], affine, [
        ("left M2", 1, 0), ("right M5", 1, 1),
    ])  # fmt: skip


def cropped(path, affine):
    low = np.array([1, 2, 1])
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    return segmentation_file(path / "p.seg.nrrd", [np.ascontiguousarray(TRUTH[1:9, 2:12, 1:10])], moved, SEGMENTS)


def cropped_by_another_name(path, affine):
    return cropped(path, affine).rename(path / "p.nrrd")


def canonical(path, affine):
    image = nib.as_closest_canonical(nib.Nifti1Image(TRUTH, affine))
    return nifti_label(path / "p.nii.gz", np.asarray(image.dataobj), image.affine)


def permuted(path, affine):
    return nifti_label(path / "p.nii", *turned(TRUTH, affine, (2, 0, 1), (0, 2)))


def of_type(dtype, values=TRUTH):
    return lambda path, affine: nifti_label(path / "p.nii.gz", values.astype(dtype), affine)


FILES = {
    "cropped segmentation": cropped,
    "cropped segmentation called .nrrd": cropped_by_another_name,
    "layers that overlap": layered,
    "canonical axes": canonical,
    "permuted and reversed axes": permuted,
    "float": of_type(np.float32),
    "uint16": of_type(np.uint16),
    "values with a gap": of_type(np.uint16, np.where(TRUTH == 2, 700, TRUTH)),
}


@pytest.fixture
def put(tmp_path):
    """A study with one scan, into whose ``labels/final`` a file is put."""

    def _put(write, kind="axial", info=None):
        affine = matrix(kind)
        study = tmp_path / "study"
        (study / "labels" / "final").mkdir(parents=True)
        nifti_label(study / "p.nii.gz", np.full(SHAPE, -700, np.int16), affine)
        written = write(study / "labels" / "final", affine)
        store = StudyStore(study)
        if info is not None:
            store.update_label_info("p", "final", info)
        return store, written

    return _put


@pytest.mark.parametrize("kind", ["axial", "oblique", "flipped"])
@pytest.mark.parametrize("file", FILES)
def test_what_lies_in_the_study_is_what_a_submission_of_it_would_be(put, tmp_path, file, kind):
    info = {"label_info": [{"name": "left M2", "idx": 1}, {"name": "right M5", "idx": 700}]} if "gap" in file else {}
    study, written = put(FILES[file], kind, info or {"label_info": SHIFTED})
    label = read_submitted(study, "p")
    np.testing.assert_array_equal(label.label_map.labels, TRUTH)
    assert label.label_map.labels.dtype == np.uint8
    assert label.label_map.label_names == {"left M2": 1, "right M5": 2}
    scan = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=matrix(kind))
    sent = check_label_upload(
        written, scan=scan, tag="final", params=info or {"label_info": SHIFTED}, output_folder=tmp_path
    )
    np.testing.assert_array_equal(np.asarray(nib.load(sent.path).dataobj), label.label_map.labels)
    assert sent.info["label_names"] == label.label_map.label_names


def test_without_label_info_the_values_name_themselves(put):
    study, _ = put(of_type(np.uint8, GAPPED))
    label = read_submitted(study, "p")
    assert label.label_map.label_names == {"label_1": 1, "label_5": 2}
    assert (label.values, label.is_unfinished) == ((1, 5), False)


def test_the_names_of_a_label_read_it_the_same_way_again(put):
    study, _ = put(of_type(np.uint8, GAPPED), info={"label_info": [{"name": "a", "idx": 1}, {"name": "b", "idx": 5}]})
    first = read_submitted(study, "p")
    study.update_label_info("p", "final", {"label_info": first.names_in_file})
    assert read_submitted(study, "p").label_map.label_names == first.label_map.label_names == {"a": 1, "b": 2}


def test_values_that_label_info_does_not_name_are_refused_as_in_a_submission(put):
    study, _ = put(of_type(np.uint8), info={"label_info": [{"name": "only one", "idx": 2}]})
    with pytest.raises(InputError, match=r"values 1, 2, but label_info names 1 segments: only one \(2\)"):
        read_submitted(study, "p")


@pytest.mark.parametrize(
    "write",
    [
        lambda path, affine: nifti_label(path / "p.nii.gz", TRUTH[:-1], affine),
        lambda path, affine: nifti_label(path / "p.nii.gz", TRUTH, affine @ np.diag([1, 1, 1.2, 1])),
        lambda path, affine: segmentation_file(
            path / "p.seg.nrrd", [TRUTH], affine + np.outer((1, 0, 0, 0), (0, 0, 0, 0.3)), SEGMENTS
        ),
    ],
    ids=["a slice less", "other slices", "a third of a millimetre off"],
)
def test_a_label_of_another_grid_is_refused_with_both_grids(put, write):
    study, _ = put(write)
    with pytest.raises(GeometryError, match=r"grid.*scan.*9×12×10|scan.*grid.*9×12×10"):
        read_submitted(study, "p")


def test_an_empty_label_says_nothing_by_itself(put):
    study, _ = put(of_type(np.uint8, np.zeros_like(TRUTH)))
    assert read_submitted(study, "p").is_unfinished
    study.update_label_info("p", "final", {"label_info": [{"name": "No nodules", "idx": 4}]})
    said = read_submitted(study, "p")
    assert (said.is_unfinished, said.says_nothing_found) == (False, True)
