"""From what a RetinaNet's heads say to boxes, in numpy: anchors, decoding, non-maximum suppression.

The arithmetic is that of ``monai.apps.detection`` (its rounding of anchor shapes included), so that inference needs no
torch; a test holds both to the same boxes.

Boxes are rows (start i, j, k, stop i, j, k) in index coordinates of the image the network saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_LOG_FACTOR = math.log(1000.0 / 16)
"""No box is more than this factor larger than its anchor, as in ``BoxCoder``."""

Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorConfig:
    """Where a network's anchors lie.

    Attributes:
        strides: voxels between places, for each level of the pyramid, along each axis.
        shapes: anchor shapes in voxels at the finest level.
        scales: factor of the shapes at each level.
    """

    strides: tuple[tuple[int, int, int], ...] = ((2, 2, 2), (4, 4, 4), (8, 8, 8))
    shapes: tuple[tuple[float, float, float], ...] = ((6.0, 6.0, 6.0),)
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> AnchorConfig:
        """From a checkpoint's config."""
        return cls(
            strides=tuple((int(a), int(b), int(c)) for a, b, c in values["strides"]),
            shapes=tuple((float(a), float(b), float(c)) for a, b, c in values["shapes"]),
            scales=tuple(float(scale) for scale in values["scales"]),
        )

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint's config."""
        return {
            "strides": [list(stride) for stride in self.strides],
            "shapes": [list(shape) for shape in self.shapes],
            "scales": list(self.scales),
        }

    @property
    def divisor(self) -> tuple[int, int, int]:
        """The image's sizes must be multiples of it."""
        i, j, k = (max(stride[axis] for stride in self.strides) for axis in range(3))
        return (i, j, k)

    def level_shapes(self, image_shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """Places of each level along each axis."""
        return [
            (image_shape[0] // stride[0], image_shape[1] // stride[1], image_shape[2] // stride[2])
            for stride in self.strides
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredBoxes:
    """Boxes with their logits; rows belong together.

    Attributes:
        boxes: float32 [N, 6].
        logits: float32 [N].
    """

    boxes: Boxes
    logits: NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[ScoredBoxes]) -> ScoredBoxes:
        """All boxes in one."""
        return cls(
            boxes=np.concatenate([np.empty((0, 6), np.float32), *(part.boxes for part in parts)]),
            logits=np.concatenate([np.empty(0, np.float32), *(part.logits for part in parts)]),
        )

    def take(self, index: NDArray[np.intp]) -> ScoredBoxes:
        """Some of the rows."""
        return ScoredBoxes(boxes=self.boxes[index], logits=self.logits[index])


def decode_heads(
    answer: NDArray[np.float32],
    image_shape: Sequence[int],
    config: AnchorConfig,
    *,
    least_logit: float,
    most_a_level: int = 1000,
) -> ScoredBoxes:
    """Turn what a ``DetectionNetwork`` says of one image into boxes, unsuppressed.

    Args:
        answer: [anchors + 6·anchors, places], see ``DetectionNetwork.forward``.
        image_shape: of the image the network saw.
        config: its anchors.
        least_logit: boxes at or below are left out.
        most_a_level: so many of the likeliest of each level.

    Returns:
        Boxes, level by level, the likeliest of each first.
    """
    count = len(config.shapes)
    found: list[ScoredBoxes] = []
    begin = 0
    for shape, stride, scale in zip(config.level_shapes(image_shape), config.strides, config.scales, strict=True):
        places = int(np.prod(shape))
        level = answer[:, begin : begin + places]
        begin += places
        which, where = np.nonzero(level[:count] > least_logit)
        logits = level[which, where]
        if logits.size > most_a_level:
            best = np.argpartition(-logits, most_a_level)[:most_a_level]
            which, where, logits = which[best], where[best], logits[best]
        order = np.argsort(-logits, kind="stable")
        which, where, logits = which[order], where[order], logits[order]
        halves = np.round(np.asarray(config.shapes, dtype=np.float32) * np.float32(scale) / 2)
        index = np.stack(np.unravel_index(where, shape), axis=1)
        centres = (index * np.asarray(stride) + np.asarray(stride) // 2).astype(np.float32)
        rows = count + 6 * which[:, None] + np.arange(6)[None, :]
        codes = level[rows, where[:, None]]
        found.append(ScoredBoxes(boxes=_decoded(codes, centres, 2 * halves[which]), logits=logits))
    return ScoredBoxes.join(found)


def _decoded(codes: NDArray[np.float32], centres: NDArray[np.float32], sizes: NDArray[np.float32]) -> Boxes:
    """Boxes from their codes: shift in anchor sizes, logarithm of the factor of size."""
    middle = codes[:, :3] * sizes + centres
    half = np.exp(np.minimum(codes[:, 3:], np.float32(LARGEST_LOG_FACTOR))) * sizes / 2
    return np.asarray(np.concatenate([middle - half, middle + half], axis=1), dtype=np.float32)


def suppressed(found: ScoredBoxes, *, most_overlap: float, most: int = 300) -> ScoredBoxes:
    """Keep the likeliest of boxes that overlap.

    Args:
        found: any order.
        most_overlap: a box whose intersection over union with a likelier one is larger goes.
        most: so many at most.

    Returns:
        The kept boxes, likeliest first.
    """
    order = np.argsort(-found.logits, kind="stable")
    boxes, logits = found.boxes[order], found.logits[order]
    starts, stops = np.ascontiguousarray(boxes[:, :3].T), np.ascontiguousarray(boxes[:, 3:].T)  # an axis a row
    volumes = _product(np.maximum(stops - starts, 0))
    alive = np.ones(len(boxes), dtype=bool)
    kept: list[int] = []
    for n in range(len(boxes)):
        if not alive[n]:
            continue
        kept.append(n)
        if len(kept) == most:
            break
        rest = np.flatnonzero(alive[n + 1 :]) + n + 1
        stop = np.minimum(stops[:, rest], stops[:, n, None])
        shared = _product(np.maximum(stop - np.maximum(starts[:, rest], starts[:, n, None]), 0))
        union = volumes[rest] + volumes[n] - shared
        alive[rest[shared > most_overlap * union]] = False
    index = np.array(kept, dtype=np.intp)
    return ScoredBoxes(boxes=boxes[index], logits=logits[index])


def _product(sides: NDArray[np.float32]) -> NDArray[np.float32]:
    """Volumes of boxes whose three sides are the rows."""
    return np.asarray(sides[0] * sides[1] * sides[2], dtype=np.float32)
