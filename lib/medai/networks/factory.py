"""From a checkpoint's config to a torch module. Torch is imported when a network is built, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from medai.errors import ModelError
from medai.networks.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import nn


def _residual_unet(options: Mapping[str, Any]) -> nn.Module:
    from medai.networks.residual_unet import ResidualUNet

    return ResidualUNet(**options)


def _candidate_network(options: Mapping[str, Any]) -> nn.Module:
    from medai.networks.candidate_network import CandidateNetwork

    return CandidateNetwork(**options)


def _detection_network(options: Mapping[str, Any]) -> nn.Module:
    from medai.networks.detection_network import DetectionNetwork

    return DetectionNetwork(**options)


def _classification_network(options: Mapping[str, Any]) -> nn.Module:
    from medai.networks.classification_network import ClassificationNetwork

    return ClassificationNetwork(**options)


def _ensemble(options: Mapping[str, Any]) -> nn.Module:
    """``count`` networks of the config ``member``; ``channels_in`` is said again for whoever feeds them."""
    from medai.networks.ensemble import MeanEnsemble

    return MeanEnsemble([build_network(options["member"]) for _ in range(int(options["count"]))])


NETWORKS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "candidate_network": _candidate_network,
    "classification_network": _classification_network,
    "detection_network": _detection_network,
    "ensemble": _ensemble,
    "residual_unet": _residual_unet,
}
"""Every network a checkpoint can name."""


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Make the network a config names, with fresh weights.

    Raises:
        ModelError: the name is unknown or the options do not fit.
    """
    name = str(config.get("network"))
    if name not in NETWORKS:
        raise ModelError(f"No network is called '{name}': medai knows {', '.join(sorted(NETWORKS))}.")
    try:
        return NETWORKS[name](config.get("network_options", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"The options of network '{name}' do not fit: {error}.") from error


def restore_network(checkpoint: Checkpoint) -> nn.Module:
    """Make the network of a checkpoint with its weights, float32, in evaluation mode.

    Raises:
        ModelError: weights are missing, left over, or of another shape.
    """
    import torch

    network = build_network(checkpoint.config)
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in checkpoint.tensors.items()}
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"The weights do not fit the network '{checkpoint.config['network']}': {error}.") from error
    return network.eval()


def network_tensors(network: nn.Module) -> dict[str, Any]:
    """The weights of a network as numpy arrays by name, for ``save_checkpoint``.

    Convolutions are stored in float16: half the file, and a change of the logits far below what Dice can show.
    Normalisation, whose variances may exceed float16's range, stays in float32.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    return {
        name: (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).numpy()
        for name, tensor in tensors.items()
    }
