"""The classification network: several small encoders that each look at both views of a nodule and rate it.

A few hundred nodules train one small network to rate well and several to rate better, and how far they differ says how
sure they are. All members travel and run as one module, so that there is one file to publish and one call to make.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from medai.networks.residual_unet import ResidualBlock


class ViewRater(nn.Module):
    """One member: the same encoder over every view, then ratings from what it found in all of them.

    Args:
        views: views of a nodule, each with ``channels_a_view`` channels.
        channels_a_view: channels of one view.
        widths: features at full, half, quarter … size.
        outputs: logits.
        dropout: share of pooled features left out in training.
    """

    def __init__(
        self, *, views: int, channels_a_view: int, widths: Sequence[int], outputs: int, dropout: float
    ) -> None:
        super().__init__()
        self._views = views
        self.stem = nn.Sequential(
            nn.Conv3d(channels_a_view, widths[0], 3, 2, 1, bias=False), nn.BatchNorm3d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(finer, coarser, stride=2 if level else 1)
                for level, (finer, coarser) in enumerate(itertools.pairwise(widths))
            )
        )
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(2 * views * widths[-1], outputs)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """[N, views · channels, D1, D2, D3] to logits [N, outputs]."""
        channels = patch.shape[1] // self._views
        pooled: list[torch.Tensor] = []
        for view in range(self._views):
            features = self.blocks(self.stem(patch[:, view * channels : (view + 1) * channels]))
            pooled += [features.mean(dim=(2, 3, 4)), features.amax(dim=(2, 3, 4))]
        logits: torch.Tensor = self.answer(self.dropout(torch.cat(pooled, dim=1)))
        return logits


class ClassificationNetwork(nn.Module):
    """``members`` raters side by side.

    Args:
        channels_in: channels of all views together.
        views: how many views these are.
        widths: features at half, half, quarter, eighth … size.
        outputs: logits of each member.
        members: how many raters.
        dropout: share of pooled features left out in training.
    """

    def __init__(
        self,
        *,
        channels_in: int = 6,
        views: int = 2,
        widths: Sequence[int] = (16, 24, 48, 64),
        outputs: int = 32,
        members: int = 5,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            ViewRater(
                views=views, channels_a_view=channels_in // views, widths=widths, outputs=outputs, dropout=dropout
            )
            for _ in range(members)
        )

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """[N, channels_in, D1, D2, D3] to logits [N, members, outputs]."""
        return torch.stack([member(patch) for member in self.members], dim=1)
