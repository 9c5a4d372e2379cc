"""Puts trained members and the last stage into one file of weights, and takes them out again to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import ModelError
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.factory import network_tensors, restore_network
from medai.postprocessing.ratings import RatingStage
from medai.preprocessing.nodule_views import VIEW_SIZE

if TYPE_CHECKING:
    from torch import nn

TASK = "nodule_classification"
NETWORK = "classification_network"


def save_classifier(path: Path, members: Sequence[nn.Module], options: Mapping[str, Any], stage: RatingStage) -> None:
    """Write all members and the last stage as one checkpoint.

    Args:
        path: the safetensors file.
        members: trained raters.
        options: arguments of ``ClassificationNetwork``; ``members`` is set to their number.
        stage: fitted.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    for number, member in enumerate(members):
        tensors |= {f"members.{number}.{name}": tensor for name, tensor in network_tensors(member).items()}
    save_checkpoint(
        path,
        tensors,
        {
            "network": NETWORK,
            "network_options": {**options, "members": len(members)},
            "task": TASK,
            "patch_shape": [VIEW_SIZE] * 3,
            "rating_stage": stage.to_config(),
        },
    )


def load_members(path: Path) -> tuple[list[nn.Module], dict[str, Any], RatingStage]:
    """The members of a classifier, float32, their options and the last stage.

    Raises:
        ModelError: the weights are of another task, damaged or incomplete.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.config.get("task") != TASK:
        raise ModelError(f"The weights in {path} are for '{checkpoint.config.get('task')}', not for '{TASK}'.")
    network = restore_network(checkpoint)
    members = list(network.members)  # type: ignore[arg-type]  # a ModuleList
    return members, dict(checkpoint.config["network_options"]), RatingStage.of_config(checkpoint.config)


def save_member(path: Path, member: nn.Module, options: Mapping[str, Any]) -> None:
    """Keep one trained member until all are, in full precision."""
    tensors = {f"members.0.{name}": tensor.detach().cpu().numpy() for name, tensor in member.state_dict().items()}
    save_checkpoint(path, tensors, {"network": NETWORK, "network_options": {**options, "members": 1}})


def load_member(path: Path) -> nn.Module:
    """A member kept by ``save_member``."""
    return restore_network(load_checkpoint(path)).members[0]  # type: ignore[index, return-value]  # a ModuleList
