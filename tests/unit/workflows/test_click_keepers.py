"""As much of a training is kept as leaves old skills whole, and those who are asked are none who judge or train."""

import numpy as np
import pytest

from medai.domain import NoduleKind, Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, ModelError, StorageError
from medai.geometry import VolumeGeometry
from medai.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from medai.networks.mean_weights import KEPT_SHARE, mean_weights
from medai.store.split import FrozenSplit
from medai.volume_io.dicom_headers import patient_key_of
from medai.workflows import click_keepers
from medai.workflows.click_keepers import Keeper, keep_old_skills, keeper_nodules, lost_of_texture

CONFIG = {"network": "residual_unet", "network_options": {"channels": [4, 6]}, "task": "nodule_click"}


def checkpoint(value, *, count=1, config=CONFIG):
    tensors = {
        "conv.weight": np.full((2, 2), value, np.float16),
        "norm.num_batches_tracked": np.array(count, np.int64),
    }
    return Checkpoint(config=dict(config), tensors=tensors)


def nodule(name):
    """A ball of 10 mm."""
    mask = np.linalg.norm(np.moveaxis(np.indices((20, 20, 20)), 0, -1) - 10, axis=-1) < 5
    image_hu = np.where(mask, 30, -850).astype(np.int16)
    geometry = VolumeGeometry(shape_ijk=mask.shape, affine_ijk_to_ras_mm=np.eye(4))
    volume = Volume(geometry=geometry, image_hu=image_hu, case_id=name)
    return ClickCase(case_id=name, patient_id=name, volume=volume, mask=mask)


KEEPERS = [
    Keeper(case=nodule(f"{texture} {number}"), texture=texture)
    for texture in (NoduleKind.SOLID, NoduleKind.NON_SOLID)
    for number in range(4)
]
BEFORE = {keeper.case.case_id: 0.9 for keeper in KEEPERS}


class Dice:
    """Dice by how far the weights have gone: the solid ones gain, the non-solid ones lose."""

    def __init__(self, loss):
        self.loss = loss
        self.asked = []

    def __call__(self, path, cases):
        way = float(load_checkpoint(path).tensors["conv.weight"][0, 0])
        self.asked.append(way)
        return {c.case_id: 0.9 + way * (0.1 if c.case_id.startswith("solid") else -self.loss) for c in cases}


@pytest.fixture
def paths(tmp_path):
    champion, trained = tmp_path / "champion.safetensors", tmp_path / "run" / "best.safetensors"
    save_checkpoint(champion, checkpoint(0.0).tensors, CONFIG)
    save_checkpoint(trained, checkpoint(1.0, count=7).tensors, {**CONFIG, "spacing_mm": 0.9})
    return champion, trained


@pytest.mark.parametrize(
    ("loss", "share", "asked"),
    [
        pytest.param(0.0, 1.0, [0.0, 1.0], id="nothing is lost: all of it"),
        pytest.param(0.012, 0.7, [0.0, 1.0, 0.7], id="a little"),
        pytest.param(0.018, 0.5, [0.0, 1.0, 0.7, 0.5], id="half"),
        pytest.param(0.5, 0.25, [0.0, 1.0, 0.7, 0.5, 0.35], id="much: the least, and the gate decides"),
    ],
)
def test_as_much_is_kept_as_the_old_nodules_allow(paths, loss, share, asked):
    champion, trained = paths
    score = Dice(loss)
    path = keep_old_skills(champion, trained, KEEPERS, score)
    kept = load_checkpoint(path)
    assert kept.config == {**CONFIG, "spacing_mm": 0.9, KEPT_SHARE: share}
    np.testing.assert_allclose(kept.tensors["conv.weight"], share, atol=1e-3)
    assert kept.tensors["norm.num_batches_tracked"] == 7
    assert score.asked == pytest.approx(asked, abs=1e-3)
    assert load_checkpoint(trained).tensors["conv.weight"][0, 0] == 1.0


