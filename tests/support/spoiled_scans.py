"""Chest CTs as exports, conversions and other machines spoil them, and as patients and scanners vary them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.generic]
Change = Callable[[Voxels], Voxels]


def _int16(values: Voxels) -> Voxels:
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def _stored(image_hu: Voxels) -> NDArray[np.float64]:
    return np.maximum(image_hu.astype(np.float64) + 1024, 0)


def _windowed(image_hu: Voxels, low: float, high: float) -> NDArray[np.float64]:
    return (np.clip(image_hu.astype(np.float64), low, high) - low) / (high - low)


def _padded(image_hu: Voxels, value: int, share: float) -> Voxels:
    """The scan with the outer part along i filled with a constant."""
    padded = np.array(image_hu)
    padded[: int(share * padded.shape[0])] = value
    return padded


def _magnetic(image_hu: Voxels) -> Voxels:
    noise = np.random.default_rng(7).rayleigh(15.0, image_hu.shape)
    return _int16(np.where(image_hu > -400, 350 + 0.3 * image_hu.astype(np.float64), 0) + noise)


def _emission(image_hu: Voxels) -> Voxels:
    noise = np.random.default_rng(7).gamma(2.0, 0.4, image_hu.shape)
    return np.where(image_hu > -400, noise, noise * 0.1).astype(np.float32)


SPOILED: dict[str, Change] = {
    "HU + 1024, unsigned": lambda hu: np.maximum(hu.astype(np.int32) + 1024, 0).astype(np.uint16),
    "HU + 1024": lambda hu: _int16(hu + np.float64(1024)),
    "HU + 1024, filled with -1024 outside": lambda hu: _int16(_padded(hu, -2048, 0.2) + np.float64(1024)),
    "HU + 1024, filled with -2000 outside": lambda hu: _int16(_padded(hu, -3024, 0.6) + np.float64(1024)),
    "HU + 1000": lambda hu: _int16(hu + np.float64(1000)),
    "HU + 32768": lambda hu: (hu + np.float64(32768)).astype(np.uint16),
    "HU + 31744": lambda hu: _int16(hu + np.float64(31744)),
    "unsigned wrap": lambda hu: hu.astype(np.int32).astype(np.uint16),
    "HU - 1024": lambda hu: _int16(hu - np.float64(1024)),
    "HU - 1000": lambda hu: _int16(hu - np.float64(1000)),
    "HU + 500": lambda hu: _int16(hu + np.float64(500)),
    "HU x 2": lambda hu: _int16(hu * np.float64(2)),
    "HU x 10": lambda hu: _int16(hu * np.float64(10)),
    "HU / 2": lambda hu: (hu / np.float64(2)).astype(np.float32),
    "HU / 10": lambda hu: (hu / np.float64(10)).astype(np.float32),
    "HU / 1000": lambda hu: (hu / np.float64(1000)).astype(np.float32),
    "stored / 10 - 1024": lambda hu: (_stored(hu) / 10 - 1024).astype(np.float32),
    "left-justified": lambda hu: _int16(hu * np.float64(16)),
    "left-justified stored": lambda hu: _int16(_stored(hu) * 16),
    "left-justified stored - 1024": lambda hu: _int16(_stored(hu) * 16 - 1024),
    "bytes swapped": lambda hu: hu.astype(np.int16).byteswap(),
    "inverted stored": lambda hu: _int16(4095 - _stored(hu)),
    "inverted stored - 1024": lambda hu: _int16(4095 - _stored(hu) - 1024),
    "0..1": lambda hu: _windowed(hu, -1000, 400).astype(np.float32),
    "-1..1": lambda hu: (2 * _windowed(hu, -1000, 400) - 1).astype(np.float32),
    "z-scores": lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32),
    "8-bit lung window": lambda hu: _int16(255 * _windowed(hu, -1350, 150)),
    "8-bit tissue window": lambda hu: _int16(255 * _windowed(hu, -160, 240)),
    "8-bit inverted": lambda hu: _int16(255 - 255 * _windowed(hu, -1350, 150)),
    "cut to the tissue window": lambda hu: _int16(np.clip(hu, -160, 240)),
    "density": lambda hu: (np.maximum(hu + np.float64(1000), 0) / 1000).astype(np.float32),
    "mask": lambda hu: (hu > -400).astype(np.uint8),
    "label map": lambda hu: (hu > -400).astype(np.uint8) + (hu > 100).astype(np.uint8),
    "MR": _magnetic,
    "PET": _emission,
    "all air": lambda hu: np.random.default_rng(3).normal(-1000, 15, hu.shape).astype(np.int16),
    "constant 0": lambda hu: np.zeros(hu.shape, np.int16),
    "constant -1024": lambda hu: np.full(hu.shape, -1024, np.int16),
}
"""Found in every crop, slab and scan."""

SPOILED_WHOLE: dict[str, Change] = {
    "HU with the sign reversed": lambda hu: _int16(-hu.astype(np.float64)),
    "HU + 300": lambda hu: _int16(hu + np.float64(300)),
    "HU - 300": lambda hu: _int16(hu - np.float64(300)),
    "HU - 1024, cut at -1024": lambda hu: _int16(np.maximum(hu - np.float64(1024), -1024)),
    "stored x 2 - 1024": lambda hu: _int16(2 * _stored(hu) - 1024),
    "stored x 10 - 1024": lambda hu: _int16(10 * _stored(hu) - 1024),
    "stored / 2 - 1024": lambda hu: (_stored(hu) / 2 - 1024).astype(np.float32),
}
"""Found in what is as wide as a body; a small crop of lung may look the same."""


def _with_ball(image_hu: Voxels, value: float, radius: float) -> Voxels:
    grid = np.indices(image_hu.shape, dtype=np.float32)
    middle = np.array([n / 2 for n in image_hu.shape], dtype=np.float32)[:, None, None, None]
    changed = image_hu.astype(np.float32)
    changed[((grid - middle) ** 2).sum(axis=0) < radius**2] = value
    return changed if value > 32767 else _int16(changed)


def _with_contrast(image_hu: Voxels) -> Voxels:
    """Blood of 300 HU in the middle third along j."""
    changed = image_hu.astype(np.float64)
    third = changed.shape[1] // 3
    middle = changed[:, third : 2 * third]
    middle[(middle > 20) & (middle < 90)] += 260
    return _int16(changed)


def _one_lung(image_hu: Voxels) -> Voxels:
    half = np.array(image_hu)
    side = half[half.shape[0] // 2 :]
    # Effusion and consolidation: what was lung is fluid.
    side[(side > -980) & (side < -300)] = 25
    return half


HONEST: dict[str, Change] = {
    "as it is": lambda hu: hu,
    "float": lambda hu: hu.astype(np.float32) + np.float32(0.25),
    "metal of 30,000 HU": lambda hu: _with_ball(hu, 30000, 3),
    "contrast": _with_contrast,
    "filled with -3024": lambda hu: _padded(hu, -3024, 0.3),
    "filled with -2048 in most": lambda hu: _padded(hu, -2048, 0.5),
    "filled with -2000 in a little": lambda hu: _padded(hu, -2000, 0.05),
    "filled with -1024": lambda hu: _padded(hu, -1024, 0.3),
    "noise of 120 HU": lambda hu: _int16(hu + np.random.default_rng(1).normal(0, 120, hu.shape)),
    "noise of 60 HU, cut at -1024": lambda hu: _int16(
        np.maximum(hu + np.random.default_rng(2).normal(0, 60, hu.shape), -1024)
    ),
    "emphysema": lambda hu: _int16(np.where((hu < -700) & (hu > -985), hu - np.float64(60), hu)),
    "24 HU too high": lambda hu: _int16(hu + np.float64(24)),
    "cut to -1000..400": lambda hu: _int16(np.clip(hu, -1000, 400)),
    "turned on its face": lambda hu: np.flip(hu, (0, 1)),
}
"""Must pass, whole and in crops."""

HONEST_WHOLE: dict[str, Change] = {
    "one lung": _one_lung,
    "filled with -2048, then noise of 90 HU": lambda hu: _int16(
        _padded(hu, -2048, 0.2) + np.random.default_rng(6).normal(0, 90, hu.shape)
    ),
    "few slices": lambda hu: hu[:, :, hu.shape[2] // 2 - 2 : hu.shape[2] // 2 + 2],
    "every third slice": lambda hu: hu[:, :, ::3],
    "body cut out, -1024 around": lambda hu: _int16(np.where(hu < -985, -1024, hu)),
}
"""Must pass where the whole body is seen."""
