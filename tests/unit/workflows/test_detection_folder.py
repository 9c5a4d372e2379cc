"""A folder of detection cases: what is written is what is read, and LUNA16's readers find it."""

import csv

import numpy as np
import pytest

from medai.domain import NoduleKind, Volume
from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import InputError, StorageError
from medai.geometry import VolumeGeometry
from medai.workflows.detection_folder import read_detection_case, write_detection_cases, written_case_ids
from medai.workflows.luna16 import read_detection_folder

NODULE = TrueNodule(centre_ras_mm=(1.5, -2.25, 30.0), diameter_mm=6.5, kind=NoduleKind.PART_SOLID, source="real:N7")
LESION = TrueNodule(centre_ras_mm=(-4.0, 5.0, 31.0), diameter_mm=22.0, source="scan")


def case(case_id, nodules=(NODULE,), irrelevant=()):
    affine = np.array([[0, -0.9, 0, 4], [-0.8, 0, 0, 5], [0, 0, -2.5, 60], [0, 0, 0, 1.0]])
    image = np.arange(10 * 11 * 12, dtype=np.int16).reshape(10, 11, 12) - 1000
    volume = Volume(geometry=VolumeGeometry(shape_ijk=image.shape, affine_ijk_to_ras_mm=affine), image_hu=image)
    return DetectionCase(
        case_id=case_id, patient_ids=("P1", "P2"), volume=volume, nodules=nodules, irrelevant=irrelevant
    )


def test_a_case_comes_back_as_it_was(tmp_path):
    written = case("c-1", irrelevant=(LESION,))
    write_detection_cases(tmp_path, [written])
    read = read_detection_case(tmp_path, "c-1")
    assert (read.nodules, read.irrelevant, read.patient_ids) == ((NODULE,), (LESION,), ("P1", "P2"))
    np.testing.assert_array_equal(read.volume.image_hu, written.volume.image_hu)
    assert read.volume.geometry.is_same_grid(written.volume.geometry)
    assert read.volume.case_id == "c-1"


def test_lists_are_luna16s_in_lps(tmp_path):
    write_detection_cases(tmp_path, [case("b", irrelevant=(LESION,)), case("a", nodules=())])
    with (tmp_path / "annotations.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    assert [(r["seriesuid"], float(r["coordX"]), float(r["coordY"]), float(r["coordZ"])) for r in rows] == [
        ("b", -1.5, 2.25, 30.0)
    ]
    assert (tmp_path / "seriesuids.csv").read_text().split() == ["a", "b"]
    found = read_detection_folder(tmp_path)
    assert set(found.truths) == set(found.images) == {"a", "b"}
    assert found.truths["a"].nodules == ()
    assert found.truths["b"].irrelevant[0].centre_ras_mm == pytest.approx(LESION.centre_ras_mm)
    assert found.has_irrelevant_list
    assert found.warnings == ()


def test_later_cases_join_the_lists(tmp_path):
    write_detection_cases(tmp_path, [case("a")])
    write_detection_cases(tmp_path, [case("b")])
    assert written_case_ids(tmp_path) == ("a", "b")
    assert len((tmp_path / "annotations.csv").read_text().splitlines()) == 3


def test_half_a_case_is_none(tmp_path):
    write_detection_cases(tmp_path, [case("a")])
    (tmp_path / "images" / "a.nii.gz").unlink()
    assert written_case_ids(tmp_path) == ()
    with pytest.raises(InputError, match="no detection case a"):
        read_detection_case(tmp_path, "a")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        write_detection_cases(tmp_path / "file", [case("a")])


@pytest.mark.parametrize(
    ("centre", "diameter", "message"), [((1, 2, np.nan), 4.0, "three finite numbers"), ((1, 2, 3), -1.0, "positive")]
)
def test_a_nodule_without_place_or_size_is_refused(centre, diameter, message):
    with pytest.raises(InputError, match=message):
        TrueNodule(centre_ras_mm=centre, diameter_mm=diameter)
