"""The noise of a scan: how strong it is and what its grain looks like, measured in its soft tissue, and more of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import Volume

Float = NDArray[np.float32]

_TILE = 24
_MOST_TILES = 160
_TISSUE_HU = (-30.0, 130.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseTexture:
    """Stationary noise with a measured grain.

    Attributes:
        amplitude: square root of the in-plane power spectrum of unit noise, on a tile of 24×24 voxels.
        neighbour: correlation of adjacent slices, 0–0.9.
        strength_hu: standard deviation in soft tissue, HU.
    """

    amplitude: Float
    neighbour: float
    strength_hu: float

    @classmethod
    def measure(cls, volume: Volume) -> NoiseTexture:
        """Measure a scan's noise on its calmest tiles of soft tissue; white noise as in its lung if there are none."""
        tiles = _calm_tiles(volume.image_hu)
        if len(tiles) < 4:
            white = np.ones((_TILE, _TILE), dtype=np.float32)
            return cls(amplitude=white, neighbour=0.0, strength_hu=_lung_noise_hu(volume.image_hu))
        window = np.outer(np.hanning(_TILE + 2)[1:-1], np.hanning(_TILE + 2)[1:-1])
        here, above = (_detrended(tiles[:, n]) for n in (0, 1))
        power = np.mean(np.abs(np.fft.fft2(here * window)) ** 2, axis=0)
        # Organs' own large-scale shading is not noise.
        frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.fftfreq(_TILE)[None, :])
        power[frequency < 1.5 / _TILE] = power[(frequency >= 1.5 / _TILE) & (frequency < 2.6 / _TILE)].mean()
        power /= power.mean()
        variance = float(np.mean(here**2))
        neighbour = float(np.mean(here * above) / np.sqrt(np.mean(here**2) * np.mean(above**2)))
        return cls(
            amplitude=np.sqrt(power).astype(np.float32),
            neighbour=float(np.clip(neighbour, 0.0, 0.9)),
            strength_hu=float(np.sqrt(variance)),
        )

    @property
    def fine_share(self) -> float:
        """Standard deviation that is left of unit noise when each voxel's 3×3 mean is taken away."""
        wave = (1 + 2 * np.cos(2 * np.pi * np.fft.fftfreq(_TILE))) / 3
        return float(np.sqrt(np.mean(np.square(self.amplitude * (1 - np.outer(wave, wave))))))

    def sample(self, rng: np.random.Generator, shape_ijk: tuple[int, int, int]) -> Float:
        """Noise of unit standard deviation, shape (i, j, k)."""
        i, j, k = shape_ijk
        size = (max(i, _TILE), max(j, _TILE))
        filtered = _resized(self.amplitude, size)
        white = rng.standard_normal((*size, k + 1), dtype=np.float32)
        noise = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * filtered[..., None], axes=(0, 1)).real[:i, :j]
        # Two neighbours that share a part r of the same field have the correlation r / (1 + r²).
        wanted = min(self.neighbour, 0.49)
        mixed = (1 - np.sqrt(1 - 4 * wanted**2)) / (2 * wanted) if wanted > 1e-3 else 0.0
        result = (noise[..., :k] + mixed * noise[..., 1:]) / np.sqrt(1 + mixed**2)
        return np.asarray(result, dtype=np.float32)


def _lung_noise_hu(image_hu: NDArray[np.generic]) -> float:
    """Standard deviation of white noise in aerated lung; 15 HU where there is none."""
    image = np.asarray(image_hu, dtype=np.float32)
    lung = image < -650
    if np.count_nonzero(lung) < 200:
        return 15.0
    fine = image - ndimage.uniform_filter(image, (3, 3, 1))
    return float(1.4826 * np.median(np.abs(fine[lung])) * np.sqrt(9 / 8))


def _calm_tiles(image_hu: NDArray[np.generic]) -> Float:
    """Tiles of soft tissue with the tile of the next slice, (n, 2, 24, 24), the calmest quarter of those found."""
    i, j, k = image_hu.shape
    found = []
    for slice_k in np.linspace(0, max(k - 2, 0), min(k, 48)).astype(int):
        if slice_k + 1 >= k:
            continue
        plane = np.asarray(image_hu[..., slice_k], dtype=np.float32)
        above = np.asarray(image_hu[..., slice_k + 1], dtype=np.float32)
        mean = ndimage.uniform_filter(plane, _TILE)
        spread = ndimage.uniform_filter(np.square(plane), _TILE) - mean**2
        half = _TILE // 2
        for a in range(half, i - half, half):
            for b in range(half, j - half, half):
                if _TISSUE_HU[0] < mean[a, b] < _TISSUE_HU[1] and spread[a, b] < 120.0**2:
                    where = (slice(a - half, a + half), slice(b - half, b + half))
                    found.append((float(spread[a, b]), plane[where], above[where]))
    found.sort(key=lambda tile: tile[0])
    calmest = found[: min(_MOST_TILES, max(4, len(found) // 4))]
    return np.array([[here, there] for _, here, there in calmest], dtype=np.float32).reshape(-1, 2, _TILE, _TILE)


def _detrended(tiles: Float) -> Float:
    """Tiles without their plane (mean and slope)."""
    ramp = np.linspace(-1, 1, _TILE)
    basis = np.stack([np.ones((_TILE, _TILE)), np.add.outer(ramp, 0 * ramp), np.add.outer(0 * ramp, ramp)])
    basis = (basis / np.sqrt(np.square(basis).sum(axis=(1, 2), keepdims=True))).reshape(3, -1)
    flat = tiles.reshape(len(tiles), -1)
    return np.asarray((flat - flat @ basis.T @ basis).reshape(tiles.shape), dtype=np.float32)


def _resized(amplitude: Float, size: tuple[int, int]) -> Float:
    """The spectrum on another tile size, of mean power 1."""
    at = [(np.abs(np.fft.fftfreq(n)) * _TILE) for n in size]
    quarter = amplitude[: _TILE // 2 + 1, : _TILE // 2 + 1].astype(np.float64)
    grid = np.stack(np.meshgrid(*at, indexing="ij"))
    result = ndimage.map_coordinates(quarter, grid, order=1, mode="nearest")
    return np.asarray(result / np.sqrt(np.mean(result**2)), dtype=np.float32)
