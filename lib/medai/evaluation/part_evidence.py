"""Whether a scan shows a nodule where a part of a label says there is one.

Six things are measured around each part, all of them what a radiologist looks at: it is denser than what lies close
around it; most of its surface is an edge; it is tissue and not lung; its density is spread as its outline is; and no
place nearby, half its size away, say, holds that outline far better. A label that was shifted off its nodule, mirrored,
or drawn on another scan fails in several of them at once, a faint nodule or one on the pleura in one or two. Their
weighted sum is therefore what counts.

The weights are a logistic regression over LIDC-IDRI nodules put into whole scans, one half of the patients; the other
half gave the figures of ``lib/decisions/0022-labels-that-are-held.md`` (``tests/benchmarks/sanity``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from medai.geometry import IndexBox

NEAR_MM = 3.0
"""How far around a part its surroundings are looked at, more around a large one."""
TISSUE_HU = -650.0
"""Between lung (about -850) and what is outlined in it."""
WALL_HU = -400.0
FLAT_HU = 15.0
EDGE_HU = 60.0
"""What density falls by across an edge; ground glass in lung falls by 100 to 200."""
FINEST_STEPS = 5
"""A part is looked at in steps of its radius over this, or the scan's own."""
LEAST_MARGIN_MM, MARGIN_RADII = 9.0, 2.3

WELL_FITTING, FAR_BETTER = 0.4, 0.2
"""From here on it is said that an outline would fit elsewhere; honest outlines have 0.5 where they are, on average."""

DOUBT_BOUND = 0.25
"""From here on a part is doubted; chosen on one half of the patients, see the module's docstring."""

_WEIGHTS = {
    "contrast": -1.15,
    "edge": -1.3,
    "gain": 3.6,
    "tissue": -2.4,
    "pattern": -5.7,
    "ratio": -2.5,
}
_SHIFT = 7.05

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEvidence:
    """What a scan says of one connected part of a label.

    Attributes:
        contrast_hu: median of the part less that of what lies around it.
        edge_share: of its surface, 0–1: density falls outwards by ``EDGE_HU`` at least.
        tissue_share: of its voxels, 0–1: denser than ``TISSUE_HU``.
        pattern: correlation of density and outline in and around it, chest wall and mediastinum left out; -1 to 1.
        contrast_share: how far density inside exceeds that around it, as a share of the range in both; -1 to 1.
        best_share: the same for the place nearby where the outline fits best; ``contrast_share`` at least.
        best_offset_mm: from here to that place along i, j, k.
    """

    contrast_hu: float
    edge_share: float
    tissue_share: float
    pattern: float
    contrast_share: float
    best_share: float
    best_offset_mm: tuple[float, float, float]

    @property
    def doubt(self) -> float:
        """Log odds that no nodule was outlined here; 0 is as likely as not in the data the weights are from."""
        values = self.terms
        return _SHIFT + sum(weight * values[name] for name, weight in _WEIGHTS.items())

    @property
    def terms(self) -> dict[str, float]:
        """What is weighted, by name."""
        return {
            "contrast": float(np.sign(self.contrast_hu) * np.log1p(abs(self.contrast_hu) / 30.0)),
            "edge": self.edge_share,
            "gain": self.best_share - self.contrast_share,
            "tissue": self.tissue_share,
            "pattern": self.pattern,
            "ratio": float(np.clip(self.contrast_share / max(self.best_share, 1e-3), -1.0, 1.0)),
        }

    @property
    def words(self) -> str:
        """What is odd about the part, for an annotator."""
        offset_mm = float(np.linalg.norm(self.best_offset_mm))
        if self.best_share > WELL_FITTING and self.best_share - self.contrast_share > FAR_BETTER:
            return f"the scan shows no nodule here; the outline would fit far better {offset_mm:.0f} mm away"
        if self.contrast_hu < FLAT_HU:
            return (
                f"it is no denser than what lies within {NEAR_MM:.0f} mm around it (medians differ by "
                f"{self.contrast_hu:+.0f} HU)"
            )
        return (
            f"the scan shows no nodule here: medians inside and around it differ by {self.contrast_hu:+.0f} HU, "
            f"{self.edge_share:.0%} of its surface is an edge"
        )


