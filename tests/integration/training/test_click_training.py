"""Training the click network for real, on tiny patches: it learns, stops, resumes, and keeps the best."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError, ModelError
from medai.geometry import VolumeGeometry
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.factory import build_network, network_tensors
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, rate_factor, train_click_network
from medai.training.dataset import ClickDataset

TINY = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [6, 8], "blocks": [1, 1]},
}
CONFIG = ClickTrainingConfig(
    epochs=2,
    iterations_per_epoch=4,
    batch_size=2,
    warmup_iterations=1,
    learning_rate=0.01,
    average_decay=0.5,
    device="cpu",
    sampling=SamplingConfig(patch_shape=(16, 16, 16)),
)


def case(patient_id, centre=(15, 14, 8), radius_mm=4.0):
    shape, spacing = (30, 31, 18), (0.8, 0.8, 1.25)
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    mask = np.linalg.norm(places - np.array(centre) * spacing, axis=-1) < radius_mm
    image_hu = np.where(mask, 30, -850) + np.random.default_rng(1).normal(0, 20, shape)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*spacing, 1.0]))
    volume = Volume(geometry=geometry, image_hu=image_hu.astype(np.int16))
    return ClickCase(case_id=patient_id, patient_id=patient_id, volume=volume, mask=mask)


@pytest.fixture(scope="module")
def dataset():
    return ClickDataset(training=(case("a"), case("b", radius_mm=3.0)), validation=(case("v", radius_mm=3.5),))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(path, network_tensors(build_network(TINY)), {**TINY, "task": "nodule_click"})
    return path


@pytest.fixture(scope="module")
def finished(dataset, start, tmp_path_factory):
    """One training to the end, its reports, and its progress."""
    progress = []
    folder = tmp_path_factory.mktemp("finished")
    config = replace(CONFIG, epochs=5)
    result = train_click_network(dataset, config, start_from=start, output_folder=folder, on_iteration=progress.append)
    return result, progress


def test_it_learns_and_keeps_the_best(finished):
    result, _ = finished
    assert [report.epoch for report in result.epochs] == [0, 1, 2, 3, 4, 5]
    assert result.best_dice == max(report.validation_dice for report in result.epochs)
    assert result.best_dice > result.epochs[0].validation_dice + 0.2
    assert result.epochs[5].train_loss < result.epochs[1].train_loss
    assert not result.stopped
    checkpoint = load_checkpoint(result.checkpoint_path)
    assert checkpoint.config["task"] == "nodule_click"
    assert checkpoint.config["patch_shape"] == [16, 16, 16]
    assert checkpoint.config["network_options"] == TINY["network_options"]


def test_progress_rises_to_one(finished):
    _, progress = finished
    assert len(progress) == 20
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


def test_what_it_saved_answers_clicks(finished):
    from medai.inference.evaluate_click import evaluate_click_model
    from medai.networks.engine import load_engine

    result, _ = finished
    engine = load_engine(result.checkpoint_path, device="cpu")
    scores = evaluate_click_model(engine, [case("v"), case("w", radius_mm=3.0)], seed=1)
    assert min(scores) > 0.3
    assert scores == evaluate_click_model(engine, [case("v"), case("w", radius_mm=3.0)], seed=1)
    assert len(evaluate_click_model(engine, [case("v")], seed=1, clicks=3, careful=False)) == 1


def test_the_same_seed_gives_the_same_weights_also_when_resumed(dataset, start, tmp_path):
    whole = train_click_network(dataset, CONFIG, start_from=start, output_folder=tmp_path / "whole")
    calls = []

    def stop_in_the_second_epoch():
        calls.append(1)
        return len(calls) == 6

    part = train_click_network(
        dataset, CONFIG, start_from=start, output_folder=tmp_path / "part", should_stop=stop_in_the_second_epoch
    )
    assert part.stopped
    assert [report.epoch for report in part.epochs] == [0, 1]
    resumed = train_click_network(dataset, CONFIG, start_from=start, output_folder=tmp_path / "part", resume=True)
    assert not resumed.stopped
    assert [r.validation_dice for r in resumed.epochs] == [r.validation_dice for r in whole.epochs]
    one, other = load_checkpoint(whole.checkpoint_path), load_checkpoint(resumed.checkpoint_path)
    for name, tensor in one.tensors.items():
        np.testing.assert_allclose(other.tensors[name], tensor, atol=1e-6)


def test_the_rate_rises_in_a_line_and_falls_by_a_cosine():
    config = replace(CONFIG, epochs=3, iterations_per_epoch=100, warmup_iterations=10)
    rates = [rate_factor(config)(iteration) for iteration in range(300)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0, abs=0.01)
    assert rates[299] == pytest.approx(0.01)
    assert all(later <= earlier for earlier, later in pairwise(rates[9:]))


def test_a_worse_training_gives_the_weights_it_started_from(dataset, finished, tmp_path):
    good = finished[0].checkpoint_path
    ruin = replace(CONFIG, epochs=1, iterations_per_epoch=2, learning_rate=3.0, average_decay=0.0)
    result = train_click_network(dataset, ruin, start_from=good, output_folder=tmp_path)
    assert result.best_epoch == 0
    np.testing.assert_array_equal(
        load_checkpoint(result.checkpoint_path).tensors["head.weight"], load_checkpoint(good).tensors["head.weight"]
    )


def test_stopped_before_anything_was_validated(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("medai.training.click_trainer.NETWORK", TINY)
    with pytest.raises(CancelledByUserError, match="before its first validation"):
        train_click_network(dataset, CONFIG, start_from=None, output_folder=tmp_path, should_stop=lambda: True)
    assert not list(tmp_path.iterdir())


def test_resuming_with_other_settings_is_refused(dataset, start, tmp_path):
    short = replace(CONFIG, epochs=1, iterations_per_epoch=1)
    train_click_network(dataset, short, start_from=start, output_folder=tmp_path)
    with pytest.raises(InputError, match="other settings"):
        train_click_network(
            dataset, replace(short, learning_rate=0.02), start_from=start, output_folder=tmp_path, resume=True
        )


def test_a_loss_that_is_lost_is_reported(dataset, start, tmp_path, monkeypatch):
    from medai.training import click_batches

    def lost(self, logits, label):
        return logits.mean() * float("nan")

    monkeypatch.setattr(click_batches.ClickLoss, "forward", lost)
    with pytest.raises(ModelError, match="diverged"):
        train_click_network(dataset, CONFIG, start_from=start, output_folder=tmp_path)


def test_unknown_voxels_have_no_loss_and_no_gradient():
    from monai.losses import DiceCELoss

    from medai.training.click_batches import ClickLoss

    loss = ClickLoss(DiceCELoss(sigmoid=True))
    logits = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    label = torch.zeros(1, 3, 4, 4, 4)
    label[:, 2, :2] = 0.5
    label[:, 0, :2] = 1.0
    label[:, 1, :3] = 1.0
    loss(logits, label).backward()
    assert logits.grad[:, :, 3].abs().max() == 0
    assert logits.grad[:, :, :3].abs().min() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"batch_size": -1}, "batch_size must be 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"replay_fraction": 1.0}, "replay_fraction must be 0 or more and below 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        ClickTrainingConfig(**change)


def test_replay_cases_get_their_share():
    from medai.training.click_trainer import _weighted

    replay = ClickDataset(training=(case("a"),), validation=(case("v"),), replay=(case("r"), case("s")))
    cases, weights = _weighted(replay, 0.3)
    assert [c.patient_id for c in cases] == ["a", "r", "s"]
    np.testing.assert_allclose(weights, [0.7, 0.15, 0.15])


def test_a_heavier_case_is_drawn_more_often_within_its_part():
    from medai.training.click_trainer import _weighted

    heavy = replace(case("b"), weight=3.0)
    dataset = ClickDataset(
        training=(case("a"), heavy), validation=(case("v"),), replay=(replace(case("r"), weight=9.0), case("s"))
    )
    np.testing.assert_allclose(_weighted(dataset, 0.2)[1], [0.2, 0.6, 0.18, 0.02])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_drawn_by_is_refused(weight):
    with pytest.raises(InputError, match="must be above 0 and finite"):
        replace(case("a"), weight=weight)
