"""OpenVINO and torch behind one door: parity, cache, fallback, threads."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from medai.errors import InputError, ModelError
from medai.networks import engine as engines
from medai.networks.checkpoint import save_checkpoint
from medai.networks.factory import build_network, network_tensors

CONFIG = {
    "task": "nodule_click",
    "network": "residual_unet",
    "network_options": {"channels_in": 3, "channels": [4, 6, 8], "blocks": [1, 1, 1]},
    "patch_shape": [16, 16, 16],
    "spacing_mm": 0.75,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_checkpoint(path, network_tensors(build_network(CONFIG)), CONFIG)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("cache")
    engines.load_engine(weights, device="cpu", cache_folder=folder)
    return folder


def batch(seed=0, shape=(2, 3, 16, 16, 16)):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def expected(weights, inputs):
    from medai.networks.checkpoint import load_checkpoint
    from medai.networks.factory import restore_network

    with torch.inference_mode():
        return restore_network(load_checkpoint(weights))(torch.from_numpy(inputs)).numpy()


@pytest.mark.parametrize("shape", [(1, 3, 16, 16, 16), (3, 3, 8, 12, 20)])
def test_openvino_gives_torchs_logits_for_any_batch_and_patch(weights, cache, shape):
    engine = engines.load_engine(weights, device="cpu", cache_folder=cache)
    assert engine.description.startswith("OpenVINO on CPU")
    assert engine.config == CONFIG
    found = engine.run(batch(shape=shape))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(weights, batch(shape=shape)), atol=engines.PARITY_LOGITS)


def test_a_cached_network_loads_without_torch(weights, cache):
    code = (
        "import sys; from pathlib import Path; from medai.networks.engine import load_engine\n"
        f"engine = load_engine(Path({str(weights)!r}), device='cpu', cache_folder=Path({str(cache)!r}))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "print(engine.description)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OpenVINO" in done.stdout


def test_other_weights_get_their_own_cached_network(weights, cache, tmp_path):
    other = tmp_path / "other.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(4)
        save_checkpoint(other, network_tensors(build_network(CONFIG)), CONFIG)
    before = set(cache.iterdir())
    found = engines.load_engine(other, device="cpu", cache_folder=cache).run(batch())
    assert len(set(cache.iterdir()) - before) == 1
    np.testing.assert_allclose(found, expected(other, batch()), atol=engines.PARITY_LOGITS)


def test_a_damaged_cached_network_is_converted_again(weights, tmp_path, caplog):
    engines.load_engine(weights, device="cpu", cache_folder=tmp_path)
    (stored,) = tmp_path.glob("*/model.xml")
    stored.write_text("not a network")
    found = engines.load_engine(weights, device="cpu", cache_folder=tmp_path).run(batch())
    assert "converting again" in caplog.text
    assert stored.read_text() != "not a network"
    np.testing.assert_allclose(found, expected(weights, batch()), atol=engines.PARITY_LOGITS)


def test_torch_takes_over_where_the_conversion_differs(weights, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(engines, "PARITY_LOGITS", -1.0)
    engine = engines.load_engine(weights, device="cpu", cache_folder=tmp_path)
    assert engine.description == "torch on cpu"
    assert "differ from torch's" in caplog.text
    assert not list(tmp_path.iterdir())
    np.testing.assert_allclose(engine.run(batch()), expected(weights, batch()), atol=1e-4)


def test_threads_get_their_own_answers(weights, cache):
    engine = engines.load_engine(weights, device="cpu", cache_folder=cache)
    alone = [engine.run(batch(seed)) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda seed: engine.run(batch(seed)), range(12)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_answer_is_not_overwritten_by_the_next_run(weights, cache):
    engine = engines.load_engine(weights, device="cpu", cache_folder=cache)
    first = engine.run(batch(1))
    kept = first.copy()
    engine.run(batch(2))
    np.testing.assert_array_equal(first, kept)


def test_unknown_devices_and_missing_weights_are_refused(weights, tmp_path):
    with pytest.raises(InputError, match="Device 'tpu' is unknown"):
        engines.load_engine(weights, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="finds no usable GPU"):
            engines.load_engine(weights, device="cuda")
    with pytest.raises(ModelError, match="no weights at"):
        engines.load_engine(tmp_path / "none.safetensors", device="cpu", cache_folder=tmp_path)