def region_around(box: IndexBox, part: Mask, spacing_mm: Sequence[float], shape_ijk: Sequence[int]) -> IndexBox:
    """What has to be known of a scan to judge a part of a label.

    A part that is flat, drawn in one slice of several, is judged within its slices.

    Args:
        box: where the part lies.
        part: bool, shape of the box.
        spacing_mm: of the scan.
        shape_ijk: of the scan.
    """
    margin_mm = max(LEAST_MARGIN_MM, MARGIN_RADII * _radius_mm(part, spacing_mm) + NEAR_MM)
    margin = [int(np.ceil(margin_mm / side)) for side in spacing_mm]
    sides_mm = [count * side for count, side in zip(part.shape, spacing_mm, strict=True)]
    flattest = int(np.argmin(sides_mm))
    others = [side for axis, side in enumerate(sides_mm) if axis != flattest]
    if part.shape[flattest] <= 2 and sides_mm[flattest] < min(others) / 2:
        margin[flattest] = 0
    return box.expand(margin).clip(shape_ijk)


def evidence_of(image_hu: NDArray[np.generic], part: Mask, spacing_mm: Sequence[float]) -> PartEvidence:
    """Measure what a scan says of a part of a label.

    Args:
        image_hu: the region of the scan, indexed [i, j, k]; see ``region_around``.
        part: bool of the same shape, at least one voxel.
        spacing_mm: of the grid.
    """
    radius_mm = _radius_mm(part, spacing_mm)
    smooth_hu, part, sides_mm = _coarser(image_hu, part, np.asarray(spacing_mm, dtype=np.float64), radius_mm)
    outside_mm = ndimage.distance_transform_edt(~part, sampling=sides_mm)
    near = (outside_mm > 0) & (outside_mm <= max(NEAR_MM, 0.3 * radius_mm))
    ring = (outside_mm > 0.5) & (outside_mm <= np.clip(radius_mm, 4.0, 8.0))
    inside_hu = smooth_hu[part]
    around_hu = smooth_hu[ring] if ring.any() else inside_hu
    low_hu = float(np.percentile(around_hu, 20))
    high_hu = max(float(np.percentile(inside_hu, 80)), float(np.percentile(around_hu, 80)), low_hu + 1.0)
    density = np.clip((smooth_hu - low_hu) / (high_hu - low_hu), 0.0, 1.0).astype(np.float32)
    wall = _thick(smooth_hu > WALL_HU, sides_mm, max(3.5, 1.15 * radius_mm))
    here, best, offset_mm = _best_place(density, part, near, sides_mm, max(4.0, 1.2 * radius_mm))
    return PartEvidence(
        contrast_hu=float(np.median(inside_hu) - np.median(smooth_hu[near])) if near.any() else 0.0,
        edge_share=_edge_share(smooth_hu, part, sides_mm, radius_mm),
        tissue_share=float(np.mean(inside_hu > TISSUE_HU)),
        pattern=_correlation(density, part, (outside_mm <= max(NEAR_MM, 0.5 * radius_mm)) & ~wall),
        contrast_share=here,
        best_share=best,
        best_offset_mm=offset_mm,
    )


def _radius_mm(part: Mask, spacing_mm: Sequence[float]) -> float:
    """Of the ball of the same volume."""
    return float((3 * np.count_nonzero(part) * float(np.prod(spacing_mm)) / (4 * np.pi)) ** (1 / 3))


def _coarser(
    image_hu: NDArray[np.generic], part: Mask, spacing_mm: NDArray[np.float64], radius_mm: float
) -> tuple[Float, Mask, NDArray[np.float64]]:
    """The image without its noise and the part, both on a grid that suits the part's size, and its spacing."""
    step = np.maximum(1, np.floor(radius_mm / FINEST_STEPS / spacing_mm)).astype(int)
    coarse_hu = _block_means(image_hu.astype(np.float32), step, mode="edge")
    share = _block_means(part.astype(np.float32), step, mode="constant")
    # A mean over a block has taken its noise already.
    blur = np.where(step == 1, 0.6 / spacing_mm, 0.0)
    smooth_hu = ndimage.gaussian_filter(coarse_hu, blur, mode="nearest")
    return np.asarray(smooth_hu), share >= min(0.5, float(share.max())), spacing_mm * step


