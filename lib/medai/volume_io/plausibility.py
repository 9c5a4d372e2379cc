"""Could this be a chest CT? A mask, an MR or CT without its rescale intercept reads well and is no scan to work on.

DICOM says its modality; the other formats do not, so their numbers are looked at.
"""

from __future__ import annotations

import numpy as np

from medai.domain import Volume
from medai.errors import UnsupportedScanError

AIR_HU = -400.0
"""At least one voxel in a hundred of a chest CT is lung or air below this. The first percentile of 128 crops around
LIDC nodules (40 mm wide) is -801 HU at most; MR, PET, masks and CT without its rescale intercept start at 0."""

SPACING_MM = (0.05, 20.0)
"""Voxel sizes outside this are a wrong unit of length."""

_SAMPLED_VOXELS = 1e6


def check_chest_ct(volume: Volume) -> None:
    """Refuse what cannot be a chest CT in Hounsfield units.

    Raises:
        UnsupportedScanError: voxels of an impossible size, no air at all, or nothing but air.
    """
    spacing_mm = volume.geometry.spacing_mm
    if min(spacing_mm) < SPACING_MM[0] or max(spacing_mm) > SPACING_MM[1]:
        spacing = "×".join(f"{s:.3g}" for s in spacing_mm)
        raise UnsupportedScanError(
            f"The scan has voxels of {spacing} mm, which no chest CT has ({SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm). "
            "Is its unit of length right?"
        )
    step = max(1, round((volume.image_hu.size / _SAMPLED_VOXELS) ** (1 / 3)))
    sample = volume.image_hu[::step, ::step, ::step].astype(np.float64)
    low, high = (float(v) for v in np.percentile(sample, (1, 99.9)))
    if low > AIR_HU:
        raise UnsupportedScanError(
            f"This does not look like CT in Hounsfield units: 99 % of its voxels are above {low:g}, but a chest CT "
            f"holds lung and air below {AIR_HU:g}. Is it another modality, a mask, or CT without rescale intercept?"
        )
    if high < AIR_HU:
        raise UnsupportedScanError(f"The scan holds nothing but air: its voxels go up to {high:g} HU.")