def test_a_stop_between_two_shares_is_obeyed(paths):
    champion, trained = paths
    with pytest.raises(CancelledByUserError):
        keep_old_skills(champion, trained, KEEPERS, Dice(0.5), should_stop=lambda: True)


def test_a_texture_of_few_nodules_is_asked_with_all_alone():
    few = KEEPERS[:7]
    after = BEFORE | {f"non-solid {n}": 0.86 for n in range(3)}
    assert lost_of_texture(BEFORE, after, few) == {"all": 0.0171}
    assert lost_of_texture(BEFORE, BEFORE | {f"non-solid {n}": 0.88 for n in range(3)}, few) == {}
    after = {name: 0.9 if name.startswith("solid") else 0.87 for name in BEFORE}
    assert lost_of_texture(BEFORE, after, KEEPERS) == {"non-solid": 0.03, "all": 0.015}


def test_a_loss_within_its_own_doubt_counts_for_none():
    changes = {"non-solid 0": -0.2, "non-solid 1": 0.1, "non-solid 2": -0.1, "non-solid 3": 0.1}
    after = {name: 0.9 + changes.get(name, 0.0) for name in BEFORE}
    assert np.mean(list(changes.values())) < -click_keepers.TOLERATED_LOSS
    assert lost_of_texture(BEFORE, after, KEEPERS) == {}


def test_weights_of_other_networks_are_not_averaged():
    other = checkpoint(1.0, config={**CONFIG, "network_options": {"channels": [4, 8]}})
    with pytest.raises(ModelError, match="one kind"):
        mean_weights([checkpoint(0.0), other])
    np.testing.assert_allclose(mean_weights([checkpoint(0.0), checkpoint(1.0)]).tensors["conv.weight"], 0.5)


@pytest.fixture
def real(monkeypatch):
    """Twelve real nodules of twelve patients; gives those who were left out."""
    out = []

    def unlearned(each, *, leave_out):
        for number in range(12):
            if leave_out(patient_key_of(f"LIDC-IDRI-{number:04}")):
                out.append(number)
            else:
                yield nodule(f"LIDC-IDRI-{number:04}"), NoduleKind.SOLID, 9.0

    monkeypatch.setattr(click_keepers, "unlearned_nodules", unlearned)
    return out


def test_patients_who_judge_or_are_in_the_study_are_not_asked(real, tmp_path, monkeypatch):
    monkeypatch.setattr(click_keepers, "judging_patients", lambda folder: frozenset({patient_key_of("LIDC-IDRI-0003")}))
    FrozenSplit(tmp_path).place(patient_key_of("LIDC-IDRI-0005"))
    kept = keeper_nodules(tmp_path)
    assert real == [3, 5]
    assert len(kept) == 10


def test_where_real_ones_are_too_few_a_phantom_is_asked(tmp_path, monkeypatch):
    made = []

    def phantom(seed):
        made.append(seed)
        return [(nodule("p1"), NoduleKind.PART_SOLID, 9.0)]

    monkeypatch.setattr(click_keepers, "unlearned_nodules", lambda each, *, leave_out: iter(()))
    monkeypatch.setattr(click_keepers, "phantom_nodules", phantom)
    (kept,) = keeper_nodules(tmp_path)
    assert (kept.case.case_id, kept.texture, made) == ("p1", NoduleKind.PART_SOLID, [click_keepers.PHANTOM_SEED])
    with pytest.raises(CancelledByUserError):
        keeper_nodules(tmp_path, lambda: True)


def test_without_old_nodules_the_log_says_so_and_all_is_kept(tmp_path, monkeypatch, caplog):
    def refuse(seed):
        raise StorageError("disk full")

    monkeypatch.setattr(click_keepers, "unlearned_nodules", lambda each, *, leave_out: iter(()))
    monkeypatch.setattr(click_keepers, "phantom_nodules", refuse)
    assert keeper_nodules(tmp_path) == []
    assert "disk full" in caplog.text
