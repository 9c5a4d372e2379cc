"""Which connected parts of a label are too small to be nodules: slips of an edit, left by a brush or a threshold.

Nodules are outlined from 3 mm on. The smallest of 2783 outlines that single readers drew in LIDC-IDRI have 11 voxels
and 10.6 mm³; the islands that the same readers left beside their outlines have one to three voxels as a rule. A coarse
scan shows a nodule in few voxels, but those are large.
"""

from __future__ import annotations

import math

LEAST_VOXELS, LEAST_VOLUME_MM3 = 2, 5.0
"""Less is no nodule on any grid: 5 mm³ is a ball of 2.1 mm."""
FEW_VOXELS, LEAST_OF_FEW_MM3 = 8, math.pi / 12 * 3.0**3
"""So few voxels are one only where they are large: half of a ball of 3 mm, the least that is outlined as a nodule."""


def is_crumb(voxels: int, voxel_volume_mm3: float) -> bool:
    """Whether a connected part of a label is too small to be a nodule.

    Args:
        voxels: how many it has.
        voxel_volume_mm3: of each.
    """
    volume_mm3 = voxels * voxel_volume_mm3
    if voxels < LEAST_VOXELS or volume_mm3 < LEAST_VOLUME_MM3:
        return True
    return voxels < FEW_VOXELS and volume_mm3 < LEAST_OF_FEW_MM3
