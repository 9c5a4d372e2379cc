"""An ensemble is its members' mean, goes on where it was, and answers clicks like any network."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.tiny_click import TINY_NETWORK, ball_case, ball_dataset

from medai.errors import ModelError
from medai.inference.click import ClickSegmenter
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.engine import load_engine
from medai.networks.factory import restore_network
from medai.training import click_trainer
from medai.training.click_ensemble import join_members, train_click_ensemble
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig

CONFIG = ClickTrainingConfig(
    epochs=1,
    iterations_per_epoch=2,
    batch_size=2,
    members=2,
    device="cpu",
    sampling=SamplingConfig(patch_shape=(16, 16, 16)),
)


@pytest.fixture(scope="module")
def dataset():
    return ball_dataset()


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_trainer, "NETWORK", TINY_NETWORK)
        reports, shares = [], []
        result = train_click_ensemble(
            dataset, CONFIG, start_from=None, output_folder=folder, on_epoch=reports.append, on_iteration=shares.append
        )
    return folder, result, reports, shares


def test_its_logits_are_the_mean_of_its_members(trained, rng):
    folder, result, _, _ = trained
    batch = rng.uniform(-1, 1, (2, 5, 16, 16, 16)).astype(np.float32)
    members = [load_engine(folder / f"member_{n}" / "best.safetensors", device="cpu").run(batch) for n in (1, 2)]
    assert np.abs(members[0] - members[1]).max() > 1e-3
    together = load_engine(result.checkpoint_path, device="cpu")
    assert "OpenVINO" in together.description
    np.testing.assert_allclose(together.run(batch), np.mean(members, axis=0), atol=1e-3)


def test_it_answers_clicks(trained):
    _, result, _, _ = trained
    one = ball_case("d")
    answer = ClickSegmenter(load_engine(result.checkpoint_path, device="cpu")).segment(
        one.volume, foreground_ijk=[(15, 14, 11)]
    )
    assert answer.mask.any()


def test_progress_runs_through_all_members(trained):
    _, result, reports, shares = trained
    assert [(report.epoch, report.total_epochs) for report in reports] == [(1, 2), (2, 2)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(result.epochs) == 2


def test_a_finished_member_is_not_trained_again(trained, dataset):
    folder, result, _, _ = trained
    before = load_checkpoint(result.checkpoint_path).tensors
    (folder / "member_2" / click_trainer.STATE_NAME).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_trainer, "NETWORK", TINY_NETWORK)
        reports = []
        again = train_click_ensemble(
            dataset, CONFIG, start_from=None, output_folder=folder, on_epoch=reports.append, resume=True
        )
    assert [report.epoch for report in reports] == [2]
    after = load_checkpoint(again.checkpoint_path).tensors
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_members_of_different_kinds_are_refused(trained, tmp_path):
    folder, _, _, _ = trained
    one = load_checkpoint(folder / "member_1" / "best.safetensors")
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, one.tensors, {**one.config, "spacing_mm": 2.0})
    with pytest.raises(ModelError, match="must have one configuration"):
        join_members([folder / "member_1" / "best.safetensors", other], tmp_path / "joined.safetensors")


def test_no_members_are_refused():
    from medai.errors import InputError

    with pytest.raises(InputError, match="members must be 1 or more"):
        replace(CONFIG, members=0)


def test_a_joined_checkpoint_can_be_fine_tuned(trained):
    _, result, _, _ = trained
    network = restore_network(load_checkpoint(result.checkpoint_path))
    assert len(network.members) == 2
