"""A nodule taken out of its scan: how much of each voxel it fills, without the lung it lay in.

A voxel at a nodule's edge is part nodule, part lung, and its attenuation says how much of each. That share, and not a
cut along the reader's outline, is what is carried to another scan: spicules, soft edges and the haze of a non-solid
nodule come along, the rectangle they were stored in does not. The crops of ``lidc_nodules`` end at the nodule's first
and last slice, so that rounded ends are added there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import NoduleKind
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import IndexBox
from medai.phantom.config import Attachment

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

TISSUE_HU = 30.0
"""Attenuation of a solid nodule where its own core is too small to measure."""
THICK_MM = 2.5
"""What a ball of this radius fits into beside a nodule is chest wall or a large vessel, not a spicule."""
REACH_MM, SPICULE_REACH_MM, WALL_REACH_MM = 2.2, 4.5, 3.5
"""How far outside the reader's outline tissue still belongs to the nodule, fading to nothing."""
HAZE_REACH_MM = 6.0
LARGEST_FLAT_END = 0.75
"""A crop whose end slice still shows this share of the widest one has lost too much of the nodule."""
_CAP_MM = 4.0
_MARGIN_MM = 8.0
_LUNG_BELOW_HU = -600.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoduleCutout:
    """What is carried to another scan.

    Attributes:
        case_id: of the crop it was taken from.
        patient_id: whose nodule it is.
        kind: attenuation type.
        spacing_mm: of the arrays' grid.
        directions_ras: 3×3, column n is the unit vector of axis n in RAS.
        centre_ijk: centroid of the reader's outline.
        share: float32 0–1, how much of each voxel is nodule.
        tissue_hu: float32, the attenuation of that part.
        outline: float32 0 or 1, the reader's mask.
        diameter_mm: of the sphere with the mask's volume.
        attachment: what it touches.
        contact_ras: unit vector from the centre to the wall it lies on, None where it lies on none.
        contact_mm: distance from the centre to that wall.
        edge_mm: width of its sharpest edges, how sharp the scan was.
    """

    case_id: str
    patient_id: str
    kind: NoduleKind | None
    spacing_mm: tuple[float, float, float]
    directions_ras: NDArray[np.float64]
    centre_ijk: NDArray[np.float64]
    share: Float
    tissue_hu: Float
    outline: Float
    diameter_mm: float
    attachment: Attachment
    contact_ras: NDArray[np.float64] | None
    contact_mm: float
    edge_mm: float


def cut_out(case: ClickCase, *, kind: NoduleKind | None = None, is_spiculated: bool = False) -> NoduleCutout:
    """Take the nodule of a click case out of its scan.

    Args:
        case: the crop and the reader's mask.
        kind: attenuation type, where it is known.
        is_spiculated: whether tissue further outside the outline belongs to it.

    Raises:
        InputError: there is no lung beside it to tell it from, or too much of it is cut off.
    """
    image_hu, mask = _around(case)
    spacing = np.asarray(case.volume.geometry.spacing_mm)
    _refuse_flat_ends(mask, case.case_id)
    outside_mm = ndimage.distance_transform_edt(~mask, sampling=spacing).astype(np.float32)
    lung_hu, noise_hu = _lung_beside(image_hu, outside_mm, case.case_id)
    smooth_hu = _denoised(image_hu, noise_hu)
    thick_mm = _distance_to_thick((smooth_hu > -400) & ~mask, spacing)
    rim = mask & ~ndimage.binary_erosion(mask, border_value=1)
    touching = rim & (thick_mm < 2.0)
    touched = float(np.count_nonzero(touching) / max(1, np.count_nonzero(rim)))
    attachment = _attachment(touched)
    tissue_hu = _tissue(smooth_hu, mask, spacing)
    above = (smooth_hu - lung_hu) / (tissue_hu - lung_hu)
    # Lung texture and noise around the nodule is the old scan's: only what stands out of it comes along,
    share = np.where(mask, np.clip(above, 0, 1), np.clip((above - 0.08) / 0.92, 0, 1))
    share *= _belonging(outside_mm, thick_mm, attachment, is_spiculated or attachment is Attachment.JUXTAVASCULAR)
    # … and the faint haze that most nodules have about them.
    share = np.maximum(share, _haze(above, outside_mm, spacing))
    centre = np.argwhere(mask).mean(axis=0)
    directions = case.volume.geometry.directions_ras
    contact, contact_mm = None, 0.0
    if attachment is Attachment.JUXTAPLEURAL:
        toward = (np.argwhere(touching) - centre) * spacing @ directions.T
        mean = toward.mean(axis=0)
        if np.linalg.norm(mean) > 0.3:
            contact = mean / np.linalg.norm(mean)
            contact_mm = float(np.mean(toward @ contact))
        else:
            attachment = Attachment.JUXTAVASCULAR
    share, tissue_hu, mask, added = _with_caps(share.astype(np.float32), tissue_hu, mask, spacing)
    volume_mm3 = float(np.count_nonzero(mask) * np.prod(spacing))
    return NoduleCutout(
        case_id=case.case_id,
        patient_id=case.patient_id,
        kind=kind,
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        directions_ras=directions,
        centre_ijk=centre + np.array([0, 0, added]),
        share=share,
        tissue_hu=tissue_hu,
        outline=mask.astype(np.float32),
        diameter_mm=float((6 * volume_mm3 / np.pi) ** (1 / 3)),
        attachment=attachment,
        contact_ras=contact,
        contact_mm=contact_mm,
        edge_mm=edge_width_mm(image_hu, case.volume.geometry.spacing_mm, outside_mm < 3),
    )


