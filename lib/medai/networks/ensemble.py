"""Several networks of one kind as one: their logits are averaged, which smooths what each has learned by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn


class MeanEnsemble(nn.Module):
    """The mean of the members' logits.

    Args:
        members: networks with the same input and output.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """Any batch the members take, to the mean of what they give."""
        logits = [member(patch) for member in self.members]
        return cast("torch.Tensor", sum(logits[1:], logits[0]) / len(logits))
