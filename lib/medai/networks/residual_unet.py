"""The click network: a small residual 3D U-Net.

Additive skips and 1×1×1 reductions before upsampling keep it cheap at full resolution, where a patch has most of its
voxels; batch normalisation folds into the convolutions at inference, so that OpenVINO runs plain convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3×3×3 convolutions around a shortcut; the first may halve the resolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels_out)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv3d(channels_in, channels_out, stride, stride, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[N, C, D1, D2, D3] to the same, or to half the resolution."""
        inner = functional.relu(self.norm1(self.conv1(features)))
        inner = self.norm2(self.conv2(inner))
        return functional.relu(inner + self.shortcut(features))


class ResidualUNet(nn.Module):
    """Encoder and decoder over ``len(channels)`` resolutions.

    Args:
        channels_in: input channels.
        channels_out: maps of logits.
        channels: features at each resolution, finest first. The patch must be divisible by 2 to the power of their
            number less one.
        blocks: residual blocks at each resolution of the encoder; the first of them halves, save at the finest.
    """

    def __init__(
        self,
        *,
        channels_in: int = 3,
        channels_out: int = 1,
        channels: Sequence[int] = (16, 32, 64, 96),
        blocks: Sequence[int] = (1, 2, 2, 1),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(channels_in, channels[0], 3, 1, 1, bias=False), nn.BatchNorm3d(channels[0]), nn.ReLU()
        )
        stages = [nn.Sequential(*(ResidualBlock(channels[0], channels[0]) for _ in range(blocks[0])))]
        for finer, coarser, count in zip(channels[:-1], channels[1:], blocks[1:], strict=True):
            rest = (ResidualBlock(coarser, coarser) for _ in range(count - 1))
            stages.append(nn.Sequential(ResidualBlock(finer, coarser, stride=2), *rest))
        self.encoder = nn.ModuleList(stages)
        self.reduce = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairwise(channels))
        self.decoder = nn.ModuleList(ResidualBlock(n, n) for n in channels[:-1])
        self.head = nn.Conv3d(channels[0], channels_out, 1)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """[N, channels_in, D1, D2, D3] to logits [N, channels_out, D1, D2, D3]."""
        features = self.stem(patch)
        skips: list[torch.Tensor] = []
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            features = functional.interpolate(
                self.reduce[level](features), scale_factor=2.0, mode="trilinear", align_corners=False
            )
            features = self.decoder[level](features + skips[level])
        return cast("torch.Tensor", self.head(features))
