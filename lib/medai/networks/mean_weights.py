"""The mean of several networks' weights, as a network: they must have come from one start, else it is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import ModelError
from medai.networks.checkpoint import Checkpoint, read_config

KEPT_SHARE = "kept_of_training"
"""In a network's configuration: it lies so far (0–1) from the one it was retrained from to what the training made."""

_NETWORK = ("network", "network_options")


def kept_share(path: Path) -> float | None:
    """What a weights file says under ``KEPT_SHARE``; None where it says nothing, or is no network of ours."""
    try:
        share = read_config(path).get(KEPT_SHARE)
    except ModelError:
        return None
    return None if share is None else float(share)


def mean_weights(checkpoints: Sequence[Checkpoint], shares: Sequence[float] | None = None) -> Checkpoint:
    """Average weights; whole numbers, which count batches, are the last network's.

    Args:
        checkpoints: networks of one kind and start.
        shares: of each, they sum to 1; None: equal ones.

    Returns:
        The mean, with the last one's configuration.

    Raises:
        ModelError: they are not of one kind.
    """
    last = checkpoints[-1]
    for checkpoint in checkpoints:
        is_alike = all(checkpoint.config.get(key) == last.config.get(key) for key in _NETWORK)
        if not is_alike or checkpoint.tensors.keys() != last.tensors.keys():
            raise ModelError("Weights can be averaged of networks of one kind alone; these differ in their layers.")
    weights = np.full(len(checkpoints), 1.0 / len(checkpoints)) if shares is None else np.asarray(shares)
    tensors = {name: _mean([checkpoint.tensors[name] for checkpoint in checkpoints], weights) for name in last.tensors}
    return replace(last, tensors=tensors)


def _mean(tensors: Sequence[NDArray[Any]], weights: NDArray[np.float64]) -> NDArray[Any]:
    last = tensors[-1]
    if not np.issubdtype(last.dtype, np.floating):
        return last
    total = sum(tensor.astype(np.float64) * weight for tensor, weight in zip(tensors, weights, strict=True))
    return np.asarray(total).astype(last.dtype)
