"""Patches for the detection network: where they are cut and how they are varied.

Half of them hold a nodule somewhere, the others show a place that was taken for one before, or any place in the lungs:
what is hard is found by the loss's own mining within a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.preprocessing.hu_window import window_hu
from medai.training.detection_scans import PreparedScan

_NO_BOXES = np.empty((0, 6), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """How patches are cut and varied.

    Attributes:
        shape: voxels.
        nodule_share: of patches that are cut around a nodule.
        hard_share: of the others, how many are cut around a false mark, where any are known.
        rim: a nodule whose centre is nearer to the patch's side is neither right nor wrong to mark.
        window_hu: HU that become ``image_range``.
        image_range: what the network sees.
        zoom: smallest and largest factor of size.
        zoom_share: of patches that are zoomed.
        filter_share: of patches that are smoothed, sharpened or seen in thick slices.
    """

    shape: tuple[int, int, int] = (48, 48, 48)
    nodule_share: float = 0.6
    hard_share: float = 0.6
    rim: float = 3.0
    window_hu: tuple[float, float] = (-1000.0, 400.0)
    image_range: tuple[float, float] = (-1.0, 1.0)
    zoom: tuple[float, float] = (0.8, 1.25)
    zoom_share: float = 0.4
    filter_share: float = 0.35


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionPatch:
    """A patch with what is in it.

    Attributes:
        image: float32 [D1, D2, D3].
        boxes: float32 [n, 6] in its index space.
        ignored: float32 [m, 6], boxes of what is neither right nor wrong to mark.
    """

    image: NDArray[np.float32]
    boxes: NDArray[np.float32]
    ignored: NDArray[np.float32]


def draw_patch(
    scan: PreparedScan,
    rng: np.random.Generator,
    config: PatchConfig,
    hard_places: Mapping[str, NDArray[np.float32]] | None = None,
) -> DetectionPatch:
    """Cut one patch at random and vary it.

    Args:
        scan: to cut from.
        rng: all that is random.
        config: how.
        hard_places: index [k, 3] of false marks by case.
    """
    shape = np.asarray(config.shape)
    zoom = float(rng.uniform(*config.zoom)) if rng.random() < config.zoom_share else 1.0
    size = np.maximum(8, np.rint(shape / zoom)).astype(int)
    start = _start(scan, rng, config, size, (hard_places or {}).get(scan.case_id))
    image = window_hu(_cut(scan.image_hu, start, size), low_hu=config.window_hu[0], high_hu=config.window_hu[1])
    boxes, ignored = (b - np.tile(start, 2).astype(np.float32) for b in (scan.nodules, scan.ignored))
    if np.any(size != shape):
        factor = np.tile(shape / size, 2).astype(np.float32)
        image = _resized(image, config.shape)
        boxes, ignored = (boxes + 0.5) * factor - 0.5, (ignored + 0.5) * factor - 0.5
    patch = _turned(_inside(image, boxes, ignored, config.rim), rng)
    low, high = config.image_range
    varied = _varied(patch.image, rng, config.filter_share)
    scaled = (varied + 1) * np.float32((high - low) / 2) + np.float32(low)
    return DetectionPatch(image=np.ascontiguousarray(scaled), boxes=patch.boxes, ignored=patch.ignored)


def _start(
    scan: PreparedScan,
    rng: np.random.Generator,
    config: PatchConfig,
    size: NDArray[np.intp],
    hard: NDArray[np.float32] | None,
) -> NDArray[np.intp]:
    """First voxel of a patch; it may lie outside the scan."""
    if len(scan.nodules) and rng.random() < config.nodule_share:
        box = scan.nodules[rng.choice(len(scan.nodules), p=scan.weights / scan.weights.sum())]
        middle = (box[:3] + box[3:]) / 2
    elif hard is not None and len(hard) and rng.random() < config.hard_share:
        middle = hard[rng.integers(len(hard))]
    else:
        middle = scan.lung_places[rng.integers(len(scan.lung_places))].astype(np.float32)
    room = np.maximum(size / 2 - 2 * config.rim, 0)
    return np.asarray(np.rint(middle - size / 2 + rng.uniform(-room, room)), dtype=np.intp)


def _cut(image_hu: NDArray[np.int16], start: NDArray[np.intp], size: NDArray[np.intp]) -> NDArray[np.float32]:
    """A part of a scan; what lies outside is halfway between air and tissue, as at the rim of a window."""
    stop = start + size
    low, high = np.clip(start, 0, image_hu.shape), np.clip(stop, 0, image_hu.shape)
    part = np.full(tuple(size), -300.0, dtype=np.float32)
    inner = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
    part[inner] = image_hu[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    return part


def _resized(image: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    import torch

    tensor = torch.from_numpy(image)[None, None]
    resized = torch.nn.functional.interpolate(tensor, size=tuple(shape), mode="trilinear", align_corners=False)
    return np.asarray(resized[0, 0].numpy())


def _inside(
    image: NDArray[np.float32], boxes: NDArray[np.float32], ignored: NDArray[np.float32], rim: float
) -> DetectionPatch:
    """Boxes whose centre is well inside; those cut off at the side become ignored ones."""
    shape = np.asarray(image.shape)
    near = boxes[np.all((boxes[:, 3:] > 0) & (boxes[:, :3] < shape), axis=1)]
    middle = (near[:, :3] + near[:, 3:]) / 2
    whole = np.all((middle >= rim) & (middle <= shape - 1 - rim), axis=1)
    touching = ignored[np.all((ignored[:, 3:] > 0) & (ignored[:, :3] < shape), axis=1)]
    return DetectionPatch(image=image, boxes=near[whole], ignored=np.concatenate([_NO_BOXES, near[~whole], touching]))


def _turned(patch: DetectionPatch, rng: np.random.Generator) -> DetectionPatch:
    """Mirror along each axis and swap the in-plane ones, each one time in two."""
    image, boxes, ignored = patch.image, patch.boxes.copy(), patch.ignored.copy()
    for axis in range(3):
        if rng.random() < 0.5:
            image = np.flip(image, axis)
            for rows in (boxes, ignored):
                rows[:, [axis, axis + 3]] = image.shape[axis] - 1 - rows[:, [axis + 3, axis]]
    if image.shape[0] == image.shape[1] and rng.random() < 0.5:
        image = image.transpose(1, 0, 2)
        boxes, ignored = boxes[:, [1, 0, 2, 4, 3, 5]], ignored[:, [1, 0, 2, 4, 3, 5]]
    return DetectionPatch(image=image, boxes=boxes, ignored=ignored)


def _varied(image: NDArray[np.float32], rng: np.random.Generator, filter_share: float) -> NDArray[np.float32]:
    """Change kernel, slice thickness, brightness, contrast and noise."""
    from scipy import ndimage

    if rng.random() < filter_share:
        choice = rng.integers(3)
        if choice == 0:
            image = ndimage.gaussian_filter(image, float(rng.uniform(0.4, 0.9)), truncate=3)
        elif choice == 1:
            image = image + np.float32(rng.uniform(0.3, 1.0)) * (
                image - ndimage.gaussian_filter(image, 0.8, truncate=3)
            )
        else:
            image = ndimage.uniform_filter1d(image, int(rng.integers(2, 5)), axis=2)
    image = image * np.float32(rng.uniform(0.92, 1.08)) + np.float32(rng.normal(0, 0.03))
    if rng.random() < 0.6:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.08))
        if rng.random() < 0.5:
            # Noise of a soft kernel hangs together; neighbouring sums keep about its spread.
            noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) / np.float32(2)
        image = image + noise
    return np.asarray(np.clip(image, -1, 1), dtype=np.float32)
