"""Brings the weights of MONAI Model Zoo's ``lung_nodule_ct_detection`` into medai's own format.

The bundle's ``model.pt`` is the plain state of its RetinaNet. It is read with ``weights_only``: a pickle that a user
drops in must not run code. No weights of the zoo travel with this package; who has them gives their path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medai.errors import ModelError
from medai.networks.checkpoint import Checkpoint, save_parts
from medai.networks.factory import build_network

ZOO_CONFIG: dict[str, Any] = {
    "network": "detection_network",
    "network_options": {"profile": "gpu", "channels_in": 1, "anchors": 3},
    "patch_shape": [64, 64, 32],
    "spacing_ras_mm": [0.703125, 0.703125, 1.25],
    "window_hu": [-1024.0, 300.0],
    "image_range": [0.0, 1.0],
    "anchors": {
        "strides": [[4, 4, 2], [8, 8, 4], [16, 16, 8]],
        "shapes": [[6.0, 8.0, 4.0], [8.0, 6.0, 5.0], [10.0, 10.0, 6.0]],
        "scales": [1.0, 2.0, 4.0],
    },
    "most_core": [192, 192, 96],
    "margin": [32, 32, 16],
}
"""The bundle's configs/inference.json, version 0.6.9."""


def convert_zoo_weights(model_pt: Path, weights_path: Path) -> Path:
    """Write the zoo's weights as a detector without a judge: its scores are taken as they are.

    Args:
        model_pt: the bundle's ``models/model.pt``.
        weights_path: the safetensors file to write.

    Returns:
        ``weights_path``.

    Raises:
        ModelError: the file is missing, damaged, or not of that network.
    """
    import pickle

    import torch

    try:
        state = torch.load(model_pt, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"{model_pt} cannot be read as weights of torch: {error}.") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    network = build_network(ZOO_CONFIG)
    try:
        network.retinanet.load_state_dict(state)  # type: ignore[union-attr]  # a module
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"{model_pt} is not of 'lung_nodule_ct_detection': {error}.") from error
    tensors = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    save_parts(
        weights_path,
        {"finder": Checkpoint(config=ZOO_CONFIG, tensors=tensors)},
        {
            "network": "nodule_detector",
            "task": "nodule_detection",
            "candidates": "anchors",
            "calibrations": {"anchors": {"finder": 1.0, "judge": 0.0, "shift": 0.0}},
        },
    )
    return weights_path
