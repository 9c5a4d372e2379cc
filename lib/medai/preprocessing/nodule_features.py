"""Measured shape and density of a nodule: what a reader judges it by, as numbers.

A classifier trained on a few hundred nodules needs them: size, form, margin and attenuation are measured here far more
surely than a network could learn to. Everything is taken from the slices that the outline covers and a band around it
in those slices, so that a crop that ends at the nodule, a slab and a whole scan give the same numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.clinical.measurements import attenuation_kind, axial_size, slice_axis
from medai.domain import NoduleKind, Volume
from medai.errors import InputError
from medai.geometry import IndexBox

MARGIN_MM = 15.0
"""How much of the surroundings is looked at in the slices of the nodule."""
_STEP_MM = 0.6
"""Spacing of the copy that form is measured on: the scan's in-plane spacing or finer, and the same along all axes."""
_MOST_STEPS = 96
"""A mass is measured on a coarser copy: its form shows there as well, and its seconds count."""
_LOWEST_HU, _HIGHEST_HU = -1024.0, 1500.0
_PROFILE_EDGES_MM = (-np.inf, -4.0, -2.5, -1.5, -0.75, 0.0, 0.75, 1.5, 2.5, 4.0, 6.5, 10.0)
"""Distance to the outline, negative inside: shells whose mean and spread of HU describe margin and surroundings."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoduleRegion:
    """A nodule in the slices it covers, with ``MARGIN_MM`` around it in them; the slice axis is last.

    Attributes:
        image_hu: float32, HU.
        mask: bool, same shape.
        spacing_mm: of the arrays' axes.
    """

    image_hu: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


def nodule_region(volume: Volume, box: IndexBox, mask: NDArray[np.bool_], margin_mm: float = MARGIN_MM) -> NoduleRegion:
    """Cut a nodule out of a scan: its own slices, no more, and a margin within them.

    Args:
        volume: the scan.
        box: where the mask lies in the scan; inside the scan.
        mask: bool, shape ``box.shape_ijk``.
        margin_mm: of surroundings in the slices.

    Raises:
        InputError: the mask is empty.
    """
    tight = IndexBox.of_mask(mask)
    if tight is None:
        raise InputError("An empty outline cannot be described: outline the nodule first.")
    axis = slice_axis(volume.geometry)
    where = tight.shift(box.start_ijk)
    spacing = volume.geometry.spacing_mm
    margin = [0 if a == axis else int(np.ceil(margin_mm / spacing[a])) for a in range(3)]
    region = where.expand(margin).clip(volume.geometry.shape_ijk)
    whole = np.zeros(region.shape_ijk, dtype=bool)
    whole[where.shift([-n for n in region.start_ijk]).slices] = mask[tight.slices]
    order = [a for a in range(3) if a != axis] + [axis]
    image = np.clip(np.asarray(volume.image_hu[region.slices], dtype=np.float32), _LOWEST_HU, _HIGHEST_HU)
    return NoduleRegion(
        image_hu=np.ascontiguousarray(image.transpose(order)),
        mask=np.ascontiguousarray(whole.transpose(order)),
        spacing_mm=(spacing[order[0]], spacing[order[1]], spacing[order[2]]),
    )


def nodule_features(volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> dict[str, float]:
    """Describe a nodule by its measurements.

    Args:
        volume: the scan.
        box: where the mask lies in the scan; inside the scan.
        mask: bool, shape ``box.shape_ijk``.

    Returns:
        Finite numbers by name, always the same names in the same order. Lengths are logarithms of millimetres, HU are
        in thousands, so that all are of the order of one.

    Raises:
        InputError: the mask is empty.
    """
    region = nodule_region(volume, box, mask)
    tight = IndexBox.of_mask(mask)
    if tight is None:
        raise InputError("An empty outline cannot be described: outline the nodule first.")
    inside = mask[tight.slices]
    size = axial_size(inside, volume.geometry)
    kind = attenuation_kind(volume.image_hu[tight.shift(box.start_ijk).slices], inside, volume.geometry)
    volume_mm3 = float(inside.sum()) * volume.geometry.voxel_volume_mm3
    described: dict[str, float] = {
        "log_volume": float(np.log(volume_mm3)),
        "log_long_axis": float(np.log(size.long_axis_mm)),
        "log_short_axis": float(np.log(size.short_axis_mm)),
        "axis_ratio": size.short_axis_mm / size.long_axis_mm,
        "log_slices": float(np.log(region.mask.shape[2])),
        "log_height": float(np.log(region.mask.shape[2] * region.spacing_mm[2])),
        "log_slice_spacing": float(np.log(region.spacing_mm[2])),
        "part_solid": float(kind is NoduleKind.PART_SOLID),
        "non_solid": float(kind is NoduleKind.NON_SOLID),
    }
    described.update(_density(region))
    image, mask_mm, step_mm = _isotropic(region)
    signed_mm = _signed_distance_mm(mask_mm > 0.5, step_mm)
    described.update(_profile(image, signed_mm))
    described.update(_form(mask_mm, step_mm))
    described.update(_largest_slice(region))
    described.update(_surroundings(image, signed_mm, step_mm))
    return {name: float(np.nan_to_num(value, nan=0.0, posinf=10.0, neginf=-10.0)) for name, value in described.items()}


def _density(region: NoduleRegion) -> dict[str, float]:
    """Distribution of HU inside, on the scan's own voxels."""
    from scipy import ndimage

    inside = region.image_hu[region.mask].astype(np.float64)
    depth = _depth(np.pad(region.mask, 1), region.spacing_mm)[1:-1, 1:-1, 1:-1]
    core = region.image_hu[depth > min(1.5, 0.6 * float(depth.max()))].astype(np.float64)
    if core.size == 0:
        core = inside
    levels = np.percentile(inside, [2, 10, 25, 50, 75, 90, 98])
    described = {f"hu_p{p}": float(v) / 1000 for p, v in zip((2, 10, 25, 50, 75, 90, 98), levels, strict=True)}
    spread = float(inside.std()) + 1e-3
    described |= {
        "hu_mean": float(inside.mean()) / 1000,
        "hu_std": spread / 1000,
        "hu_skew": float(np.mean(((inside - inside.mean()) / spread) ** 3)),
        "hu_max": float(inside.max()) / 1000,
        "core_mean": float(core.mean()) / 1000,
        "core_std": float(core.std()) / 1000,
        "core_p10": float(np.percentile(core, 10)) / 1000,
        "core_p90": float(np.percentile(core, 90)) / 1000,
        "log_mass": float(np.log(np.mean(np.maximum(inside + 1000, 10)) * inside.size * np.prod(region.spacing_mm))),
        "log_depth": float(np.log(depth.max())),
    }
    for low, high in (
        (-1100, -800),
        (-800, -600),
        (-600, -300),
        (-300, -50),
        (-50, 100),
        (100, 200),
        (200, 400),
        (400, 3000),
    ):
        described[f"share_{low}_{high}"] = float(np.mean((inside >= low) & (inside < high)))
    described["fat"] = float(np.mean((core > -130) & (core < -30)))
    described["calcified_mm3"] = float(np.log1p(np.count_nonzero(inside > 220) * np.prod(region.spacing_mm)))
    smooth = ndimage.gaussian_filter(region.image_hu, [0.7 / s for s in region.spacing_mm])
    described["smooth_max"] = float(smooth[region.mask].max()) / 1000
    described["fine_texture"] = float(np.std((region.image_hu - smooth)[region.mask])) / 1000
    return described


