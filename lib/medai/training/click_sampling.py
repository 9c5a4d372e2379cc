"""Training patches: random views of a nodule with a first click in it, interpolated once from the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.evaluation.simulated_clicks import first_click
from medai.geometry import IndexBox

_DESCRIBED = ("spacing_mm", "fill", "finest_mm", "coarsest_mm")
"""What a network's file says of its patches, beside their shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How training patches are drawn.

    A patch is either a first look, around the click at a fixed spacing, or a second one, around the nodule at a spacing
    at which it fills a fixed part of the patch: as inference looks twice.

    Attributes:
        patch_shape: voxels.
        spacing_mm: of the first look.
        fill: part of the second look's patch that the nodule's longest side takes; inference shows large ones larger
            and looks at another scale too (``ClickConfig``), within what ``zoom_spread`` and first looks draw.
        finest_mm: least spacing of the second look.
        coarsest_mm: largest spacing of the second look.
        second_look_fraction: share of patches that are second looks.
        zoom_spread: standard deviation of the logarithm of the spacing, as the first look errs in the nodule's size.
        shift_spread: standard deviation of the second look's middle along an axis, over the nodule's longest side.
        coarse_zoom: upper end of the first look's spacing over ``spacing_mm`` for nodules of ``coarse_extent_mm`` or
            more, which inference looks at in coarser patches.
        coarsest_zoom: the same for nodules too large for a first look at ``coarse_zoom``.
        coarse_extent_mm: length of the longest side of a nodule's box.
        enlarged_fraction: share of the patches of nodules of ``enlarged_from_mm`` or more that are shown as if they
            were larger, up to ``largest_mm``: the data hold no masses, and a network that has seen none leaves them
            empty.
        enlarged_from_mm: length of the longest side.
        largest_mm: length of the longest side.
        careful_fraction: share of first clicks near the innermost voxel, the others lie anywhere in the nodule.
        offset_voxels: farthest the first click lies from a first look's middle along an axis, in half of the patches.
        cut_fraction: share of patches cut off above or below, as at the end of a scan.
        thick_fraction: share of thin-slice cases averaged into thicker slices.
        shear: standard deviation of the shear.
        noise_hu: largest added noise.
        shift_hu: standard deviation of the intensity shift.
        gain: standard deviation of the intensity scale.
        sharpness_fraction: share of patches that are blurred, and of the others that are sharpened.
        rotation: turn and flip patches.
    """

    patch_shape: tuple[int, int, int] = (32, 32, 32)
    spacing_mm: float = 0.9
    fill: float = 0.55
    finest_mm: float = 0.5
    coarsest_mm: float = 3.6
    second_look_fraction: float = 0.65
    zoom_spread: float = 0.15
    shift_spread: float = 0.07
    coarse_zoom: float = 2.0
    coarsest_zoom: float = 4.0
    coarse_extent_mm: float = 14.0
    enlarged_fraction: float = 0.3
    enlarged_from_mm: float = 10.0
    largest_mm: float = 80.0
    careful_fraction: float = 0.6
    offset_voxels: int = 5
    cut_fraction: float = 0.08
    thick_fraction: float = 0.15
    shear: float = 0.04
    noise_hu: float = 40.0
    shift_hu: float = 15.0
    gain: float = 0.03
    sharpness_fraction: float = 0.2
    rotation: bool = True

    def described(self) -> dict[str, Any]:
        """What a network's file says of its patches, so that inference and later trainings see the same."""
        return {"patch_shape": list(self.patch_shape), **{key: getattr(self, key) for key in _DESCRIBED}}

    def as_described(self, described: Mapping[str, Any]) -> SamplingConfig:
        """With what a network's file says of its patches; what it does not say stays."""
        found: dict[str, Any] = {key: float(described[key]) for key in _DESCRIBED if key in described}
        if "patch_shape" in described:
            found["patch_shape"] = tuple(int(side) for side in described["patch_shape"])
        return replace(self, **found)

    def unvaried(self) -> SamplingConfig:
        """The same patches as a good second look after an annotator's careful click gives them: for validation."""
        return replace(
            self,
            second_look_fraction=1.0,
            zoom_spread=0.0,
            shift_spread=0.0,
            enlarged_fraction=0.0,
            careful_fraction=1.0,
            cut_fraction=0.0,
            thick_fraction=0.0,
            shear=0.0,
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
        click: the first click's patch voxel, may be fractional.
        image_hu: float32, the patch shape.
        target: float32, the share of each patch voxel that the nodule fills, 0 where nothing is known.
        readers: float32, the mean of the readers' masks, 0 where nothing is known.
        known: bool, False beyond the scan's end.
        spacing_mm: isotropic.
    """

    click: tuple[float, float, float]
    image_hu: NDArray[np.float32]
    target: NDArray[np.float32]
    readers: NDArray[np.float32]
    known: NDArray[np.bool_]
    spacing_mm: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _View:
    """Where a patch lies: its spacing, and the scan voxel that comes to lie in the patch's middle."""

    spacing_mm: float
    middle: NDArray[np.float64]


def sample_patch(case: ClickCase, config: SamplingConfig, rng: np.random.Generator) -> TrainingPatch:
    """Draw one augmented patch with a first click.

    Rotation, flips, shear, zoom, slice thickness, end of scan, noise, sharpness and intensity vary.
    """
    from scipy import ndimage

    chosen = first_click(case, rng, careful=bool(rng.random() < config.careful_fraction))
    image, masks, spacing_mm, click = _thickened(case, chosen, config, rng)
    box = IndexBox.of_mask(np.asarray(masks[0], dtype=np.float32) > 0)
    if box is None:
        raise InputError("A case whose mask is empty cannot be looked at.")
    spacing_mm = spacing_mm * _enlargement(float(np.max(np.multiply(box.shape_ijk, spacing_mm))), config, rng)
    view = _view(box, spacing_mm, click, config, rng)
    shape = np.asarray(config.patch_shape)
    matrix = _random_turn(config, rng) * view.spacing_mm / spacing_mm[:, None]
    reach = np.ceil(np.abs(matrix) @ shape / 2).astype(int) + 2
    low = np.maximum(0, np.floor(view.middle).astype(int) - reach)
    high = np.minimum(image.shape, np.floor(view.middle).astype(int) + reach + 1)
    low[2], high[2] = _cut(int(low[2]), int(high[2]), int(click[2]), config, rng)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = image[window].astype(np.float32)
    blur = np.maximum(0.0, view.spacing_mm / spacing_mm - 1.0) * 0.45
    if np.any(blur > 0.1):
        source = ndimage.gaussian_filter(source, blur, mode="nearest")
    offset = view.middle - low - matrix @ ((shape - 1) / 2)
    drawn, target, readers = _interpolated(
        np.stack([source, *(mask[window] for mask in masks)], dtype=np.float32), matrix, offset, config.patch_shape
    )
    known = _inside(matrix, offset, config.patch_shape, source.shape)
    at = np.linalg.solve(matrix, click - low - offset)
    return TrainingPatch(
        click=(float(at[0]), float(at[1]), float(at[2])),
        image_hu=_vary_intensity(drawn, config, rng),
        target=target * known,
        readers=readers * known,
        known=known,
        spacing_mm=view.spacing_mm,
    )


def second_look_spacing(extent_mm: float, config: SamplingConfig) -> float:
    """The spacing at which a nodule of a longest side fills its part of the patch."""
    wanted = extent_mm / (config.fill * min(config.patch_shape))
    return float(min(max(wanted, config.finest_mm), config.coarsest_mm))


def _enlargement(extent_mm: float, config: SamplingConfig, rng: np.random.Generator) -> float:
    """By how much a nodule is shown larger than it is: 1 for most."""
    if rng.random() >= config.enlarged_fraction or not config.enlarged_from_mm <= extent_mm < config.largest_mm:
        return 1.0
    return float(np.exp(rng.uniform(0.0, np.log(config.largest_mm / extent_mm))))


def _view(
    box: IndexBox,
    spacing_mm: NDArray[np.float64],
    click: NDArray[np.float64],
    config: SamplingConfig,
    rng: np.random.Generator,
) -> _View:
    """Choose a first or a second look at the nodule in a box."""
    extent_mm = float(np.max(np.multiply(box.shape_ijk, spacing_mm)))
    spread = float(np.exp(config.zoom_spread * rng.standard_normal()))
    if rng.random() < config.second_look_fraction:
        spacing = second_look_spacing(extent_mm * spread, config)
        centre = (np.asarray(box.start_ijk) + np.asarray(box.stop_ijk) - 1) / 2
        moved = rng.normal(0.0, config.shift_spread, 3) * max(extent_mm, 6.0) / spacing_mm
        half = (np.asarray(config.patch_shape) / 2 - 2) * spacing / spacing_mm
        return _View(spacing_mm=spacing, middle=np.clip(centre + moved, click - half, click + half))
    highest = 1.0
    if extent_mm >= config.coarse_extent_mm:
        seen_mm = config.coarse_zoom * config.spacing_mm * min(config.patch_shape)
        highest = config.coarsest_zoom if extent_mm > 0.8 * seen_mm else config.coarse_zoom
    spacing = config.spacing_mm * spread * float(np.exp(rng.uniform(0.0, np.log(highest))))
    off = rng.integers(-config.offset_voxels, config.offset_voxels + 1, 3) * int(rng.random() < 0.5)
    return _View(spacing_mm=spacing, middle=click - off * spacing / spacing_mm)


def _interpolated(
    sources: NDArray[np.float32],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    patch_shape: tuple[int, int, int],
) -> NDArray[np.float32]:
    """Several images of one grid where a patch's voxels lie, trilinear, the outermost voxels repeated beyond the end.

    As ``scipy.ndimage.affine_transform`` with ``order=1`` and ``mode="nearest"``, which takes six times as long.

    Args:
        sources: [C, I, J, K].
        matrix: from patch to source indices.
        offset: source indices of the patch's first voxel.
        patch_shape: voxels.

    Returns:
        [C, *patch_shape].
    """
    import torch
    from torch.nn import functional

    lengths = torch.tensor(sources.shape[1:], dtype=torch.float64)
    patch = torch.stack(
        torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in patch_shape), indexing="ij"), dim=-1
    )
    at = patch @ torch.from_numpy(matrix.T) + torch.from_numpy(offset)
    # grid_sample counts from -1 to 1 over the voxels' centres and names the last axis first.
    grid = (2 * at / (lengths - 1).clamp(min=1) - 1).flip(-1).float()
    drawn = functional.grid_sample(
        torch.from_numpy(sources)[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
    )
    interpolated: NDArray[np.float32] = drawn[0].numpy()
    return interpolated


def _inside(
    matrix: NDArray[np.float64], offset: NDArray[np.float64], patch_shape: tuple[int, int, int], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """The patch voxels whose centres lie in the source, half a voxel at its ends included."""
    grid = np.indices(patch_shape, sparse=True)
    inside = np.ones(patch_shape, dtype=bool)
    for axis, length in enumerate(shape):
        at = sum(matrix[axis, n] * grid[n] for n in range(3)) + offset[axis]
        inside &= (at >= -0.5) & (at <= length - 0.5)
    return inside


def _cut(low: int, high: int, centre: int, config: SamplingConfig, rng: np.random.Generator) -> tuple[int, int]:
    """The slices that are kept: sometimes one end is cut off near the click."""
    if rng.random() >= config.cut_fraction:
        return low, high
    if rng.random() < 0.5:
        return int(rng.integers(low, centre + 1)), high
    return low, int(rng.integers(centre + 1, high + 1))


def _thickened(
    case: ClickCase, chosen: tuple[int, int, int], config: SamplingConfig, rng: np.random.Generator
) -> tuple[NDArray[np.generic], tuple[NDArray[np.generic], ...], NDArray[np.float64], NDArray[np.float64]]:
    """Image, mask and readers' mean, spacing and click, sometimes with neighbouring slices averaged."""
    spacing_mm = np.asarray(case.volume.geometry.spacing_mm)
    click = np.asarray(chosen, dtype=np.float64)
    image: NDArray[np.generic] = case.volume.image_hu
    masks: tuple[NDArray[np.generic], ...] = (case.mask, case.mask if case.readers is None else case.readers)
    depth = int(np.count_nonzero(np.any(case.mask, axis=(0, 1))))
    factor = int(rng.integers(2, 4))
    if rng.random() >= config.thick_fraction or spacing_mm[2] * factor > 5.0 or depth < 2 * factor:
        return image, masks, spacing_mm, click
    start = int(rng.integers(factor)) if image.shape[2] > 3 * factor else 0
    count = (image.shape[2] - start) // factor
    if not start <= click[2] < start + count * factor:
        return image, masks, spacing_mm, click
    kept = slice(start, start + count * factor)
    folded = (image.shape[0], image.shape[1], count, factor)
    click[2] = (click[2] - start) // factor
    thick = [values[..., kept].reshape(folded).mean(axis=3) for values in (image, *masks)]
    return thick[0], tuple(thick[1:]), spacing_mm * (1.0, 1.0, factor), click


def _random_turn(config: SamplingConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation with flips, and a little shear."""
    shear = np.eye(3) + config.shear * rng.standard_normal((3, 3)) * (1 - np.eye(3))
    rotation = _random_rotation(rng) if config.rotation else np.eye(3)
    turn: NDArray[np.float64] = rotation @ shear
    return turn


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
