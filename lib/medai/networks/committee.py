"""An ensemble whose members can be heard one by one: what they differ about is what the ensemble does not know.

``networks.ensemble.MeanEnsemble`` averages inside one converted network, which hides it. Here each member is a network
of its own; together they take as long as the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.networks.checkpoint import read_config
from medai.networks.engine import Engine, load_engine


class Committee:
    """Several loaded networks of one kind.

    Args:
        members: at least one.
        config: of the checkpoint that holds them all.
    """

    def __init__(self, members: Sequence[Engine], config: dict[str, Any]) -> None:
        self._members = tuple(members)
        self._config = config

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config."""
        return self._config

    @property
    def description(self) -> str:
        """Backend and device in words."""
        return f"{len(self._members)} networks, {self._members[0].description}"

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn a batch into the mean of the members' logits."""
        return np.asarray(self.run_members(batch).mean(axis=0), dtype=np.float32)

    def run_members(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn a batch into each member's logits, shape (members, …)."""
        return np.stack([member.run(batch) for member in self._members])


def load_committee(checkpoint_path: Path, *, device: str = "auto", cache_folder: Path | None = None) -> Engine:
    """Load weights so that an ensemble's members can be heard; weights of one network as ``load_engine`` does.

    Args:
        checkpoint_path: written by ``save_checkpoint``.
        device: see ``load_engine``.
        cache_folder: where converted networks are kept; None converts at every load.

    Raises:
        ModelError: the weights are missing, damaged or do not fit their network.
        InputError: the device is unknown or not there.
    """
    config = read_config(checkpoint_path)
    if config["network"] != "ensemble":
        return load_engine(checkpoint_path, device=device, cache_folder=cache_folder)
    members = [
        load_engine(checkpoint_path, part=f"members.{number}", device=device, cache_folder=cache_folder)
        for number in range(int(config["network_options"]["count"]))
    ]
    return Committee(members, config)
