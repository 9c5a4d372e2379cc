"""The small click network that simulations train: hundreds of trainings fit into hours on two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medai.training.click_sampling import SamplingConfig
from medai.workflows.families import CLICK_TASK

SMALL_NETWORK: Mapping[str, Any] = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [8, 16, 32], "blocks": [1, 1, 1]},
}
SMALL_PATCHES = SamplingConfig(patch_shape=(24, 24, 24), spacing_mm=1.2, finest_mm=0.67)


def random_network(
    path: Path,
    network: Mapping[str, Any],
    patches: SamplingConfig,
    *,
    seed: int,
    described: Mapping[str, Any] | None = None,
) -> Path:
    """Write a click network with random weights, for a training to start from.

    Args:
        path: takes it.
        network: its kind and options.
        patches: that it will be trained on.
        seed: of its weights.
        described: what else its file says of it.

    Returns:
        ``path``.
    """
    import torch

    from medai.networks.checkpoint import save_checkpoint
    from medai.networks.factory import build_network, network_tensors

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tensors = network_tensors(build_network(network))
    save_checkpoint(path, tensors, {**network, "task": CLICK_TASK, **patches.described(), **(described or {})})
    return path