def _block_means(values: Float, step: NDArray[np.int_], *, mode: Literal["edge", "constant"]) -> Float:
    """Means over blocks of ``step`` voxels, the last ones padded."""
    if step.max() == 1:
        return values
    padded = np.pad(values, [(0, int(-count % n)) for count, n in zip(values.shape, step, strict=True)], mode=mode)
    for axis, n in enumerate(step.tolist()):
        if n > 1:
            blocks = (*padded.shape[:axis], padded.shape[axis] // n, n, *padded.shape[axis + 1 :])
            padded = padded.reshape(blocks).mean(axis=axis + 1)
    return padded


def _thick(dense: Mask, sides_mm: NDArray[np.float64], radius_mm: float) -> Mask:
    """What is thicker than the part itself: chest wall, mediastinum, diaphragm."""
    if np.count_nonzero(dense) * float(np.prod(sides_mm)) < 4.0 / 3.0 * np.pi * radius_mm**3:
        return np.zeros_like(dense)
    depth_mm = ndimage.distance_transform_edt(np.pad(dense, 1, mode="edge"), sampling=sides_mm)[1:-1, 1:-1, 1:-1]
    cores = depth_mm > radius_mm
    if not cores.any():
        return np.zeros_like(dense)
    return np.asarray(dense & (ndimage.distance_transform_edt(~cores, sampling=sides_mm) <= radius_mm))


def _edge_share(smooth_hu: Float, part: Mask, sides_mm: NDArray[np.float64], radius_mm: float) -> float:
    """Share of the part's surface across which density falls: local means inside and outside are compared."""
    sigma = np.clip(0.35 * radius_mm, 1.0, 4.0) / sides_mm
    own = part.astype(np.float32)

    def spread(values: Float) -> Float:
        return np.asarray(ndimage.gaussian_filter(values, sigma, mode="constant", truncate=3.0))

    inside, outside = spread(own), spread(1 - own)
    surface = part & ~ndimage.binary_erosion(part, border_value=1) & (inside > 0.02) & (outside > 0.02)
    if not surface.any():
        return 0.0
    fall_hu = (
        spread(smooth_hu * own)[surface] / inside[surface] - spread(smooth_hu * (1 - own))[surface] / outside[surface]
    )
    return float(np.mean(fall_hu > EDGE_HU))


def _correlation(density: Float, part: Mask, where: Mask) -> float:
    values, own = density[where], part[where].astype(np.float32)
    if values.size == 0 or values.std() == 0 or own.std() == 0:
        return 0.0
    return float(np.corrcoef(values, own)[0, 1])


def _best_place(
    density: Float, part: Mask, near: Mask, sides_mm: NDArray[np.float64], reach_mm: float
) -> tuple[float, float, tuple[float, float, float]]:
    """How well the outline fits here, how well where it fits best within reach, and how far away that is."""
    around = IndexBox.of_mask(part | near)
    if around is None or not near.any():
        return 0.0, 0.0, (0.0, 0.0, 0.0)
    reach = [min(int(np.ceil(reach_mm / side)), count) for side, count in zip(sides_mm, part.shape, strict=True)]
    # Across a flat part nothing is known of the other slices.
    reach = [0 if count == extent else n for n, count, extent in zip(reach, part.shape, around.shape_ijk, strict=True)]
    padded = np.pad(density, [(n, n) for n in reach])
    wide = tuple(slice(a, b + 2 * n) for a, b, n in zip(around.start_ijk, around.stop_ijk, reach, strict=True))
    own, other = part[around.slices].astype(np.float32), near[around.slices].astype(np.float32)
    kernel = own / own.sum() - other / other.sum()
    fit = signal.fftconvolve(padded[wide], kernel[::-1, ::-1, ::-1], mode="valid")
    at = np.array(np.unravel_index(int(np.argmax(fit)), fit.shape))
    x, y, z = (float(mm) for mm in (at - reach) * sides_mm)
    return float(fit[tuple(reach)]), float(fit.max()), (x, y, z)
