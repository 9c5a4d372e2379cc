"""Every network a checkpoint can name: converted with parity, refused without it, by torch on a GPU."""

import numpy as np
import pytest
import torch

from medai.networks import engine as engines
from medai.networks.checkpoint import Checkpoint, load_checkpoint, read_config, save_checkpoint, save_parts
from medai.networks.factory import NETWORKS, build_network, network_tensors, restore_network
from medai.registry.model_registry import PACKAGED_STARTERS
from medai.workflows.models import convert_ahead

UNET = {
    "network": "residual_unet",
    "network_options": {"channels_in": 3, "channels": [4, 6, 8], "blocks": [1, 1, 1]},
    "patch_shape": [16, 16, 16],
}
SMALL = {
    "residual_unet": UNET,
    "ensemble": {
        "network": "ensemble",
        "network_options": {"count": 2, "member": UNET, "channels_in": 3},
        "patch_shape": [16, 16, 16],
    },
    "candidate_network": {
        "network": "candidate_network",
        "network_options": {"channels_in": 2, "widths": [4, 6]},
        "patch_shape": [16, 16, 16],
    },
    "detection_network": {
        "network": "detection_network",
        "network_options": {"profile": "cpu", "channels_in": 1, "anchors": 1},
        "patch_shape": [32, 24, 40],
    },
    "classification_network": {
        "network": "classification_network",
        "network_options": {"channels_in": 6, "views": 2, "widths": [4, 6], "outputs": 8, "members": 2},
        "patch_shape": [16, 16, 16],
    },
}

every_network = pytest.mark.parametrize("name", sorted(SMALL))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Network to a checkpoint of it with random weights and statistics that are not those of a fresh one."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name, config in SMALL.items():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network = build_network(config)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm3d):
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
        paths[name] = folder / f"{name}.safetensors"
        save_checkpoint(paths[name], network_tensors(network), {**config, "task": "of_tests"})
    return paths


def example(name):
    return engines._example(SMALL[name])


def said_by_torch(path, batch):
    with torch.inference_mode():
        return restore_network(load_checkpoint(path))(torch.from_numpy(batch)).numpy()


def test_no_network_is_left_out():
    assert set(SMALL) == set(NETWORKS)


@every_network
def test_the_conversion_says_what_torch_says(weights, tmp_path, name):
    engine = engines.load_engine(weights[name], device="cpu", cache_folder=tmp_path, threads=1)
    assert engine.description.startswith("OpenVINO on CPU")
    for batch in (example(name), np.concatenate([example(name)] * 2) * np.float32(0.3)):
        np.testing.assert_allclose(engine.run(batch), said_by_torch(weights[name], batch), atol=engines.PARITY_LOGITS)
    assert len(list(tmp_path.glob("*/model.xml"))) == 1


@every_network
def test_a_conversion_that_says_something_else_is_refused(weights, tmp_path, name, caplog, monkeypatch):
    honest = engines._convert

    def another_network(network, config):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1)
            model = honest(network, config)
            for parameter in network.parameters():
                parameter.div_(1.1)
        return model

    monkeypatch.setattr(engines, "_convert", another_network)
    engine = engines.load_engine(weights[name], device="cpu", cache_folder=tmp_path, threads=1)
    assert engine.description == "torch on cpu"
    assert "differ from torch's by" in caplog.text
    assert not list(tmp_path.iterdir())
    batch = example(name)
    np.testing.assert_allclose(engine.run(batch), said_by_torch(weights[name], batch), atol=1e-4)


@every_network
def test_a_gpu_runs_torch(weights, name, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engines, "TorchEngine", lambda network, config, device: chosen.append(device))
    engines.load_engine(weights[name], device="cuda")
    assert chosen == ["cuda"]


def test_networks_are_converted_ahead_part_by_part(weights, tmp_path):
    parts = {name: load_checkpoint(weights[name]) for name in ("candidate_network", "detection_network")}
    both = tmp_path / "both.safetensors"
    save_parts(both, {n: Checkpoint(config=c.config, tensors=c.tensors) for n, c in parts.items()}, {"network": "two"})
    convert_ahead(both, device="cpu", cache_folder=tmp_path / "engines")
    convert_ahead(weights["residual_unet"], device="cpu", cache_folder=tmp_path / "engines")
    assert len(list((tmp_path / "engines").glob("*/model.xml"))) == 3


def test_what_cannot_be_converted_ahead_is_told(tmp_path, caplog):
    (tmp_path / "w.safetensors").write_text("0.8")
    convert_ahead(tmp_path / "w.safetensors", cache_folder=tmp_path / "engines")
    assert "not converted ahead" in caplog.text
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("task", sorted(path.name for path in PACKAGED_STARTERS.iterdir() if path.is_dir()))
def test_the_packaged_networks_convert(task, tmp_path):
    path = PACKAGED_STARTERS / task / "weights.safetensors"
    for part in list(read_config(path).get("parts", {})) or [None]:
        engine = engines.load_engine(path, part=part, device="cpu", cache_folder=tmp_path, threads=1)
        assert engine.description.startswith("OpenVINO on CPU")
