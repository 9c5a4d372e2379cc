"""Where in a scan there is room for a nodule: deep in the lung, beside a vessel, on the chest wall.

Works on any scan with a lung mask: a copy of about 2 mm says how deep a point lies and whether vessels are near; the
wall itself is found again in the scan's own voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import Volume
from medai.geometry import IndexBox
from medai.phantom.texture import NoiseTexture
from medai.preprocessing.resampling import coarse_geometry, resample_to_grid

Float = NDArray[np.float32]
Vector = NDArray[np.float64]

COARSE_MM = 2.0
AIRY_HU = -600.0
THICK_MM = 3.5
"""Radius of a ball that fits into hilum, heart or a mass but into no peripheral vessel."""
GAP_MM = 4.0
"""Between two nodules."""
_WALL_HU = -350.0
_STEP_MM = 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """A place for a nodule.

    Attributes:
        centre_ras_mm: RAS millimetres; on the wall for ``SiteFinder.on_wall``.
        outward_ras: unit vector out of the lung (meaningful on the wall).
    """

    centre_ras_mm: Vector
    outward_ras: Vector


class SiteFinder:
    """Finds places in one scan and keeps nodules apart."""

    def __init__(self, volume: Volume, lungs: NDArray[np.uint8]) -> None:
        self._volume = volume
        self._coarse = coarse_geometry(volume.geometry, COARSE_MM)
        spacing = self._coarse.spacing_mm
        image = resample_to_grid(volume.image_hu, volume.geometry, self._coarse)
        inside = resample_to_grid((lungs > 0).astype(np.float32), volume.geometry, self._coarse) > 0.5
        bright = image > AIRY_HU
        # Also what a generous mask took in: hilum, pleural thickening, lesions.
        cores = ndimage.distance_transform_edt(bright, sampling=spacing) > THICK_MM
        thick = ndimage.distance_transform_edt(~cores, sampling=spacing) <= THICK_MM
        self._lung = inside & ~(thick & bright)
        self._depth_mm = _depth(self._lung, spacing)
        self._wall_mm = _depth(inside, spacing)
        self._vessel = (bright & self._lung).astype(np.float32)
        self._image = image
        self._index = np.argwhere(self._lung & (self._depth_mm > 1.5))
        self._points = self._coarse.ijk_to_ras(self._index)
        self._depths = self._depth_mm[tuple(self._index.T)]
        middle = {side: self._coarse.ijk_to_ras(points.mean(axis=0)) for side, points in self._sides(lungs).items()}
        self._middles = np.array(list(middle.values()))
        self._taken: list[tuple[Vector, float]] = []

    def take(self, centre_ras_mm: Vector, radius_mm: float) -> None:
        """Keep others away from here."""
        self._taken.append((centre_ras_mm, radius_mm))

    def in_lung(self, rng: np.random.Generator, radius_mm: float, tries: int) -> Site | None:
        """A place away from walls whose vessels are few: the emptiest of ``tries``."""
        options = self._free(self._points[self._depths > radius_mm + 3.0], radius_mm)
        options = options[rng.permutation(len(options))[:tries]]
        if len(options) == 0:
            return None
        crowding = [self._filled(point, radius_mm + 1.0) for point in options]
        order = np.argsort(crowding)
        # Not always the emptiest: real nodules have small vessels about them.
        chosen = options[order[int(rng.integers(max(1, len(order) // 4)))]]
        return Site(centre_ras_mm=chosen, outward_ras=np.array([0.0, 0.0, 1.0]))

    def beside_vessels(self, rng: np.random.Generator, radius_mm: float, tries: int) -> Iterator[Site]:
        """Places with a vessel at their rim but not through their middle."""
        options = self._free(self._points[self._depths > radius_mm + 3.0], radius_mm)
        for point in options[rng.permutation(len(options))[: 4 * tries]]:
            if self._filled(point, radius_mm) < 0.12 and 0.02 < self._filled(point, radius_mm + 2.5) < 0.25:
                yield Site(centre_ras_mm=point, outward_ras=np.array([0.0, 0.0, 1.0]))

    def on_wall(self, rng: np.random.Generator, radius_mm: float, tries: int) -> Iterator[Site]:
        """Points of the pleura with the direction out of the lung."""
        # Not on the hilum or a mass, which lie inside the lung mask.
        is_wall = self._wall_mm[tuple(self._index.T)] < self._depths + 1.0
        near = np.flatnonzero((self._depths < 5.0) & (self._depths > 2.0) & is_wall)
        for n in rng.permutation(near)[: 6 * tries]:
            outward = self._outward(self._index[n])
            if outward is None or not self._is_costal(self._points[n], outward):
                continue
            wall = self._march(self._points[n], outward)
            if wall is None or len(self._free((wall - radius_mm * outward)[None], radius_mm)) == 0:
                continue
            deep = self._coarse.ras_to_ijk(wall - (2.0 * radius_mm + 3) * outward)
            if ndimage.map_coordinates(self._depth_mm, deep[:, None], order=1, cval=0.0)[0] > 1.0:
                yield Site(centre_ras_mm=wall, outward_ras=outward)

    def brightness(self, points_ras_mm: Vector) -> float:
        """Share of points (n, 3) that lie on vessels."""
        at = self._coarse.ras_to_ijk(points_ras_mm).T
        return float(np.mean(ndimage.map_coordinates(self._vessel, at, order=1, cval=0.0)))

    def coverage(self, box: IndexBox) -> Float:
        """Share 0–1 of each voxel of a box that is lung or a millimetre beside it, float32."""
        spacing = self._volume.geometry.spacing_mm
        margin = [int(np.ceil(6.0 / s)) for s in spacing]
        wide = box.expand(margin).clip(self._volume.geometry.shape_ijk)
        image = ndimage.gaussian_filter(
            self._volume.image_hu[wide.slices].astype(np.float32), [0.5 / s for s in spacing]
        )
        airy = image < _WALL_HU
        grown = ndimage.distance_transform_edt(~airy, sampling=spacing)
        filled = ndimage.distance_transform_edt(grown < 3.0, sampling=spacing) > 3.0
        outside = ndimage.distance_transform_edt(~(filled | airy), sampling=spacing)
        inner = box.shift([-s for s in wide.start_ijk])
        return np.asarray(np.clip(1 - (outside[inner.slices] - 0.5) / 1.0, 0, 1), dtype=np.float32)

    def noise_hu(self, box: IndexBox, noise: NoiseTexture) -> float:
        """Strength of the noise in a box: what the lung there shows at most, never more than soft tissue's."""
        image = self._volume.image_hu[box.slices].astype(np.float32)
        calm = image < AIRY_HU
        if np.count_nonzero(calm) < 60:
            return noise.strength_hu
        fine = image - ndimage.uniform_filter(image, (3, 3, 1))
        share = noise.fine_share
        here = float(1.4826 * np.median(np.abs(fine[calm]))) / max(share, 0.2)
        return float(np.clip(here, 0.35 * noise.strength_hu, noise.strength_hu))

    def edge_mm(self, measure: Callable[[Float, tuple[float, float, float], NDArray[np.bool_]], float]) -> float:
        """Width of the scan's sharpest edges, at the lungs' surface in its middle slices."""
        k = self._volume.geometry.shape_ijk[2]
        middle = self._volume.image_hu[..., k // 3 : max(k // 3 + 1, 2 * k // 3) : max(1, k // 36)].astype(np.float32)
        return measure(middle, self._volume.geometry.spacing_mm, np.ones(middle.shape, dtype=bool))

    def _sides(self, lungs: NDArray[np.uint8]) -> dict[int, NDArray[np.int_]]:
        """Coarse voxels of each lung."""
        at = np.rint(self._volume.geometry.ras_to_ijk(self._points)).astype(int)
        at = np.clip(at, 0, np.asarray(lungs.shape) - 1)
        side = lungs[tuple(at.T)]
        return {int(value): self._index[side == value] for value in np.unique(side[side > 0])}

    def _free(self, points: Vector, radius_mm: float) -> Vector:
        for other, other_mm in self._taken:
            points = points[np.linalg.norm(points - other, axis=1) > radius_mm + other_mm + GAP_MM]
        return points

    def _filled(self, point: Vector, radius_mm: float) -> float:
        """Share of a ball that vessels fill."""
        spacing = np.asarray(self._coarse.spacing_mm)
        centre = self._coarse.ras_to_ijk(point)
        low = np.maximum(np.ceil(centre - radius_mm / spacing).astype(int), 0)
        high = np.floor(centre + radius_mm / spacing).astype(int) + 1
        part = self._vessel[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        offsets = [(np.arange(a, a + n) - c) * s for a, n, c, s in zip(low, part.shape, centre, spacing, strict=True)]
        i, j, k = np.meshgrid(*offsets, indexing="ij")
        ball = i * i + j * j + k * k <= radius_mm**2
        return float(part[ball].mean()) if ball.any() else 0.0

    def _outward(self, index: NDArray[np.int_]) -> Vector | None:
        """Direction of the steepest way out of the lung, RAS."""
        low, high = np.maximum(index - 2, 0), index + 3
        part = ndimage.gaussian_filter(
            self._depth_mm[low[0] : high[0], low[1] : high[1], low[2] : high[2]].astype(np.float64), 0.7
        )
        if min(part.shape) < 5:
            return None
        slope = np.array([np.gradient(part, s, axis=n)[2, 2, 2] for n, s in enumerate(self._coarse.spacing_mm)])
        length = float(np.linalg.norm(slope))
        return None if length < 0.4 else np.asarray(-self._coarse.directions_ras @ slope / length)

    def _is_costal(self, point: Vector, outward: Vector) -> bool:
        """True where the way out leads away from the lung's middle: chest wall or diaphragm, not the mediastinum."""
        middle = self._middles[np.argmin(np.linalg.norm(self._middles - point, axis=1))]
        away = point - middle
        return bool(outward @ away > 0.45 * np.linalg.norm(away))

    def _march(self, start: Vector, outward: Vector) -> Vector | None:
        """The point where a ray from inside the lung meets the wall, in the scan's own voxels."""
        steps = np.arange(0, 9.0, _STEP_MM)
        line = self._volume.geometry.ras_to_ijk(start + steps[:, None] * outward)
        values = ndimage.map_coordinates(self._volume.image_hu, line.T, order=1, mode="nearest", output=np.float32)
        dense = ndimage.uniform_filter1d(values, 5) > _WALL_HU
        # Two millimetres of tissue in a row are wall; a vessel at the pleura is thinner.
        for n in range(len(steps) - 7):
            if dense[n : n + 7].all():
                return np.asarray(start + steps[n] * outward)
        return None


def _depth(lung: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> Float:
    """Distance to the nearest voxel that is not lung, mm; the scan's ends count as such."""
    return np.asarray(
        ndimage.distance_transform_edt(np.pad(lung, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1], np.float32
    )