def edge_width_mm(image_hu: Float, spacing_mm: tuple[float, float, float], where: Mask) -> float:
    """How many millimetres the sharpest edges between lung and tissue take, in the axial plane.

    Args:
        image_hu: indexed [i, j, k].
        spacing_mm: voxel size.
        where: voxels to look at.

    Returns:
        Width in mm; the in-plane voxel size where there is no such edge.
    """
    between = where & (image_hu > -600) & (image_hu < -200)
    if np.count_nonzero(between) < 12 or min(image_hu.shape[:2]) < 3:
        return float(max(spacing_mm[:2]))
    slope = np.hypot(np.gradient(image_hu, spacing_mm[0], axis=0), np.gradient(image_hu, spacing_mm[1], axis=1))
    return float(890.0 / max(float(np.percentile(slope[between], 90)), 1.0))


def _around(case: ClickCase) -> tuple[Float, Mask]:
    """The crop cut to the nodule's neighbourhood."""
    box = IndexBox.of_mask(case.mask)
    if box is None:
        raise InputError(f"Case {case.case_id} has an empty mask: there is no nodule to take out.")
    margin = [int(np.ceil(_MARGIN_MM / s)) for s in case.volume.geometry.spacing_mm]
    box = box.expand(margin).clip(case.mask.shape)
    return np.asarray(case.volume.image_hu[box.slices], dtype=np.float32), np.asarray(case.mask[box.slices])


def _refuse_flat_ends(mask: Mask, case_id: str) -> None:
    areas = mask.sum(axis=(0, 1))
    if max(areas[0], areas[-1]) > LARGEST_FLAT_END * areas.max():
        raise InputError(f"The nodule of {case_id} is cut off along z: its end slice is nearly its widest.")


def _lung_beside(image_hu: Float, outside_mm: Float, case_id: str) -> tuple[float, float]:
    """Attenuation of the lung around the nodule, and the noise in it."""
    for near, far, below in ((1.5, 8.0, _LUNG_BELOW_HU), (1.0, 12.0, _LUNG_BELOW_HU + 100)):
        ring = (outside_mm > near) & (outside_mm < far) & (image_hu < below)
        if np.count_nonzero(ring) >= 40:
            fine = image_hu - ndimage.uniform_filter(image_hu, (3, 3, 1))
            # A 3×3 mean takes a ninth of white noise with it.
            noise_hu = float(1.4826 * np.median(np.abs(fine[ring])) * np.sqrt(9 / 8))
            return float(np.median(image_hu[ring])), noise_hu
    raise InputError(f"There is no lung beside the nodule of {case_id} to tell it from.")


def _denoised(image_hu: Float, noise_hu: float) -> Float:
    """The crop without its noise; edges and thin lines stay (non-local means)."""
    from skimage.restoration import denoise_nl_means

    scale = 1000.0
    padded = np.pad(image_hu, ((0, 0), (0, 0), (3, 3)), mode="edge") / scale
    sigma = noise_hu / scale
    quiet = denoise_nl_means(padded, patch_size=3, patch_distance=2, h=0.7 * sigma, sigma=sigma, fast_mode=True)
    return np.asarray(quiet[..., 3:-3] * scale, dtype=np.float32)