def _isotropic(region: NoduleRegion) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Image and mask (0–1) at one spacing along all axes; the mask runs out above and below, the image is repeated."""
    extent_mm = np.asarray(region.mask.shape) * region.spacing_mm
    step_mm = max(_STEP_MM, float(extent_mm.max()) / _MOST_STEPS)
    rim = np.array([0.0, 0.0, max(2.0, 2 * region.spacing_mm[2])])
    count = np.ceil((extent_mm + 2 * rim) / step_mm).astype(int)
    axes = [
        (np.arange(n) * step_mm - r + step_mm / 2) / s - 0.5
        for n, r, s in zip(count, rim, region.spacing_mm, strict=True)
    ]
    image = _linear(region.image_hu, [np.clip(at, 0, n - 1) for at, n in zip(axes, region.mask.shape, strict=True)])
    mask = _linear(region.mask, axes)
    # A speck between two samples would vanish.
    mask = mask / max(1e-3, min(1.0, float(mask.max())))
    return image, mask, step_mm


def _linear(image: NDArray[np.generic], positions: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Values between voxels, at all combinations of positions along the axes; beyond the image there are zeros."""
    values = image.astype(np.float64)
    for axis, at in enumerate(positions):
        weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(values.shape[axis])))
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def _depth(mask: NDArray[np.bool_], spacing_mm: float | Sequence[float]) -> NDArray[np.float64]:
    """Distance of the mask's voxels to the nearest one outside, 0 there; measured in the mask's box alone."""
    from scipy import ndimage

    depth = np.zeros(mask.shape)
    box = IndexBox.of_mask(mask)
    if box is not None:
        near = box.expand((1, 1, 1)).clip(mask.shape).slices
        depth[near] = ndimage.distance_transform_edt(mask[near], sampling=spacing_mm)
    return depth


