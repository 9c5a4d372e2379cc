import json

import numpy as np
import pytest

from medai.domain import NoduleKind, Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, StorageError
from medai.geometry import VolumeGeometry
from medai.volume_io.dicom_headers import patient_key_of
from medai.workflows import click_regression
from medai.workflows.click_regression import MOST_OF_STUDY, old_nodules

GEOMETRY = VolumeGeometry(
    shape_ijk=(20, 21, 22),
    affine_ijk_to_ras_mm=np.array([[-0.7, 0, 0, 5.0], [0, 0, 2.0, -7.0], [0, 0.8, 0, 9.0], [0, 0, 0, 1.0]]),
)


def nodule(name, *, patient="", size=4, hu=30):
    mask = np.zeros(GEOMETRY.shape_ijk, bool)
    mask[4 : 4 + size, 4 : 4 + size, 5 : 5 + size // 2] = True
    image_hu = np.where(mask, hu, -800).astype(np.int16)
    volume = Volume(geometry=GEOMETRY, image_hu=image_hu)
    return ClickCase(case_id=name, patient_id=patient or name, volume=volume, mask=mask)


class FakeStudy:
    """A study that says which cases have a label."""

    def __init__(self, folder, labelled=()):
        self.folder = folder
        self.labelled = list(labelled)

    def labeled(self, tag="final"):
        return self.labelled


@pytest.fixture
def phantoms(monkeypatch):
    """Two small stand-ins a seed; counts how often they are made."""
    monkeypatch.delenv("MEDAI_REAL_DATA", raising=False)
    made = []

    def make(seed):
        made.append(seed)
        return [
            (nodule(f"phantom-{seed}-1"), NoduleKind.SOLID, 5.0),
            (nodule(f"phantom-{seed}-2", hu=-500), NoduleKind.NON_SOLID, 11.0),
        ]

    monkeypatch.setattr(click_regression, "phantom_nodules", make)
    return made


def test_the_phantoms_are_made_once_and_stay_as_they_are(phantoms, tmp_path):
    first = old_nodules(FakeStudy(tmp_path), [])
    again = old_nodules(FakeStudy(tmp_path), [])
    assert phantoms == list(click_regression.PHANTOM_SEEDS)
    assert [case.case_id for case in again.examples] == [case.case_id for case in first.examples]
    assert len(again.examples) == 4
    made = nodule("phantom-20240301-1")
    assert np.array_equal(again.examples[0].volume.image_hu, made.volume.image_hu)
    assert np.array_equal(again.examples[0].mask, made.mask)
    assert again.examples[0].volume.geometry.is_same_grid(GEOMETRY)
    assert again.groups_of_case["phantom-20240301-2"] == {"size": "8-15 mm", "texture": "non-solid"}
    assert len({case.patient_id for case in again.examples}) == 4


def test_the_first_held_back_nodules_join_and_later_ones_do_not_push_them_out(phantoms, tmp_path):
    study = FakeStudy(tmp_path)
    old_nodules(study, [nodule("a#1"), nodule("b#1", size=12)])
    many = [nodule(f"{n}#1") for n in range(MOST_OF_STUDY)]
    found = old_nodules(study, [*many, nodule("b#1"), nodule("a#1")])
    of_study = [case.case_id for case in found.examples if "#" in case.case_id]
    assert of_study == ["a#1", "b#1", *(f"{n}#1" for n in range(MOST_OF_STUDY - 2))]
    # The size was decided when the nodule came in.
    assert found.groups_of_case["b#1"]["study size"] == "8-15 mm"
    assert found.groups_of_case["a#1"]["study texture"] == "solid"


def test_a_nodule_whose_label_is_gone_is_left_out_and_comes_back_with_it(phantoms, tmp_path):
    study = FakeStudy(tmp_path)
    old_nodules(study, [nodule("a#1"), nodule("b#1")])
    assert {c.case_id for c in old_nodules(study, [nodule("b#1")]).examples if "#" in c.case_id} == {"b#1"}
    both = old_nodules(study, [nodule("a#1"), nodule("b#1")])
    assert {c.case_id for c in both.examples if "#" in c.case_id} == {"a#1", "b#1"}


def test_a_patient_that_trains_here_does_not_judge(phantoms, tmp_path, monkeypatch):
    real = [
        (nodule("LIDC-IDRI-0001_R_1", patient="LIDC-IDRI-0001"), NoduleKind.SOLID, 7.0),
        (nodule("LIDC-IDRI-0002_R_1", patient="LIDC-IDRI-0002"), NoduleKind.SOLID, 7.0),
    ]
    monkeypatch.setattr(click_regression, "_real_nodules", lambda: iter(real))
    assert len(old_nodules(FakeStudy(tmp_path), []).examples) == 2
    assert phantoms == []
    found = old_nodules(FakeStudy(tmp_path, labelled=["LIDC-IDRI-0001_R_1"]), [])
    assert [case.case_id for case in found.examples] == ["LIDC-IDRI-0002_R_1"]
    assert found.examples[0].patient_id == patient_key_of("LIDC-IDRI-0002")


def test_without_the_folder_that_is_named_phantoms_take_its_place(phantoms, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDAI_REAL_DATA", str(tmp_path / "nowhere"))
    assert len(old_nodules(FakeStudy(tmp_path), []).examples) == 4


@pytest.mark.parametrize("damage", ["set", "crop", "no crop"])
def test_a_damaged_set_is_an_error_that_says_what_to_do(phantoms, tmp_path, damage):
    old_nodules(FakeStudy(tmp_path), [])
    folder = tmp_path / ".medai" / "regression" / "nodule_click"
    if damage == "set":
        (folder / "set.json").write_text(json.dumps({"nodules": [{"case": "?"}]}))
    elif damage == "crop":
        (folder / "phantom-20240301-1.npz").write_bytes(b"PK half of it")
    else:
        (folder / "phantom-20240301-1.npz").unlink()
    with pytest.raises(StorageError, match=r"regression set is damaged.*remove its folder"):
        old_nodules(FakeStudy(tmp_path), [])


def test_stopped_while_the_set_is_made_it_is_made_at_the_next_call(phantoms, tmp_path):
    answers = iter([False, True])
    with pytest.raises(CancelledByUserError, match="regression set"):
        old_nodules(FakeStudy(tmp_path), [], should_stop=lambda: next(answers))
    assert len(old_nodules(FakeStudy(tmp_path), []).examples) == 4


def test_no_patient_is_named_on_disk(phantoms, tmp_path, monkeypatch):
    real = [(nodule("case one", patient="Doe^Jane"), NoduleKind.SOLID, 7.0)]
    monkeypatch.setattr(click_regression, "_real_nodules", lambda: iter(real))
    old_nodules(FakeStudy(tmp_path), [])
    assert "Doe" not in (tmp_path / ".medai" / "regression" / "nodule_click" / "set.json").read_text()
