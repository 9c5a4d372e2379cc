"""A training in several processes, begun by one call: the real ``torchrun``, real workers, a real kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError, ModelError
from medai.geometry import VolumeGeometry
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.factory import build_network, network_tensors
from medai.training.case_files import load_cases, save_cases
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, FurtherDescents
from medai.training.dataset import ClickDataset
from medai.training.several_processes import config_of, train_in_processes

TINY = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [4, 8], "blocks": [1, 1]},
}
CONFIG = ClickTrainingConfig(
    epochs=2,
    iterations_per_epoch=2,
    batch_size=4,
    replay_fraction=0.25,
    device="cpu",
    keep="last",
    sampling=SamplingConfig(patch_shape=(16, 16, 16), spacing_mm=1.0),
)


def ball(name: str, radius: float) -> ClickCase:
    shape, spacing = (24, 26, 22), (1.0, 0.9, 1.2)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*spacing, 1.0]))
    at = np.indices(shape).transpose(1, 2, 3, 0) - (np.array(shape) - 1) / 2
    mask = np.linalg.norm(at * spacing, axis=-1) <= radius
    image_hu = np.where(mask, 40, -850).astype(np.int16)
    readers = mask.astype(np.float32) if name == "a" else None
    volume = Volume(geometry=geometry, image_hu=image_hu, case_id=name)
    return ClickCase(case_id=f"{name}#1", patient_id=name, volume=volume, mask=mask, readers=readers, weight=2.0)


@pytest.fixture
def dataset() -> ClickDataset:
    return ClickDataset(
        training=(ball("a", 4.0), ball("b", 3.0)), validation=(ball("v", 3.5),), replay=(ball("r", 5.0),)
    )


@pytest.fixture
def start(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = network_tensors(build_network(TINY))
    save_checkpoint(tmp_path / "start.safetensors", tensors, {**TINY, "task": "nodule_click"})
    return tmp_path / "start.safetensors"


def test_two_processes_train_and_tell(dataset: ClickDataset, start: Path, tmp_path: Path) -> None:
    reports, fractions = [], []
    result = train_in_processes(
        dataset,
        CONFIG,
        2,
        start_from=start,
        output_folder=tmp_path / "run",
        on_epoch=reports.append,
        on_iteration=fractions.append,
    )
    assert [report.epoch for report in reports] == [0, 1, 2]
    assert [report.validation_dice for report in result.epochs] == [report.validation_dice for report in reports]
    assert fractions == sorted(fractions)
    assert not result.stopped
    trained = load_checkpoint(result.checkpoint_path).tensors
    assert any(np.abs(value - load_checkpoint(start).tensors[name]).max() > 0 for name, value in trained.items())


def test_it_stops_when_asked_and_goes_on_later(dataset: ClickDataset, start: Path, tmp_path: Path) -> None:
    config = ClickTrainingConfig(**{**_shallow(CONFIG), "epochs": 6})
    seen: list[int] = []
    stopped = train_in_processes(
        dataset,
        config,
        2,
        start_from=start,
        output_folder=tmp_path / "run",
        on_epoch=lambda report: seen.append(report.epoch),
        should_stop=lambda: bool(seen) and seen[-1] >= 1,
    )
    assert stopped.stopped
    assert len(stopped.epochs) < 7
    again: list[int] = []
    whole = train_in_processes(
        dataset,
        config,
        2,
        start_from=start,
        output_folder=tmp_path / "run",
        on_epoch=lambda report: again.append(report.epoch),
        resume=True,
    )
    assert not whole.stopped
    assert [report.epoch for report in whole.epochs] == [0, 1, 2, 3, 4, 5, 6]
    assert again[0] == stopped.epochs[-1].epoch + 1


def test_what_a_worker_refuses_is_told_as_it_is(dataset: ClickDataset, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        train_in_processes(
            dataset, CONFIG, 2, start_from=tmp_path / "missing.safetensors", output_folder=tmp_path / "run"
        )


def test_a_batch_that_cannot_be_shared_is_refused_at_once(dataset: ClickDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A batch of 4 cannot be shared by 3 processes"):
        train_in_processes(dataset, CONFIG, 3, start_from=None, output_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stop_before_anything_was_reached_is_a_stop(dataset: ClickDataset, tmp_path: Path) -> None:
    config = ClickTrainingConfig(**{**_shallow(CONFIG), "iterations_per_epoch": 500})
    with pytest.raises(CancelledByUserError, match="before its first validation"):
        train_in_processes(
            dataset, config, 2, start_from=None, output_folder=tmp_path / "run", should_stop=lambda: True
        )


def test_workers_end_with_the_process_that_began_them(dataset: ClickDataset, start: Path, tmp_path: Path) -> None:
    save_cases(tmp_path / "cases.npz", (*dataset.training, *dataset.validation))
    parent = subprocess.Popen([sys.executable, __file__, str(tmp_path)], start_new_session=True)
    try:
        _wait_for(lambda: len(_workers(tmp_path)) >= 2, 120)
        time.sleep(1.0)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        _wait_for(lambda: not _workers(tmp_path), 60)
    finally:
        parent.kill()
        for worker in _workers(tmp_path):
            os.kill(worker, signal.SIGKILL)


def test_a_configuration_survives_json() -> None:
    import json

    both = replace(CONFIG, further=(FurtherDescents(epochs=3, correction_shares=(0.5, 0.2)), FurtherDescents(epochs=1)))
    finer = replace(CONFIG, further=(FurtherDescents(epochs=3, sampling=SamplingConfig(patch_shape=(24, 24, 24))),))
    for config in (CONFIG, both, finer):
        assert config_of(json.loads(json.dumps(asdict(config)))) == config


def test_cases_survive_a_file(dataset: ClickDataset, tmp_path: Path) -> None:
    save_cases(tmp_path / "cases.npz", dataset.training)
    for before, after in zip(dataset.training, load_cases(tmp_path / "cases.npz"), strict=True):
        assert (after.case_id, after.patient_id, after.weight) == (before.case_id, before.patient_id, before.weight)
        assert after.volume.geometry.is_same_grid(before.volume.geometry)
        np.testing.assert_array_equal(after.volume.image_hu, before.volume.image_hu)
        np.testing.assert_array_equal(after.mask, before.mask)
        assert (after.readers is None) == (before.readers is None)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cases.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"cases\.npz is damaged"):
        load_cases(tmp_path / "cases.npz")


def endless(folder: Path) -> None:
    """What the process that is killed does."""
    cases = load_cases(folder / "cases.npz")
    config = ClickTrainingConfig(**{**_shallow(CONFIG), "epochs": 10_000})
    dataset = ClickDataset(training=tuple(cases[:-1]), validation=(cases[-1],))
    train_in_processes(dataset, config, 2, start_from=folder / "start.safetensors", output_folder=folder / "run")


def _shallow(config: ClickTrainingConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__slots__}


def _workers(folder: Path) -> list[int]:
    """Processes that work on the job of this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"process_worker" in words and str(folder).encode() in words and b"torch.distributed.run" not in words:
            found.append(int(path.parent.name))
    return found


def _wait_for(condition: object, timeout_s: float) -> None:
    assert callable(condition)
    over, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < over, "waited in vain"
        pause.wait(0.2)


if __name__ == "__main__":
    endless(Path(sys.argv[1]))
