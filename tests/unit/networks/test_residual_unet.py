"""The click network's shapes, and building it from a config."""

import pytest
import torch

from medai.errors import ModelError
from medai.networks.checkpoint import Checkpoint
from medai.networks.factory import build_network, network_tensors, restore_network
from medai.networks.residual_unet import ResidualUNet

CONFIG = {"network": "residual_unet", "network_options": {"channels": [4, 6, 8], "blocks": [1, 1, 1]}}


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 12, 16)])
def test_logits_have_the_patch_shape(shape):
    network = ResidualUNet(channels_in=2, channels_out=3, channels=(4, 6, 8), blocks=(1, 2, 1)).eval()
    assert network(torch.zeros(2, 2, *shape)).shape == (2, 3, *shape)


def test_the_starter_network_is_small():
    assert 600_000 < sum(p.numel() for p in ResidualUNet().parameters()) < 1_500_000


def test_a_shift_of_the_patch_shifts_the_answer():
    torch.manual_seed(1)
    network = ResidualUNet(channels_in=1, channels=(4, 6), blocks=(1, 1)).eval()
    patch = torch.zeros(1, 1, 24, 24, 24)
    patch[..., 8:12, 8:12, 8:12] = 1.0
    with torch.no_grad():
        here, there = network(patch), network(torch.roll(patch, 4, dims=2))
    torch.testing.assert_close(torch.roll(here, 4, dims=2)[..., 8:16, 8:16, 8:16], there[..., 8:16, 8:16, 8:16])


def test_weights_survive_the_way_through_a_checkpoint():
    torch.manual_seed(2)
    network = build_network(CONFIG).eval()
    restored = restore_network(Checkpoint(config=CONFIG, tensors=network_tensors(network)))
    patch = torch.rand(1, 3, 8, 8, 8)
    with torch.no_grad():
        # float16 on disk
        torch.testing.assert_close(restored(patch), network(patch), atol=5e-3, rtol=0)


def test_unknown_networks_and_unfit_options_or_weights_are_refused():
    with pytest.raises(ModelError, match="No network is called 'resnet'"):
        build_network({"network": "resnet"})
    with pytest.raises(ModelError, match="options of network 'residual_unet' do not fit"):
        build_network({"network": "residual_unet", "network_options": {"depth": 4}})
    tensors = network_tensors(build_network(CONFIG))
    tensors.pop("head.bias")
    with pytest.raises(ModelError, match=r"head\.bias"):
        restore_network(Checkpoint(config=CONFIG, tensors=tensors))
