import numpy as np
import pytest

from medai.networks.checkpoint import save_checkpoint
from medai.networks.engine import load_engine
from medai.networks.factory import build_network
from medai.training.candidate_trainer import judge_checkpoint

CONFIG = {"network": "candidate_network"}


def test_one_logit_a_place_and_a_small_network():
    import torch

    network = build_network(CONFIG).eval()
    with torch.inference_mode():
        assert network(torch.zeros(3, 2, 24, 24, 24)).shape == (3, 1)
    assert sum(p.numel() for p in network.parameters()) < 500_000


def test_the_engine_answers_as_the_network_does(tmp_path, rng):
    import torch

    torch.manual_seed(3)
    network = build_network(CONFIG).eval()
    path = tmp_path / "weights.safetensors"
    judge = judge_checkpoint(network)
    save_checkpoint(path, judge.tensors, judge.config)
    engine = load_engine(path, device="cpu", threads=1)
    views = rng.uniform(-1, 1, (5, 2, 24, 24, 24)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(views)).numpy()
    np.testing.assert_allclose(engine.run(views), expected, atol=5e-3)
    assert engine.config["patch_shape"] == [24, 24, 24]


@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_places(tmp_path, count):
    path = tmp_path / "weights.safetensors"
    judge = judge_checkpoint(build_network(CONFIG).eval())
    save_checkpoint(path, judge.tensors, judge.config)
    assert load_engine(path, device="cpu", threads=1).run(np.zeros((count, 2, 24, 24, 24), np.float32)).shape == (
        count,
        1,
    )