def _signed_distance_mm(mask: NDArray[np.bool_], step_mm: float) -> NDArray[np.float64]:
    """Distance to the outline, negative inside."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, 99.0)
    outside = ndimage.distance_transform_edt(~mask, sampling=step_mm)
    within = _depth(mask, step_mm)
    return np.asarray(outside - within + 0.5 * step_mm * np.where(mask, 1.0, -1.0))


def _profile(image: NDArray[np.float32], signed_mm: NDArray[np.float64]) -> dict[str, float]:
    """Mean and spread of HU in shells around the outline; an absent inner shell takes the next one's."""
    described: dict[str, float] = {}
    shells = list(itertools.pairwise(_PROFILE_EDGES_MM))
    mean, spread, bright = -0.8, 0.1, 0.0
    for number, (low, high) in reversed(list(enumerate(shells))):
        values = image[(signed_mm > low) & (signed_mm <= high)]
        if values.size >= 4:
            mean, spread = float(values.mean()) / 1000, float(values.std()) / 1000
            bright = float(np.mean(values > -350))
        described[f"shell_{number}_mean"] = mean
        described[f"shell_{number}_std"] = spread
        described[f"shell_{number}_solid"] = bright
    described["edge_step"] = described["shell_3_mean"] - described["shell_6_mean"]
    gradient = np.sqrt(sum(g**2 for g in np.gradient(image)))
    rim = gradient[np.abs(signed_mm) < 0.8]
    described["edge_gradient"] = float(rim.mean()) / 1000 if rim.size else 0.0
    described["edge_gradient_std"] = float(rim.std()) / 1000 if rim.size else 0.0
    described["edge_gradient_p90"] = float(np.percentile(rim, 90)) / 1000 if rim.size else 0.0
    return described


def _form(mask: NDArray[np.float32], step_mm: float) -> dict[str, float]:
    """Roundness, elongation and roughness of the outline's surface in three dimensions."""
    from scipy import ndimage
    from skimage.measure import marching_cubes, mesh_surface_area

    box = IndexBox.of_mask(mask)
    if box is not None:  # what is blurred ends three voxels away
        mask = mask[box.expand((3, 3, 3)).clip(mask.shape).slices]
    padded = np.pad(ndimage.gaussian_filter(mask, 0.7), 2)
    if padded.max() <= 0.5:
        padded = padded / padded.max()
    vertices, faces, normals, _ = marching_cubes(padded, 0.5, spacing=(step_mm,) * 3)  # type: ignore[no-untyped-call]
    area = float(mesh_surface_area(vertices, faces))  # type: ignore[no-untyped-call]
    inside = padded > 0.5
    volume = float(inside.sum()) * step_mm**3
    centre = np.argwhere(inside).mean(axis=0) * step_mm
    spokes = vertices - centre
    radii = np.linalg.norm(spokes, axis=1)
    facing = np.abs(np.sum(normals * spokes, axis=1)) / np.maximum(radii, 1e-6)
    axes = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(np.argwhere(inside).T * step_mm)), 0.05))
    opened = ndimage.binary_opening(inside, iterations=2)
    closed = ndimage.binary_closing(np.pad(inside, 6), iterations=5)
    return {
        "log_area": float(np.log(area)),
        "sphericity": float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area),
        "elongation": float(axes[1] / axes[2]),
        "flatness": float(axes[0] / axes[2]),
        "log_major": float(np.log(axes[2])),
        "log_minor": float(np.log(axes[0])),
        "radius_variation": float(radii.std() / radii.mean()),
        "radius_reach": float(radii.max() / radii.mean()),
        "radius_least": float(radii.min() / radii.mean()),
        "facing": float(facing.mean()),
        "facing_p10": float(np.percentile(facing, 10)),
        "opened_away": float(1 - opened.sum() / inside.sum()),
        "closed_in": float(closed.sum() / inside.sum() - 1),
    }


