"""The plainest voxels that could be a chest CT: lung, and a wall of soft tissue at one side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def lung_hu(shape_ijk: tuple[int, ...], value_hu: int = -800) -> NDArray[np.int16]:
    """Lung of one value; the first two planes along i are soft tissue."""
    image_hu = np.full(shape_ijk, value_hu, np.int16)
    image_hu[:2] = 40
    return image_hu
