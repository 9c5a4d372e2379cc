import numpy as np
import pytest

from medai.networks.engine import load_engine
from medai.networks.factory import build_network
from medai.training.candidate_trainer import save_candidate_network

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
    save_candidate_network(path, network, logit_scale=1.3, logit_shift=-2.0)
    engine = load_engine(path, device="cpu", threads=1)
    views = rng.uniform(-1, 1, (5, 2, 24, 24, 24)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(views)).numpy()
    np.testing.assert_allclose(engine.run(views), expected, atol=5e-3)
    assert (engine.config["logit_scale"], engine.config["logit_shift"]) == (1.3, -2.0)
    assert engine.config["task"] == "nodule_detection"
    assert engine.config["patch_shape"] == [24, 24, 24]


@pytest.mark.parametrize("count", [1, 7])
def test_any_number_of_places(tmp_path, count):
    path = tmp_path / "weights.safetensors"
    save_candidate_network(path, build_network(CONFIG).eval(), logit_scale=1.0, logit_shift=0.0)
    assert load_engine(path, device="cpu", threads=1).run(np.zeros((count, 2, 24, 24, 24), np.float32)).shape == (
        count,
        1,
    )
