"""Places in the lungs that are bright and round at some size: what a nodule finder looks at more closely.

A nodule is a blob of 3–40 mm against aerated lung, whether solid or ground glass, free, on a vessel or on the pleura.
The Laplacian of Gaussians answers strongest at a blob's own size; the shape of the second derivatives there tells blobs
from vessels and fissures. Large sizes are looked for on coarser copies, so that all sizes together cost little more
than the smallest one.

This step is meant to miss nothing: a scan gives a few hundred blobs, and a network says which are nodules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.lung_mask import LungMask, lungs_on
from medai.preprocessing.resampling import resample_region, resample_to_grid

FINEST_SPACING_MM = 1.25
SIZES_MM: tuple[tuple[float, ...], ...] = ((3.5, 5.0, 7.0), (10.0, 14.0), (20.0, 28.0, 40.0))
"""Diameters looked for on the finest copy, on one of twice and on one of four times its spacing."""
MOST_OF_SIZE = {3.5: 160, 5.0: 150, 7.0: 170, 10.0: 130, 14.0: 90, 20.0: 40, 28.0: 20, 40.0: 10}
"""How many of each size are looked at: vessels make thousands of small blobs, which must not crowd out large faint ones
(ground glass)."""
DIAMETER_OF_SIGMA = 2 * 3**0.5
"""A ball of diameter d answers strongest at sigma = d / (2 √3) (in three dimensions)."""
LUNG_HU = -850.0
"""Stands in for what is not lung, so that the chest wall is no edge and a nodule on it is a blob."""
BRIGHTEST_HU = -150.0
"""Beyond it all is as bright: a vessel full of contrast medium must not outshine its neighbourhood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A bright round place.

    Attributes:
        centre_ras_mm: RAS millimetres.
        diameter_mm: size that answers strongest.
        strength: HU, about the contrast of an ideal ball, weighted by roundness.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobConfig:
    """What counts as a blob.

    Attributes:
        least_strength_hu: weaker answers are noise; ground glass gives 100 and more.
        least_roundness: smallest over largest second derivative; 1 for a ball, 0 for a straight vessel or a sheet.
    """

    least_strength_hu: float = 45.0
    least_roundness: float = 0.12


def find_blobs(volume: Volume, lungs: LungMask, config: BlobConfig | None = None) -> list[Blob]:
    """Find blobs within the lungs.

    Args:
        volume: the scan.
        lungs: on the scan's grid.
        config: what counts.

    Returns:
        Blobs, strongest first; none where the mask is empty.
    """
    config = config or BlobConfig()
    box = IndexBox.of_mask(lungs.labels)
    if box is None:
        return []
    box = box.expand([int(np.ceil(6 / s)) for s in volume.geometry.spacing_mm]).clip(volume.geometry.shape_ijk)
    copy = resample_region(volume, box, [FINEST_SPACING_MM] * 3)
    inside = lungs_on(lungs, copy.geometry)
    image = np.where(inside, np.clip(copy.image_hu, -1000, BRIGHTEST_HU), LUNG_HU).astype(np.float32)
    found: list[Blob] = []
    geometry = copy.geometry
    for level, sizes_mm in enumerate(SIZES_MM):
        if level:
            coarser = geometry.resampled([FINEST_SPACING_MM * 2**level] * 3)
            image = resample_to_grid(image, geometry, coarser)
            inside = resample_to_grid(inside.astype(np.uint8), geometry, coarser) > 0.3
            geometry = coarser
        for diameter_mm in sizes_mm:
            blobs = _blobs_of_size(image, inside, geometry, diameter_mm, config)
            found += sorted(blobs, key=lambda blob: -blob.strength)[: MOST_OF_SIZE[diameter_mm]]
    return _strongest_apart(found)


def _blobs_of_size(
    image: NDArray[np.float32],
    inside: NDArray[np.bool_],
    geometry: VolumeGeometry,
    diameter_mm: float,
    config: BlobConfig,
) -> list[Blob]:
    """Local maxima of the answer at one size that are round enough."""
    from scipy import ndimage

    sigma_voxels = diameter_mm / DIAMETER_OF_SIGMA / geometry.spacing_mm[0]
    smooth = ndimage.gaussian_filter(np.pad(image, 1, mode="edge"), sigma_voxels, truncate=3.0, mode="nearest")
    middle = smooth[1:-1, 1:-1, 1:-1]
    answer = 6.0 * middle
    for axis in range(3):
        for step in (0, 2):
            cut = [slice(1, -1)] * 3
            cut[axis] = slice(step, step + middle.shape[axis])
            answer -= smooth[tuple(cut)]
    answer *= np.float32(sigma_voxels**2)
    peaks = (answer > config.least_strength_hu) & inside
    peaks &= answer >= ndimage.maximum_filter(answer, size=3, mode="nearest")
    index = np.argwhere(peaks)
    if index.size == 0:
        return []
    strength = answer[peaks]
    roundness = _roundness(smooth, index + 1)
    keep = roundness > config.least_roundness
    centres_mm = geometry.ijk_to_ras(index)
    weighted = strength * np.sqrt(np.clip(roundness, 0, 1))
    return [
        Blob(
            centre_ras_mm=(float(centres_mm[n, 0]), float(centres_mm[n, 1]), float(centres_mm[n, 2])),
            diameter_mm=diameter_mm,
            strength=float(weighted[n]),
        )
        for n in np.flatnonzero(keep)
    ]


def _roundness(smooth: NDArray[np.float32], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Smallest over largest negative curvature at some voxels; below zero where one direction curves upwards."""

    def at(i: int, j: int, k: int) -> NDArray[np.float64]:
        return np.asarray(smooth[index[:, 0] + i, index[:, 1] + j, index[:, 2] + k], dtype=np.float64)

    units = np.eye(3, dtype=int)
    hessian = np.empty((len(index), 3, 3))
    for a in range(3):
        hessian[:, a, a] = at(*units[a]) + at(*-units[a]) - 2 * at(0, 0, 0)
        for b in range(a):
            plus, minus = units[a] + units[b], units[a] - units[b]
            hessian[:, a, b] = hessian[:, b, a] = (at(*plus) + at(*-plus) - at(*minus) - at(*-minus)) / 4
    curvature = np.linalg.eigvalsh(-hessian)
    return np.asarray(curvature[:, 0] / np.maximum(curvature[:, 2], 1e-6))


def _strongest_apart(blobs: list[Blob]) -> list[Blob]:
    """The strongest blobs of which none lies inside a stronger one of a similar or larger size."""
    from scipy.spatial import cKDTree

    if not blobs:
        return []
    ordered = sorted(blobs, key=lambda blob: (-blob.strength, blob.centre_ras_mm))
    centres_mm = np.array([blob.centre_ras_mm for blob in ordered])
    tree = cKDTree(centres_mm)
    dropped = np.zeros(len(ordered), dtype=bool)
    kept: list[Blob] = []
    for n, blob in enumerate(ordered):
        if dropped[n]:
            continue
        kept.append(blob)
        for other in tree.query_ball_point(centres_mm[n], 0.4 * max(blob.diameter_mm, 5.0)):
            dropped[other] |= other > n and ordered[other].diameter_mm < 2.5 * blob.diameter_mm
    return kept
