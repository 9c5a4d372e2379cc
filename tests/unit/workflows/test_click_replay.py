from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.domain import Volume
from medai.domain.annotation import Annotation, Correction, ReviewState
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError
from medai.geometry import VolumeGeometry
from medai.store.split import FrozenSplit
from medai.training.dataset import is_validation_patient
from medai.volume_io.dicom_headers import patient_key_of
from medai.workflows import click_replay
from medai.workflows.click_challenger import choosing_dataset, with_replay
from medai.workflows.click_replay import LEAST_REPLAY, balanced_replay, plan_click_lesson, replay_share, weigh
from medai.workflows.labelled_examples import LabelledExamples

GEOMETRY = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([-0.7, 0.8, 2.0, 1.0]))


def nodule(name, patient=None, weight=1.0):
    mask = np.zeros(GEOMETRY.shape_ijk, bool)
    mask[4:7, 4:7, 5:8] = True
    volume = Volume(geometry=GEOMETRY, image_hu=np.full(GEOMETRY.shape_ijk, -800, np.int16), case_id="v")
    return ClickCase(case_id=name, patient_id=patient or name, volume=volume, mask=mask, weight=weight)


def annotation(case_id, dice, review=ReviewState.OPEN):
    return Annotation(
        annotation_id="1",
        case_id=case_id,
        tag="final",
        annotator="a",
        submitted_at_s=0.0,
        seconds_spent=None,
        proposal_model=None,
        proposal_version=None,
        file_name="f",
        sha256="",
        nodules=1,
        volume_ml=1.0,
        correction=Correction(
            dice=dice, added_path_length_mm=0.0, volume_change_ml=0.0, nodules_added=0, nodules_removed=0
        ),
        review=review,
    )


def test_labels_are_weighed_by_how_they_came_about():
    known = {"a": annotation("a", 1.0), "b": annotation("b", 0.5), "c": annotation("c", 0.5, ReviewState.FLAGGED)}
    weighted = weigh([nodule("a#1"), nodule("b#1"), nodule("b#2"), nodule("c#1"), nodule("d#1")], known.get)
    assert [(n.case_id, n.weight) for n in weighted] == [("a#1", 1.0), ("b#1", 2.0), ("b#2", 2.0), ("d#1", 1.0)]
    assert [n.weight for n in weigh([nodule("c#1")], None)] == [1.0]


@given(st.floats(0.25, 1e4), st.floats(0, 1e4))
def test_the_replays_share_has_bounds(new, old):
    assert LEAST_REPLAY <= replay_share(new, old) < 1


def test_a_new_nodule_is_drawn_four_times_as_often_as_an_old_one():
    share = replay_share(2.0, 40.0)
    assert (1 - share) / 2 == pytest.approx(4 * share / 40)


def test_old_labels_and_the_starters_data_are_halves():
    both = balanced_replay([nodule("a"), nodule("b")], [nodule(f"p{n}") for n in range(10)])
    assert sum(case.weight for case in both[:2]) == pytest.approx(sum(case.weight for case in both[2:]))
    assert balanced_replay([], [nodule("p")])[0].weight == 1.0


def test_old_nodules_are_replayed_and_new_ones_learned():
    dataset = choosing_dataset([nodule("a#1", "a"), nodule("b#1", "b")])
    mixed, share = with_replay(dataset, frozenset({"a#1"}), [nodule("p")])
    assert [n.case_id for n in mixed.training] == ["b#1"]
    assert [n.case_id for n in mixed.replay] == ["a#1", "p"]
    assert share == LEAST_REPLAY
    everything_old, _ = with_replay(dataset, frozenset({"a#1", "b#1"}), [])
    assert [n.case_id for n in everything_old.training] == ["a#1", "b#1"]


