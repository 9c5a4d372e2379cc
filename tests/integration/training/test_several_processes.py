"""Two processes train what one trains: gradients, batch norms, patches and stopping are shared (gloo, on the CPU)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.factory import build_network, network_tensors
from medai.training import click_trainer
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, train_click_network
from medai.training.dataset import ClickDataset
from medai.training.processes import ProcessShare, ShareOfBatches

TINY = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [6, 8], "blocks": [1, 1]},
}
CONFIG = ClickTrainingConfig(
    epochs=2,
    iterations_per_epoch=3,
    batch_size=4,
    warmup_iterations=1,
    learning_rate=1e-3,
    average_decay=0.5,
    # The corrections' clicks are drawn by each process for itself; without them both draw the same.
    correction_shares=(),
    device="cpu",
    keep="last",
    sampling=SamplingConfig(patch_shape=(16, 16, 16)),
)
TOLERANCE = 5e-4
"""Of the weights, which are stored with 16 bits; a training moves them by several times as much."""
LOSS_TOLERANCE = 1e-3


def case(patient_id, radius_mm):
    shape, spacing = (30, 31, 18), (0.8, 0.8, 1.25)
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    mask = np.linalg.norm(places - np.array((15, 14, 8)) * spacing, axis=-1) < radius_mm
    image_hu = np.where(mask, 30, -850) + np.random.default_rng(1).normal(0, 20, shape)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*spacing, 1.0]))
    volume = Volume(geometry=geometry, image_hu=image_hu.astype(np.int16))
    return ClickCase(case_id=patient_id, patient_id=patient_id, volume=volume, mask=mask)


def train(folder: Path, config: ClickTrainingConfig, stop_rank: int | None = None):
    """What each process does; the reports of the leading one."""
    # In bfloat16 the order in which numbers are added already moves a weight by a step or two.
    click_trainer._has_bfloat16 = lambda: False
    dataset = ClickDataset(training=(case("a", 4.0), case("b", 3.0)), validation=(case("v", 3.5),))
    reports = []
    rank = int(os.environ.get("RANK", "0"))
    result = train_click_network(
        dataset,
        config,
        start_from=folder / "start.safetensors",
        output_folder=folder / os.environ.get("WORLD_SIZE", "1"),
        on_epoch=reports.append,
        should_stop=lambda: rank == stop_rank,
    )
    return result, reports


def one_of_several(folder: Path, stop_rank: int):
    """What ``torchrun`` runs in each process."""
    torch.set_num_threads(1)
    config = CONFIG if stop_rank < 0 else replace(CONFIG, correction_shares=(1.0,))
    result, reports = train(folder, config, stop_rank)
    told = {"stopped": result.stopped, "reports": [[r.epoch, r.train_loss, r.validation_dice] for r in reports]}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def run_two(folder, stop_rank=-1):
    """Train in two processes; what each of them told."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*torchrun, __file__, str(folder), str(stop_rank)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(click_trainer, "_has_bfloat16", click_trainer._has_bfloat16)  # put back what ``train`` changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = network_tensors(build_network(TINY))
    save_checkpoint(tmp_path / "start.safetensors", tensors, {**TINY, "task": "nodule_click"})
    return tmp_path


def test_two_processes_train_what_one_trains(folder):
    _, alone = train(folder, CONFIG)
    found = run_two(folder)
    assert found[1]["reports"] == []  # the second one reports nothing
    for report, (epoch, loss, dice) in zip(alone, found[0]["reports"], strict=True):
        assert report.epoch == epoch
        assert report.validation_dice == pytest.approx(dice, abs=0.05)
        assert report.train_loss == pytest.approx(loss, rel=LOSS_TOLERANCE, nan_ok=True)
    one, two = (load_checkpoint(folder / name / "best.safetensors").tensors for name in ("1", "2"))
    start = load_checkpoint(folder / "start.safetensors").tensors
    moved = max(float(np.abs(one[name] - start[name]).max()) for name in one)
    assert moved > 4 * TOLERANCE
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, atol=TOLERANCE, err_msg=name)


def test_when_one_is_asked_to_stop_both_stop(folder):
    assert [told["stopped"] for told in run_two(folder, stop_rank=1)] == [True, True]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(InputError, match="A batch of 4 cannot be shared by 3 processes"):
        ProcessShare(rank=0, count=3).of_batch(4)


def test_shares_make_up_the_whole():
    parts = [list(ShareOfBatches(range(12), ProcessShare(rank=rank, count=2), 4)) for rank in (0, 1)]
    assert parts == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert len(ShareOfBatches(range(12), ProcessShare(rank=1, count=2), 4)) == 6


if __name__ == "__main__":
    one_of_several(Path(sys.argv[1]), int(sys.argv[2]))