def _largest_slice(region: NoduleRegion) -> dict[str, float]:
    """Form of the outline in its largest slice: convexity, and the energy of its radius at rising frequencies."""
    from scipy.spatial import ConvexHull, QhullError

    plane = region.mask[..., int(np.argmax(region.mask.sum(axis=(0, 1))))]
    from skimage.measure import find_contours

    contours = find_contours(np.pad(plane, 2).astype(float), 0.5)  # type: ignore[no-untyped-call]
    points = max(contours, key=len) * region.spacing_mm[:2]
    area = float(plane.sum()) * region.spacing_mm[0] * region.spacing_mm[1]
    perimeter = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    try:
        hull = float(ConvexHull(points).volume)
    except QhullError:
        hull = area
    spokes = points - points.mean(axis=0)
    angle = np.arctan2(spokes[:, 1], spokes[:, 0])
    radius = np.hypot(spokes[:, 0], spokes[:, 1])
    order = np.argsort(angle)
    even = np.interp(np.linspace(-np.pi, np.pi, 128, endpoint=False), angle[order], radius[order], period=2 * np.pi)
    energy = np.abs(np.fft.rfft(even / max(float(even.mean()), 1e-6))) / 128
    return {
        "circularity": float(4 * np.pi * area / perimeter**2),
        "convexity": min(1.5, area / max(hull, 1e-6)),
        "wave_2": float(energy[2]),
        "wave_3_4": float(np.sqrt(np.sum(energy[3:5] ** 2))),
        "wave_5_8": float(np.sqrt(np.sum(energy[5:9] ** 2))),
        "wave_9_20": float(np.sqrt(np.sum(energy[9:21] ** 2))),
    }


def _surroundings(image: NDArray[np.float32], signed_mm: NDArray[np.float64], step_mm: float) -> dict[str, float]:
    """What the nodule touches, and what the lung around it is like."""
    from scipy import ndimage

    described: dict[str, float] = {}
    solid = image > -400
    for name, (low, high) in {"touch": (0.5, 2.0), "near": (2.0, 5.0), "far": (7.0, 14.0)}.items():
        shell = (signed_mm > low) & (signed_mm <= high)
        bright = shell & solid
        numbered, count = ndimage.label(bright)
        share = float(bright.sum()) / max(1, int(shell.sum()))
        largest = float(np.bincount(numbered.ravel())[1:].max()) / max(1, int(shell.sum())) if count else 0.0
        described[f"{name}_solid"] = share
        described[f"{name}_largest"] = largest
        described[f"{name}_pieces"] = float(np.log1p(count))
    beyond = (signed_mm > 1.5) & solid
    wall = ndimage.binary_opening(beyond, iterations=max(1, round(1.8 / step_mm)))
    described["wall_mm"] = (
        float(np.log1p(min(15.0, float(signed_mm[wall].min())))) if wall.any() else float(np.log1p(15.0))
    )
    lung = image[(signed_mm > 3) & (image < -500)]
    described["lung_mean"] = float(lung.mean()) / 1000 if lung.size > 20 else -0.85
    described["lung_std"] = float(lung.std()) / 1000 if lung.size > 20 else 0.05
    described["emphysema"] = float(np.mean(lung < -950)) if lung.size > 20 else 0.0
    for radius in (1.0, 2.0):
        blurred = ndimage.gaussian_laplace(image, radius / step_mm) * radius**2
        rim = np.abs(signed_mm) < 1.5
        around = (signed_mm > 1) & (signed_mm < 5)
        described[f"blob_{radius:.0f}_rim"] = float(np.std(blurred[rim])) / 1000 if rim.any() else 0.0
        described[f"blob_{radius:.0f}_around"] = float(np.std(blurred[around])) / 1000 if around.any() else 0.0
    return described


def as_vector(described: dict[str, float], names: Sequence[str]) -> NDArray[np.float64]:
    """The numbers in a fixed order, float64.

    Raises:
        InputError: a name is missing.
    """
    missing = [name for name in names if name not in described]
    if missing:
        raise InputError(f"The weights ask for measurements that are not taken here: {', '.join(missing[:5])}.")
    return np.array([described[name] for name in names], dtype=np.float64)
