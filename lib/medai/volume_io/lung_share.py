"""How much of the body in a scan looks like lung: what tells a chest from a head or a pelvis, whose air is outside.

Not a segmentation (``medai.preprocessing.lung_mask`` is): a few milliseconds on every fourth millimetre.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.volume_io.voxel_sample import VoxelSample

LUNG_LIKE_HU = (-980.0, -400.0)
"""Aerated lung, also emphysematous or dense; not the air of bowel and sinuses, which is -1000."""

LEAST_LUNG_SHARE = 0.003
"""Of the body. Whole chests have 0.1 to 0.5, a trunk with one aerated lung 0.02; a head's mastoid cells, bowel and the
edges of air pockets stay below 0.001."""

LUNG_SHARE_BESIDE_FILL = 0.05
"""Where a part of a scan seems darker than air, a blurred fill, there must be lung that nobody can doubt: in doubled
values what is a mass or the rim of the lung looks like some."""

_NOT_BODY_HU = -300.0
_PATCH_MM = 10.0


def lung_share(sample: VoxelSample) -> float:
    """The share of the body that looks like lung over patches of a centimetre in the slice.

    Args:
        sample: a scan in Hounsfield units that is as wide as a body.
    """
    image_hu = np.where(sample.measured, sample.smooth, np.float32(-1024.0))
    airy = image_hu < _NOT_BODY_HU
    outside = _outside(airy)
    lung = ~outside & (image_hu > LUNG_LIKE_HU[0]) & (image_hu < LUNG_LIKE_HU[1])
    patch = [max(1, round(_PATCH_MM / s)) for s in sample.spacing_mm[:2]]
    kept = ndimage.minimum_filter(lung, size=(patch[0], patch[1], 1), mode="nearest")
    # What a patch's centre stands for is a patch: its rim is lung too.
    kept = ndimage.maximum_filter(kept, size=(patch[0], patch[1], 1), mode="nearest")
    return float(np.count_nonzero(kept) / max(1, np.count_nonzero(~outside)))


def _outside(airy: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The air around the body, slice by slice; nothing where the picture's rim is not air (one lung, enlarged)."""
    rim = np.zeros(airy.shape, dtype=np.bool_)
    rim[0], rim[-1], rim[:, 0], rim[:, -1] = True, True, True, True
    if np.count_nonzero(airy & rim) < 0.5 * np.count_nonzero(rim):
        return np.zeros(airy.shape, dtype=np.bool_)
    in_slice = np.zeros((3, 3, 3), dtype=np.bool_)
    in_slice[:, 1, 1] = in_slice[1, :, 1] = True
    parts, count = ndimage.label(airy, structure=in_slice)
    reaches_rim = np.zeros(count + 1, dtype=np.bool_)
    reaches_rim[np.unique(parts[rim])] = True
    reaches_rim[0] = False
    return np.asarray(reaches_rim[parts])
