"""The RetinaNets that find nodules: a narrow one for CPUs, and the one of MONAI's Model Zoo for GPUs.

Both are ``monai.apps.detection``'s ``RetinaNet`` with a feature pyramid of three levels and differ in the network that
makes the pyramid and in the width of the heads. The narrow one answers on a grid of 2 voxels, so that a nodule of 3 mm
has an anchor of its own; its weights are 1.2 MB and a chest takes a few seconds on two cores. The wide one is built
exactly as the Model Zoo's bundle ``lung_nodule_ct_detection`` builds it, so that its published weights fit.

``DetectionNetwork`` hands out what the heads say, unsorted, as one tensor: that is what an engine can run and compare.
Anchors and boxes are numpy's (``medai.postprocessing.detection_boxes``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
from monai.networks.nets.resnet import resnet50
from torch import nn

PRIOR_PROBABILITY = 0.01
"""What a fresh network says of every anchor: RetinaNet's start, without which the many empty anchors swamp the few."""


def _convolution(channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm3d(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = torch.relu(features + self.second(self.first(features)))
        return changed


class NarrowPyramid(nn.Module):
    """A small residual network with a feature pyramid at strides 2, 4 and 8.

    Args:
        channels_in: of the image.
        widths: feature maps at stride 2, 4, 8.
        channels_out: of each level of the pyramid.
    """

    def __init__(self, channels_in: int = 1, widths: Sequence[int] = (24, 48, 64), channels_out: int = 24) -> None:
        super().__init__()
        self.out_channels = channels_out
        stages: list[nn.Module] = []
        before = channels_in
        for level, width in enumerate(widths):
            # The first convolution sees 5³ voxels: it replaces a layer at full size, the dearest of all.
            stages.append(
                nn.Sequential(_convolution(before, width, kernel=3 if level else 5, stride=2), _Residual(width))
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv3d(width, channels_out, 1) for width in widths])
        self.smooth = nn.ModuleList([_convolution(channels_out, channels_out) for _ in widths])

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Turn an image [N, C, D1, D2, D3], sizes divisible by 8, into three levels, the finest first."""
        levels: list[torch.Tensor] = []
        features = image
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        above: torch.Tensor | None = None
        pyramid: list[torch.Tensor] = []
        for lateral, smooth, level in zip(reversed(self.lateral), reversed(self.smooth), reversed(levels), strict=True):
            here = lateral(level)
            if above is not None:
                here = here + nn.functional.interpolate(above, scale_factor=2.0, mode="nearest")
            above = here
            pyramid.insert(0, smooth(here))
        return pyramid


class NarrowHead(nn.Module):
    """One shared convolution and an answer for each level: RetinaNet's head at a quarter of its depth.

    Args:
        channels: of a pyramid level.
        outputs: numbers a place.
        levels: of the pyramid; each has normalisation of its own, since their features differ in spread.
        bias: of the answer.
    """

    def __init__(self, channels: int, outputs: int, *, levels: int = 3, bias: float = 0.0) -> None:
        super().__init__()
        self.shared = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm3d(channels) for _ in range(levels)])
        self.answer = nn.Conv3d(channels, outputs, 1)
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.constant_(self.answer.bias, bias)  # type: ignore[arg-type]  # it has one

    def forward(self, pyramid: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn each level into a map of answers."""
        return [
            self.answer(torch.relu(norm(self.shared(level)))) for norm, level in zip(self.norms, pyramid, strict=True)
        ]


def _narrow(options: Mapping[str, Any]) -> RetinaNet:
    """The CPU profile."""
    anchors = int(options.get("anchors", 1))
    pyramid = NarrowPyramid(**{k: v for k, v in options.items() if k in {"channels_in", "widths", "channels_out"}})
    network = RetinaNet(spatial_dims=3, num_classes=1, num_anchors=anchors, feature_extractor=pyramid, size_divisible=8)
    log_odds = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
    network.classification_head = NarrowHead(pyramid.out_channels, anchors, bias=log_odds)
    network.regression_head = NarrowHead(pyramid.out_channels, 6 * anchors)
    return network


def _zoo(options: Mapping[str, Any]) -> RetinaNet:
    """The GPU profile: ``lung_nodule_ct_detection`` 0.6.9, configs/inference.json."""
    backbone = resnet50(
        spatial_dims=3,
        n_input_channels=int(options.get("channels_in", 1)),
        conv1_t_stride=[2, 2, 1],
        conv1_t_size=[7, 7, 7],
    )
    return RetinaNet(
        spatial_dims=3,
        num_classes=1,
        num_anchors=int(options.get("anchors", 3)),
        feature_extractor=resnet_fpn_feature_extractor(backbone, 3, False, [1, 2], None),
        size_divisible=[16, 16, 8],
    )


PROFILES = {"cpu": _narrow, "gpu": _zoo}


class DetectionNetwork(nn.Module):
    """A RetinaNet whose answer is one tensor.

    Args:
        profile: "cpu" (narrow) or "gpu" (the Model Zoo's).
        options: ``channels_in``, ``anchors`` (shapes a place) and, for the narrow one, ``widths``, ``channels_out``.

    Raises:
        ValueError: the profile is unknown.
    """

    def __init__(self, profile: str = "cpu", **options: Any) -> None:
        super().__init__()
        if profile not in PROFILES:
            raise ValueError(f"profile '{profile}' is none of {', '.join(PROFILES)}")
        self.retinanet = PROFILES[profile](options)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Turn images [N, 1, D1, D2, D3] into [N, anchors + 6·anchors, places].

        The first rows are the class logits of the anchor shapes, the others their six box numbers each, shape by shape.
        Places run through the levels, the finest first, and through each level's map in C order.
        """
        heads = self.retinanet(image)
        return torch.cat(
            [
                torch.cat([logits, boxes], dim=1).flatten(2)
                for logits, boxes in zip(heads["classification"], heads["box_regression"], strict=True)
            ],
            dim=2,
        )