def _distance_to_thick(bright: Mask, spacing_mm: NDArray[np.float64]) -> Float:
    """Distance, mm, to bright structures that a ball of ``THICK_MM`` fits into."""
    pad = int(np.ceil(2 * THICK_MM / spacing_mm[2]))
    padded = np.pad(bright, ((0, 0), (0, 0), (pad, pad)), mode="edge")
    cores = ndimage.distance_transform_edt(padded, sampling=spacing_mm) > THICK_MM
    if not cores.any():
        return np.full(bright.shape, np.inf, dtype=np.float32)
    away = ndimage.distance_transform_edt(~cores, sampling=spacing_mm) - THICK_MM
    return np.asarray(np.maximum(away, 0)[..., pad:-pad], dtype=np.float32)


def _attachment(touched: float) -> Attachment:
    """What a nodule touches, from the share of its rim that lies on something thick."""
    if touched > 0.12:
        return Attachment.JUXTAPLEURAL
    return Attachment.JUXTAVASCULAR if touched > 0.02 else Attachment.ISOLATED


def _tissue(smooth_hu: Float, mask: Mask, spacing_mm: NDArray[np.float64]) -> Float:
    """Attenuation of the solid part, carried on to its rim."""
    inside_mm = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    core = ((inside_mm > 1.0) & (smooth_hu > -150)).astype(np.float32)
    sigma = 0.9 / spacing_mm
    weight = ndimage.gaussian_filter(core, sigma)
    tissue = (ndimage.gaussian_filter(core * smooth_hu, sigma) + 0.02 * TISSUE_HU) / (weight + 0.02)
    return np.asarray(np.clip(tissue, 10, 900), dtype=np.float32)


def _belonging(outside_mm: Float, thick_mm: Float, attachment: Attachment, is_wide: bool) -> Float:
    """1 inside the outline, fading to 0 outside: over a longer way along spicules, a shorter one into walls."""
    reach = np.full(outside_mm.shape, SPICULE_REACH_MM if is_wide else REACH_MM, dtype=np.float32)
    reach[thick_mm < 0.6] = WALL_REACH_MM if attachment is Attachment.JUXTAPLEURAL else 1.2
    fade = 0.5 * (1 + np.cos(np.pi * np.clip(outside_mm / reach, 0, 1)))
    return np.asarray(fade, dtype=np.float32)


def _haze(above: Float, outside_mm: Float, spacing_mm: NDArray[np.float64]) -> Float:
    """How much denser the lung around the nodule is on average, fading outwards; vessels are left out of it."""
    near = ((outside_mm > 0) & (outside_mm < HAZE_REACH_MM) & (np.abs(above) < 0.15)).astype(np.float32)
    sigma = 1.8 / spacing_mm
    mean = ndimage.gaussian_filter(near * above, sigma) / np.maximum(ndimage.gaussian_filter(near, sigma), 0.05)
    fade = 0.5 * (1 + np.cos(np.pi * np.clip(outside_mm / HAZE_REACH_MM, 0, 1)))
    return np.asarray(np.where(outside_mm > 0, np.clip(mean, 0, 0.06) * fade, 0), dtype=np.float32)


def _with_caps(
    share: Float, tissue_hu: Float, mask: Mask, spacing_mm: NDArray[np.float64]
) -> tuple[Float, Float, Mask, int]:
    """Add slices below and above; where the nodule reaches the end, it is rounded off in them."""
    count = int(np.ceil(_CAP_MM / spacing_mm[2]))
    grown = np.pad(share, ((0, 0), (0, 0), (count, count)))
    for end, step in ((count, -1), (count + share.shape[2] - 1, 1)):
        inner = 0 if step < 0 else share.shape[2] - 1
        flat = mask[..., inner]
        if not flat.any():
            continue
        depth = ndimage.distance_transform_edt(np.pad(flat, 1), sampling=spacing_mm[:2])[1:-1, 1:-1]
        radius = np.sqrt(flat.sum() / np.pi) * spacing_mm[0]
        within = inner - step
        before = np.sqrt(mask[..., within].sum() / np.pi) * spacing_mm[0] if 0 <= within < share.shape[2] else radius
        shrink = max(0.8 * spacing_mm[2], 1.3 * (before - radius))
        for n in range(1, count + 1):
            left = depth - shrink * n * (1 + 0.3 * (n - 1))
            grown[..., end + step * n] = share[..., inner] * np.clip(left + 0.5, 0, 1)
    padding = ((0, 0), (0, 0), (count, count))
    return grown, np.pad(tissue_hu, padding, mode="edge"), np.pad(mask, padding), count