def test_the_plan_binds_the_replay_to_the_trainer(tmp_path):
    seen = {}

    class Study:
        folder = tmp_path

    def trainer(examples, *, replayed, recipe, **named):
        seen.update(examples=examples, replayed=replayed, recipe=recipe, named=named)
        return tmp_path

    examples = LabelledExamples(
        train=(nodule("a#1"), nodule("b#1")), held_back=(), trained_on=(), judged_on=(), skipped={}
    )
    lesson = plan_click_lesson(
        examples,
        study=Study(),
        trained_before=frozenset({"a"}),
        annotation_of=lambda case_id: annotation(case_id, 0.5),
        should_stop=lambda: False,
        trainer=trainer,
        recipe=lambda folder, should_stop: [nodule("p")],
        keepers=lambda folder, should_stop: [nodule("k")] if folder == tmp_path and not should_stop() else [],
    )
    assert lesson.train(lesson.examples, start_from=tmp_path) == tmp_path
    assert [n.weight for n in seen["examples"]] == [2.0, 2.0]
    assert seen["replayed"] == {"a#1"}
    assert [n.case_id for n in seen["recipe"]] == ["p"]
    assert [n.case_id for n in seen["named"].pop("keepers")()] == ["k"]
    assert seen["named"] == {"start_from": tmp_path}


@pytest.fixture
def made(monkeypatch):
    """Seeds of the phantoms made; each gives two small nodules."""
    seeds = []

    def make(seed):
        seeds.append(seed)
        return [replace(nodule(f"phantom{seed}#{n}"), patient_id=f"phantom{seed}") for n in (1, 2)]

    monkeypatch.setattr(click_replay, "_make_phantom_nodules", make)
    return seeds


def test_phantom_nodules_are_made_once(made, tmp_path):
    first = click_replay.phantom_nodules(7, tmp_path / "replay")
    again = click_replay.phantom_nodules(7, tmp_path / "replay")
    assert made == [7]
    for one, other in zip(first, again, strict=True):
        assert (one.case_id, one.patient_id) == (other.case_id, other.patient_id)
        assert one.volume.geometry.is_same_grid(other.volume.geometry)
        np.testing.assert_array_equal(one.volume.image_hu, other.volume.image_hu)
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_damaged_ones_are_made_again(made, tmp_path, damage):
    click_replay.phantom_nodules(7, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(damage)
    assert len(click_replay.phantom_nodules(7, tmp_path)) == 2
    assert made == [7, 7]
    assert path.stat().st_size > len(damage)


def test_stopped_while_phantoms_are_made(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(CancelledByUserError, match="stopped"):
        click_replay.starter_recipe(tmp_path, lambda: True)
    assert made == []


def test_patients_whom_the_study_or_the_starter_holds_back_are_not_replayed(tmp_path, monkeypatch):
    names = [f"LIDC-IDRI-{n:04d}" for n in range(1, 30)]
    (tmp_path / "lidc_nodules").mkdir()
    table = tmp_path / "lidc_nodules" / "nodules.csv"
    table.write_text("case_id,patient_id\n" + "".join(f"{name}_R_1,{name}\n" for name in names))
    placed = FrozenSplit(tmp_path).place_all(patient_key_of(name) for name in names[:20])
    before = (tmp_path / ".medai" / "split.json").read_bytes()

    def read(folder, patients):
        return [nodule(f"{name}_R_1", name) for name in names if name in patients]

    monkeypatch.setattr(click_replay, "lidc_cases", read)
    replayed = click_replay.real_crops(tmp_path / "lidc_nodules", tmp_path)
    found = {case.case_id.removesuffix("_R_1") for case in replayed}
    assert found
    assert not [name for name in found if is_validation_patient(name)]
    assert not [name for name in found if placed.get(patient_key_of(name), "train") != "train"]
    assert {placed[patient_key_of(name)] for name in found if patient_key_of(name) in placed} == {"train"}
    assert {case.patient_id for case in replayed} == {patient_key_of(name) for name in found}
    assert (tmp_path / ".medai" / "split.json").read_bytes() == before
