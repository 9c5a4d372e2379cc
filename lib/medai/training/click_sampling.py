"""Training patches: random views of a nodule with a first click in it, interpolated once from the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.evaluation.simulated_clicks import first_click
from medai.geometry import IndexBox


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How training patches are drawn.

    Attributes:
        patch_shape: voxels.
        spacing_mm: the spacing of the first patch at inference.
        zoom_range: patch spacing over ``spacing_mm``, drawn log-uniformly.
        coarse_zoom: upper end of the zoom range for nodules of ``coarse_extent_mm`` or more, which inference looks at
            in coarser patches.
        coarse_extent_mm: length of the longest side of a nodule's box.
        careful_fraction: share of first clicks near the innermost voxel, the others lie anywhere in the nodule.
        offset_voxels: farthest the first click lies from the patch's middle along an axis, in half of the patches.
        cut_fraction: share of patches cut off above or below, as at the end of a scan.
        thick_fraction: share of thin-slice cases averaged into thicker slices.
        noise_hu: largest added noise.
        shift_hu: standard deviation of the intensity shift.
        gain: standard deviation of the intensity scale.
        sharpness_fraction: share of patches that are blurred, and of the others that are sharpened.
        rotation: turn and flip patches.
    """

    patch_shape: tuple[int, int, int] = (48, 48, 48)
    spacing_mm: float = 0.75
    zoom_range: tuple[float, float] = (0.8, 1.25)
    coarse_zoom: float = 2.5
    coarse_extent_mm: float = 14.0
    careful_fraction: float = 0.6
    offset_voxels: int = 8
    cut_fraction: float = 0.1
    thick_fraction: float = 0.15
    noise_hu: float = 40.0
    shift_hu: float = 15.0
    gain: float = 0.03
    sharpness_fraction: float = 0.2
    rotation: bool = True

    def unvaried(self) -> SamplingConfig:
        """The same patches as an annotator's careful first click gives them: for validation."""
        return replace(
            self,
            zoom_range=(1.0, 1.0),
            coarse_zoom=1.0,
            careful_fraction=1.0,
            offset_voxels=0,
            cut_fraction=0.0,
            thick_fraction=0.0,
            noise_hu=0.0,
            shift_hu=0.0,
            gain=0.0,
            sharpness_fraction=0.0,
            rotation=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingPatch:
    """One randomly oriented view of a nodule.

    Attributes:
        click: the first click's patch voxel.
        image_hu: float32, the patch shape.
        target: bool, the nodule.
        known: bool, False beyond a cut where the scan says nothing.
        spacing_mm: isotropic.
    """

    click: tuple[int, int, int]
    image_hu: NDArray[np.float32]
    target: NDArray[np.bool_]
    known: NDArray[np.bool_]
    spacing_mm: float


def sample_patch(case: ClickCase, config: SamplingConfig, rng: np.random.Generator) -> TrainingPatch:
    """Draw one augmented patch around a first click.

    Rotation, flips, zoom, slice thickness, end of scan, noise, sharpness and intensity vary.
    """
    from scipy import ndimage

    click = first_click(case, rng, careful=bool(rng.random() < config.careful_fraction))
    image, mask, spacing_mm, centre = _thickened(case, click, config, rng)
    patch_spacing_mm = config.spacing_mm * _zoom(case, config, rng)
    shape = np.asarray(config.patch_shape)
    farthest = np.minimum(config.offset_voxels, shape // 2 - 2)
    off = rng.integers(-farthest, farthest + 1) * int(rng.random() < 0.5)
    at = shape // 2 + off
    reach = np.ceil((np.linalg.norm(shape) / 2 + np.linalg.norm(off)) * patch_spacing_mm / spacing_mm).astype(int) + 2
    low = np.maximum(0, np.floor(centre).astype(int) - reach)
    high = np.minimum(image.shape, np.floor(centre).astype(int) + reach + 1)
    low[2], high[2] = _cut(int(low[2]), int(high[2]), int(centre[2]), config, rng)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = image[window].astype(np.float32)
    blur = np.maximum(0.0, patch_spacing_mm / spacing_mm - 1.0) * 0.45
    if np.any(blur > 0.1):
        source = ndimage.gaussian_filter(source, blur, mode="nearest")
    rotation = _random_rotation(rng) if config.rotation else np.eye(3)
    matrix = rotation * patch_spacing_mm / spacing_mm[:, None]
    offset = centre - low - matrix @ at
    drawn = ndimage.affine_transform(
        source, matrix, offset, output_shape=config.patch_shape, order=1, mode="nearest", prefilter=False
    )
    fraction = ndimage.affine_transform(
        mask[window].astype(np.float32), matrix, offset, output_shape=config.patch_shape, order=1, mode="nearest"
    )
    grid = np.indices(config.patch_shape, sparse=True)
    slice_index = matrix[2, 0] * grid[0] + matrix[2, 1] * grid[1] + matrix[2, 2] * grid[2] + offset[2]
    known = (slice_index > -0.6) & (slice_index < source.shape[2] - 0.4)
    target = (fraction >= 0.5) & known
    click_at = (int(at[0]), int(at[1]), int(at[2]))
    target[click_at] = True
    return TrainingPatch(
        click=click_at,
        image_hu=_vary_intensity(drawn, config, rng),
        target=target,
        known=known,
        spacing_mm=patch_spacing_mm,
    )


def _zoom(case: ClickCase, config: SamplingConfig, rng: np.random.Generator) -> float:
    """Patch spacing over the finest one."""
    box = IndexBox.of_mask(case.mask)
    low, high = config.zoom_range
    if (
        box is not None
        and np.max(np.multiply(box.shape_ijk, case.volume.geometry.spacing_mm)) >= config.coarse_extent_mm
    ):
        high = config.coarse_zoom
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _cut(low: int, high: int, centre: int, config: SamplingConfig, rng: np.random.Generator) -> tuple[int, int]:
    """The slices that are kept: sometimes one end is cut off near the click."""
    if rng.random() >= config.cut_fraction:
        return low, high
    if rng.random() < 0.5:
        return int(rng.integers(low, centre + 1)), high
    return low, int(rng.integers(centre + 1, high + 1))


def _thickened(
    case: ClickCase, click: tuple[int, int, int], config: SamplingConfig, rng: np.random.Generator
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.float64], NDArray[np.float64]]:
    """Image, mask, spacing and click, sometimes with neighbouring slices averaged."""
    spacing_mm = np.asarray(case.volume.geometry.spacing_mm)
    centre = np.asarray(click, dtype=np.float64)
    image: NDArray[np.generic] = case.volume.image_hu
    mask: NDArray[np.generic] = case.mask
    depth = int(np.count_nonzero(np.any(case.mask, axis=(0, 1))))
    factor = int(rng.integers(2, 4))
    if rng.random() >= config.thick_fraction or spacing_mm[2] * factor > 5.0 or depth < 2 * factor:
        return image, mask, spacing_mm, centre
    start = int(rng.integers(factor)) if image.shape[2] > 3 * factor else 0
    count = (image.shape[2] - start) // factor
    if not start <= click[2] < start + count * factor:
        return image, mask, spacing_mm, centre
    kept = slice(start, start + count * factor)
    folded = (image.shape[0], image.shape[1], count, factor)
    centre[2] = (click[2] - start) // factor
    return (
        image[..., kept].reshape(folded).mean(axis=3),
        mask[..., kept].reshape(folded).mean(axis=3),
        spacing_mm * (1.0, 1.0, factor),
        centre,
    )


def _random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Half the time one of the 48 axis-aligned views, else a turn about the first-to-last axis or any axis as well."""
    signed = np.zeros((3, 3))
    signed[np.arange(3), rng.permutation(3)] = rng.choice([-1.0, 1.0], size=3)
    if rng.random() < 0.5:
        return signed
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = rng.uniform(-np.pi / 4, np.pi / 4)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turn @ signed


def _vary_intensity(
    image_hu: NDArray[np.float32], config: SamplingConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Noise, sharpness, and a shift of the scale, as between scanners and kernels."""
    from scipy import ndimage

    varied = image_hu
    if rng.random() < config.sharpness_fraction:
        varied = ndimage.gaussian_filter(varied, rng.uniform(0.4, 0.9))
    elif rng.random() < config.sharpness_fraction:
        varied = varied + rng.uniform(0.3, 1.0) * (varied - ndimage.gaussian_filter(varied, 1.0))
    if rng.random() < 0.4:
        varied = varied + rng.uniform(0, config.noise_hu) * rng.standard_normal(varied.shape, dtype=np.float32)
    gain, shift = rng.normal(1.0, config.gain), rng.normal(0.0, config.shift_hu)
    return np.asarray((varied + 1000.0) * gain - 1000.0 + shift, dtype=np.float32)
