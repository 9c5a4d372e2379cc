"""Smooth fields: the implicit surfaces the anatomy is made of, and how they get from a coarse grid to the scan's.

An implicit surface is a function that is negative inside, positive outside and close to the distance in millimetres
near the surface. Anatomy is evaluated on a grid of about 2 mm and interpolated to the scan's voxels: distances are
smooth, so edges come out sharp, with partial volume, at any voxel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Float = NDArray[np.float32]
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SineField:
    """A smooth random function of space with known wavelengths: a few plane waves.

    Attributes:
        waves: (n, 3) wave vectors in rad/mm.
        phases: (n,) radians.
        amplitudes: (n,) in whatever unit the field has.
    """

    waves: Float
    phases: Float
    amplitudes: Float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, count: int, wavelength_mm: tuple[float, float], amplitude: float
    ) -> SineField:
        """Draw ``count`` waves of random direction with a standard deviation of ``amplitude`` in total."""
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = np.exp(rng.uniform(np.log(wavelength_mm[0]), np.log(wavelength_mm[1]), count))
        weight = np.full(count, amplitude * np.sqrt(2.0 / count))
        return cls(
            waves=(direction * (2 * np.pi / length)[:, None]).astype(np.float32),
            phases=rng.uniform(0, 2 * np.pi, count).astype(np.float32),
            amplitudes=weight.astype(np.float32),
        )

    def __call__(self, x: Float, y: Float, z: Float) -> Float:
        """Value at points given as three broadcastable arrays in millimetres."""
        total: Float = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
        for (a, b, c), phase, amplitude in zip(self.waves, self.phases, self.amplitudes, strict=True):
            total += amplitude * np.sin(a * x + b * y + c * z + phase)
        return total


def knots(position: Float, at: ArrayLike, value: ArrayLike) -> Float:
    """Piecewise linear profile through (at, value), constant beyond its ends."""
    result: Float = np.interp(position, np.asarray(at, float), np.asarray(value, float)).astype(np.float32)
    return result


def smooth_min(a: Reals, b: Reals, width_mm: float) -> Float:
    """Union of two implicit surfaces, the crease rounded over ``width_mm``."""
    overlap = np.maximum(width_mm - np.abs(a - b), 0.0)
    result: Float = (np.minimum(a, b) - overlap * overlap * np.float32(0.25 / width_mm)).astype(np.float32, copy=False)
    return result


def smooth_max(a: Reals, b: Reals, width_mm: float) -> Float:
    """Intersection of two implicit surfaces, the crease rounded over ``width_mm``."""
    result: Float = -smooth_min(-a, -b, width_mm)
    return result


def oval(x: Reals, y: Reals, half_x: ArrayLike, half_y: ArrayLike, power: float = 2.0) -> Float:
    """Superellipse in the plane: distance to its outline along the ray from its centre."""
    u, v = np.abs(x) / half_x, np.abs(y) / half_y
    level = np.sqrt(u * u + v * v) if power == 2.0 else (u**power + v**power) ** np.float32(1 / power)
    radius = np.sqrt(x * x + y * y)
    result: Float = (radius - radius / np.maximum(level, 1e-3)).astype(np.float32)
    return result


def ellipsoid(x: Float, y: Float, z: Float, centre: Sequence[float], radii: Sequence[float]) -> Float:
    """Ellipsoid with axes along x, y, z."""
    u, v, w = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1], (z - centre[2]) / radii[2]
    level = np.sqrt(u * u + v * v + w * w)
    slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2)
    result: Float = (level * (level - 1.0) / np.maximum(slope, 1e-4)).astype(np.float32)
    return result


def tube(x: Float, y: Float, z: Float, path: ArrayLike, radii: ArrayLike) -> Float:
    """Rounded tube along a polyline: path (n, 3) mm, radii (n,) mm. Only for few points or few segments."""
    points, sizes = np.asarray(path, dtype=np.float32), np.asarray(radii, dtype=np.float32)
    best: Float = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.inf, dtype=np.float32)
    for start, stop, r0, r1 in zip(points[:-1], points[1:], sizes[:-1], sizes[1:], strict=True):
        along = stop - start
        px, py, pz = x - start[0], y - start[1], z - start[2]
        t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / float(along @ along), 0, 1)
        px, py, pz = px - t * along[0], py - t * along[1], pz - t * along[2]
        np.minimum(best, np.sqrt(px * px + py * py + pz * pz) - (r0 + (r1 - r0) * t), out=best)
    return best


def coverage(distance_mm: Float, width_mm: float) -> Float:
    """Share of a voxel ``width_mm`` wide that lies inside a surface ``distance_mm`` away."""
    share: Float = np.clip(0.5 - distance_mm * np.float32(1 / width_mm), 0, 1)
    return share


def spline_matrix(fine_positions: NDArray[np.float64], coarse_count: int) -> sparse.csr_matrix:
    """Cubic B-spline interpolation (smoothing, four taps) from a coarse axis to positions in coarse index units."""
    base = np.floor(fine_positions).astype(int)
    t = fine_positions - base
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    columns = np.clip(base + np.arange(-1, 3)[:, None], 0, coarse_count - 1)
    rows = np.broadcast_to(np.arange(len(fine_positions)), columns.shape)
    return sparse.csr_matrix(
        (taps.ravel().astype(np.float32), (rows.ravel(), columns.ravel())), shape=(len(fine_positions), coarse_count)
    )
