"""Where a nodule lies among all nodules: sixteen numbers, so that alike ones are near each other.

Half of them are measured (size, form, density, surroundings), half are the readers' attributes as the classification's
ensemble rates them: the directions in which nodules differ to a radiologist, learnt from many, already computed by the
whole-scan pipeline and the same from one champion to the next in meaning. A bottleneck of the click network would cost
another run, would mean something else after every training, and is trained to ignore what kind of nodule it outlines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.domain import Nodule, Volume
from medai.domain.assessment import ATTRIBUTES, HIGHEST_RATING, LOWEST_RATING

EMBEDDING_LENGTH = 16
RIM_MM = 4.0
"""How far around the outline the surroundings are looked at."""
_LOWEST_HU, _HIGHEST_HU = -1024.0, 1500.0


def nodule_embedding(volume: Volume, nodule: Nodule) -> NDArray[np.float32]:
    """Describe a nodule.

    Args:
        volume: the scan.
        nodule: outlined in it; without an assessment its ratings count as middling.

    Returns:
        float32, shape (``EMBEDDING_LENGTH``,); each number differs by about one between one common nodule and another.
    """
    spacing_mm = np.asarray(volume.geometry.spacing_mm)
    rim = nodule.box.expand([int(n) for n in np.ceil(RIM_MM / spacing_mm)]).clip(volume.geometry.shape_ijk)
    image = np.clip(np.asarray(volume.image_hu[rim.slices], dtype=np.float32), _LOWEST_HU, _HIGHEST_HU)
    inside = np.zeros(rim.shape_ijk, dtype=bool)
    inside[nodule.box.shift([-n for n in rim.start_ijk]).slices] = nodule.mask
    within = image[inside]
    around = image[~inside] if not inside.all() else within
    low, high = np.percentile(within, [10, 90])
    diameter_mm = max(nodule.diameter_mm, 0.5)
    extent_mm = np.asarray(nodule.box.shape_ijk) * spacing_mm
    # Less the median of LIDC-IDRI's nodules and over their standard deviation; form, which
    # depends on the slices as well, counts a quarter and a half of that.
    measured = (
        np.log2(diameter_mm / 8.5) / 0.66,
        (np.log2(max(float(extent_mm.max()), 0.5) / diameter_mm) - 0.24) / 0.72,
        (nodule.volume_mm3 / (np.pi / 6 * diameter_mm**3) - 0.76) / 0.48,
        (float(within.mean()) + 275.0) / 210.0,
        (float(low) + 640.0) / 125.0,
        (float(high) - 25.0) / 375.0,
        (float(around.mean()) + 740.0) / 160.0,
        (float(np.percentile(around, 90)) + 510.0) / 380.0,
    )
    rated = {} if nodule.assessment is None else nodule.assessment.ratings
    middle = (LOWEST_RATING + HIGHEST_RATING) / 2
    ratings = (rated.get(name, middle) - middle for name in ATTRIBUTES)
    return np.clip(np.array([*measured, *ratings], dtype=np.float32), -4.0, 4.0)
