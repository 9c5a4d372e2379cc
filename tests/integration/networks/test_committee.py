"""A committee is its ensemble, heard member by member."""

import numpy as np
import pytest
import torch

from medai.errors import ModelError
from medai.networks.checkpoint import load_checkpoint, read_config, save_checkpoint
from medai.networks.committee import Committee, load_committee
from medai.networks.engine import PARITY_LOGITS, load_engine
from medai.networks.factory import build_network, network_tensors
from medai.training.click_ensemble import join_members

CONFIG = {
    "task": "nodule_click",
    "network": "residual_unet",
    "network_options": {"channels_in": 3, "channels": [4, 6], "blocks": [1, 1]},
    "patch_shape": [16, 16, 16],
    "spacing_mm": 0.75,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for number in range(2):
            save_checkpoint(folder / f"{number}.safetensors", network_tensors(build_network(CONFIG)), CONFIG)
    join_members([folder / "0.safetensors", folder / "1.safetensors"], folder / "both.safetensors")
    return folder


def test_each_member_answers_as_it_would_alone_and_their_mean_is_the_ensembles(weights, tmp_path):
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 16, 16)).astype(np.float32)
    committee = load_committee(weights / "both.safetensors", device="cpu", cache_folder=tmp_path)
    assert isinstance(committee, Committee)
    each = committee.run_members(batch)
    for number in range(2):
        alone = load_engine(weights / f"{number}.safetensors", device="cpu").run(batch)
        np.testing.assert_allclose(each[number], alone, atol=PARITY_LOGITS)
    together = load_engine(weights / "both.safetensors", device="cpu").run(batch)
    np.testing.assert_allclose(committee.run(batch), together, atol=PARITY_LOGITS)
    assert committee.config["network"] == "ensemble"
    assert "2 networks" in committee.description


def test_converted_members_are_kept(weights, tmp_path):
    load_committee(weights / "both.safetensors", device="cpu", cache_folder=tmp_path)
    assert sorted("-members." in path.name for path in tmp_path.iterdir()) == [True, True]
    assert load_committee(weights / "both.safetensors", device="cpu", cache_folder=tmp_path).description


def test_weights_of_one_network_are_loaded_as_ever(weights):
    engine = load_committee(weights / "0.safetensors", device="cpu")
    assert not isinstance(engine, Committee)


def test_members_are_parts_of_an_ensembles_file(weights):
    path = weights / "both.safetensors"
    assert read_config(path, part="members.1") == CONFIG
    assert set(load_checkpoint(path, part="members.1").tensors) == set(
        load_checkpoint(weights / "1.safetensors").tensors
    )
    with pytest.raises(ModelError, match=r"no part 'members\.2'; it has members\.0, members\.1"):
        read_config(path, part="members.2")
