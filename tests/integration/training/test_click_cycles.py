"""Further descents start where the ones before ended, differ by their seed, and become one network."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.tiny_click import TINY_NETWORK, ball_dataset

from medai.errors import CancelledByUserError, InputError, ModelError
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.engine import load_engine
from medai.training import click_cycles, click_trainer
from medai.training.click_cycles import average_weights, train_click_cycles
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, FurtherDescents, patch_dice

CONFIG = ClickTrainingConfig(
    epochs=2,
    further=(FurtherDescents(epochs=1, count=2),),
    iterations_per_epoch=2,
    batch_size=2,
    average_decay=0.5,
    keep="last",
    device="cpu",
    sampling=SamplingConfig(patch_shape=(16, 16, 16)),
)


@pytest.fixture(scope="module", autouse=True)
def _tiny_network_and_few_patches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_trainer, "NETWORK", TINY_NETWORK)
        patch.setattr(click_trainer, "SETTLING_BATCHES", 3)
        yield


@pytest.fixture(scope="module")
def dataset():
    return ball_dataset()


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cycles")
    reports, fractions = [], []
    result = train_click_cycles(
        dataset, CONFIG, start_from=None, output_folder=folder, on_epoch=reports.append, on_iteration=fractions.append
    )
    return folder, result, reports, fractions


def tensors(folder):
    return load_checkpoint(folder / "best.safetensors").tensors


def test_the_weights_are_the_mean_of_the_second_descents(trained):
    folder, _, _, _ = trained
    one, other, joined = (tensors(folder / name) for name in ("cycle_2_1", "cycle_2_2", "."))
    weights = [name for name in joined if "running" not in name and "batches" not in name]
    assert any(np.abs(one[name] - other[name]).max() > 0 for name in weights)
    for name in weights:
        np.testing.assert_allclose(joined[name], (one[name] + other[name]) / 2, atol=1e-3)


def test_the_batch_norms_are_measured_anew_and_the_network_answers(trained, dataset, rng):
    folder, result, _, _ = trained
    one, other, joined = (tensors(folder / name) for name in ("cycle_2_1", "cycle_2_2", "."))
    means = [name for name in joined if name.endswith("running_mean")]
    assert any(np.abs(joined[name] - (one[name] + other[name]) / 2).max() > 1e-4 for name in means)
    logits = load_engine(result.checkpoint_path, device="cpu").run(
        rng.uniform(-1, 1, (2, 5, 16, 16, 16)).astype(np.float32)
    )
    assert np.isfinite(logits).all()
    assert result.best_dice == patch_dice(result.checkpoint_path, dataset, CONFIG)


def test_progress_runs_through_all_descents(trained):
    _, result, reports, fractions = trained
    assert [(report.epoch, report.total_epochs) for report in reports] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(np.isfinite(report.train_loss) for report in reports)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [r.epoch for r in result.epochs] == [1, 2, 3, 4]
    assert [r.validation_dice for r in result.epochs] == [r.validation_dice for r in reports]
    assert not result.stopped


def test_descents_in_processes_of_their_own_give_the_same(trained, dataset, tmp_path):
    folder, _, _, _ = trained
    start = folder / "cycle_1" / "best.safetensors"
    here, there = (
        train_click_cycles(dataset, CONFIG, start_from=start, output_folder=tmp_path / name, processes=processes)
        for name, processes in (("here", 1), ("there", 2))
    )
    before, after = tensors(tmp_path / "here"), tensors(tmp_path / "there")
    for name in before:
        np.testing.assert_allclose(before[name], after[name], atol=5e-3, err_msg=name)
    assert here.best_dice == pytest.approx(there.best_dice, abs=0.02)
    assert sorted(report.epoch for report in here.epochs) == sorted(report.epoch for report in there.epochs)


def test_a_finished_descent_is_not_trained_again(trained, dataset):
    folder, result, _, _ = trained
    before = tensors(folder)
    (folder / "cycle_2_2" / click_trainer.STATE_NAME).unlink()
    reports = []
    train_click_cycles(dataset, CONFIG, start_from=None, output_folder=folder, on_epoch=reports.append, resume=True)
    assert [report.epoch for report in reports] == [4]
    for name, value in tensors(folder).items():
        np.testing.assert_array_equal(value, before[name])
    assert result.checkpoint_path.is_file()


def test_one_second_descent_is_the_network_it_makes(dataset, tmp_path):
    config = replace(CONFIG, further=(FurtherDescents(epochs=1),))
    result = train_click_cycles(dataset, config, start_from=None, output_folder=tmp_path, processes=2)
    for name, value in tensors(tmp_path / "cycle_2_1").items():
        np.testing.assert_array_equal(value, tensors(tmp_path)[name])
    assert len(result.epochs) == config.total_epochs == 3


def test_each_stage_goes_on_from_the_mean_of_the_one_before(dataset, tmp_path, monkeypatch):
    seen = []
    real = click_cycles.train_click_network

    def noting(cases, *, config, **how):
        seen.append((how["output_folder"].name, how["start_from"], config))
        return real(cases, config=config, **how)

    monkeypatch.setattr(click_cycles, "train_click_network", noting)
    fine = replace(CONFIG.sampling, zoom_spread=0.3)
    further = (FurtherDescents(epochs=1, count=2, sampling=fine), FurtherDescents(epochs=1, rate=0.25))
    config = replace(CONFIG, further=further)
    result = train_click_cycles(dataset, config, start_from=None, output_folder=tmp_path)
    assert sorted(name for name, _, _ in seen) == ["cycle_1", "cycle_2_1", "cycle_2_2", "cycle_3_1"]
    starts = {name: start and start.relative_to(tmp_path).as_posix() for name, start, _ in seen}
    assert starts == {
        "cycle_1": None, "cycle_2_1": "cycle_1.safetensors", "cycle_2_2": "cycle_1.safetensors",
        "cycle_3_1": "cycle_2.safetensors",
    }  # fmt: skip
    configs = {name: config for name, _, config in seen}
    assert len({config.seed for config in configs.values()}) == 4
    assert configs["cycle_3_1"].sampling == fine, "what a stage does not say stays"
    assert configs["cycle_3_1"].learning_rate == CONFIG.learning_rate * 0.25
    assert [report.epoch for report in result.epochs] == [1, 2, 3, 4, 5]
    for name, value in tensors(tmp_path / "cycle_3_1").items():
        np.testing.assert_array_equal(value, tensors(tmp_path)[name])


def test_second_descents_may_correct_more_often(dataset, tmp_path, monkeypatch):
    seen = []
    real = click_cycles.train_click_network

    def noting(cases, *, config, **how):
        seen.append(config)
        return real(cases, config=config, **how)

    monkeypatch.setattr(click_cycles, "train_click_network", noting)
    second = FurtherDescents(epochs=1, count=2, rate=0.25, correction_shares=(1.0,))
    train_click_cycles(dataset, replace(CONFIG, further=(second,)), start_from=None, output_folder=tmp_path)
    assert [config.correction_shares for config in seen] == [CONFIG.correction_shares, (1.0,), (1.0,)]
    assert [config.learning_rate / CONFIG.learning_rate for config in seen] == [1.0, 0.25, 0.25]
    assert len({config.seed for config in seen}) == 3


def test_second_descents_may_see_finer_patches(dataset, tmp_path):
    fine = replace(CONFIG.sampling, patch_shape=(24, 24, 24), spacing_mm=0.6)
    config = replace(CONFIG, further=(FurtherDescents(epochs=1, sampling=fine),))
    result = train_click_cycles(dataset, config, start_from=None, output_folder=tmp_path)
    first, last = (load_checkpoint(tmp_path / name / "best.safetensors").config for name in ("cycle_1", "."))
    assert (first["patch_shape"], last["patch_shape"]) == ([16, 16, 16], [24, 24, 24])
    assert (first["spacing_mm"], last["spacing_mm"]) == (0.9, 0.6)
    assert result.best_dice == patch_dice(result.checkpoint_path, dataset, replace(config, sampling=fine))


def test_a_stop_in_the_first_descent_keeps_what_it_has(dataset, tmp_path):
    reports = []
    result = train_click_cycles(
        dataset,
        CONFIG,
        start_from=None,
        output_folder=tmp_path,
        on_epoch=reports.append,
        should_stop=lambda: bool(reports),
    )
    assert result.stopped
    assert not (tmp_path / "cycle_2_1").exists()
    for name, value in tensors(tmp_path / "cycle_1").items():
        np.testing.assert_array_equal(value, tensors(tmp_path)[name])


def test_a_stop_before_the_first_validation_leaves_nothing(dataset, tmp_path):
    with pytest.raises(CancelledByUserError):
        train_click_cycles(dataset, CONFIG, start_from=None, output_folder=tmp_path, should_stop=lambda: True)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_descent_that_fails_stops_the_others(dataset, tmp_path, monkeypatch):
    real, stops = click_cycles.train_click_network, []

    def failing(cases, *, config, **how):
        if how["start_from"] is None:
            return real(cases, config=config, **how)
        if config.seed == CONFIG.seed + 1:
            raise ModelError("diverged")
        stops.append(how["should_stop"]())
        return real(cases, config=config, **how)

    monkeypatch.setattr(click_cycles, "train_click_network", failing)
    with pytest.raises(ModelError, match="diverged"):
        train_click_cycles(dataset, CONFIG, start_from=None, output_folder=tmp_path)
    assert stops in ([], [True])


def test_networks_of_different_kinds_are_refused(trained, dataset, tmp_path):
    folder, _, _, _ = trained
    one = load_checkpoint(folder / "cycle_2_1" / "best.safetensors")
    other = tmp_path / "other.safetensors"
    options = {**one.config["network_options"], "blocks": [1, 2]}
    save_checkpoint(other, one.tensors, {**one.config, "network_options": options})
    with pytest.raises(ModelError, match="networks of one kind alone"):
        average_weights([folder / "cycle_2_1" / "best.safetensors", other], tmp_path / "joined", dataset, CONFIG)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"epochs": 1, "count": 0}])
def test_no_second_descent_at_all_is_refused(change):
    with pytest.raises(InputError, match="must be 1 or more"):
        FurtherDescents(**change)
