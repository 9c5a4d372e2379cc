import pytest

from medai.errors import ModelError
from medai.networks.factory import build_network

CONFIG = {"network": "detection_network", "network_options": {"profile": "cpu", "channels_in": 1, "anchors": 2}}


def test_seven_numbers_a_place_and_anchor_on_three_levels():
    import torch

    network = build_network(CONFIG).eval()
    with torch.inference_mode():
        answer = network(torch.zeros(1, 1, 16, 24, 32))
    assert answer.shape == (1, 14, 8 * 12 * 16 + 4 * 6 * 8 + 2 * 3 * 4)


def test_the_narrow_profile_is_small_and_starts_unsure_of_every_place():
    import torch

    network = build_network(CONFIG).eval()
    assert 300_000 < sum(p.numel() for p in network.parameters()) < 700_000
    with torch.inference_mode():
        logits = network(torch.rand(1, 1, 16, 16, 16))[:, :2]
    assert torch.sigmoid(logits).mean() == pytest.approx(0.01, abs=0.005)


def test_unknown_profiles_are_refused():
    with pytest.raises(ModelError, match="profile 'tpu' is none of cpu, gpu"):
        build_network({"network": "detection_network", "network_options": {"profile": "tpu"}})
