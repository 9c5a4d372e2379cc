"""The network that says which blobs are nodules: small, because it answers for hundreds of places a scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """Convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


class CandidateNetwork(nn.Module):
    """A plain 3D convolutional classifier.

    The first width is one layer at full size; each further one is a pair of layers, the first of which halves the
    patch. Mean and maximum over what remains give one logit.

    Args:
        channels_in: views of a place.
        widths: feature maps at full, half, quarter … size.
        dropout: share of features left out in training.
    """

    def __init__(self, channels_in: int = 2, widths: Sequence[int] = (12, 24, 48, 64), dropout: float = 0.3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = channels_in
        for level, width in enumerate(widths):
            layers.append(_block(channels, width, stride=2 if level else 1))
            if level:
                layers.append(_block(width, width, stride=1))
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(2 * channels, 1)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Turn views [N, channels_in, D1, D2, D3] into logits [N, 1]."""
        features = self.features(views)
        pooled = torch.cat([features.mean(dim=(2, 3, 4)), features.amax(dim=(2, 3, 4))], dim=1)
        logits: torch.Tensor = self.answer(self.dropout(pooled))
        return logits
