"""What the candidate network sees of a place: the same point at two magnifications.

The fine view shows texture and margin, the coarse one what the place hangs on: a vessel that goes on, the chest wall.
Places larger than about 16 mm are seen from further away, so that they fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.preprocessing.hu_window import window_hu
from medai.preprocessing.patches import PatchGrid

PATCH_SHAPE = (24, 24, 24)
FINE_SPACING_MM = 1.0
COARSE_FACTOR = 2.0
"""Spacing of the coarse view over that of the fine one: 48 mm across for places up to 16 mm."""
FITTING_MM = 16.0
"""Largest diameter seen at the finest spacing: two thirds of the fine view."""


def candidate_views(volume: Volume, centre_ras_mm: Sequence[float], diameter_mm: float) -> NDArray[np.float32]:
    """Cut the two views of a place out of a scan.

    Args:
        volume: the scan; only the region around the place is read.
        centre_ras_mm: RAS millimetres.
        diameter_mm: estimated size of the place.

    Returns:
        float32 of shape (2, 24, 24, 24), values -1…1, axes nearest to right, anterior, superior.
    """
    centre_ijk = volume.geometry.ras_to_ijk(centre_ras_mm)
    spacing_mm = FINE_SPACING_MM * max(1.0, diameter_mm / FITTING_MM)
    views = [
        PatchGrid.around(
            volume.geometry, [float(c) for c in centre_ijk], shape=PATCH_SHAPE, spacing_mm=spacing_mm * factor
        ).extract(volume.image_hu)
        for factor in (1.0, COARSE_FACTOR)
    ]
    return window_hu(np.stack(views))
