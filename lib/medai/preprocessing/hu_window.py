"""Hounsfield units to the range a network sees. One window for training and inference, so that they cannot differ."""

import numpy as np
from numpy.typing import NDArray

LOW_HU = -1000.0
"""Air."""
HIGH_HU = 400.0
"""Above soft tissue and contrast-filled vessels; calcium and bone saturate."""


def window_hu(
    image_hu: NDArray[np.generic], *, low_hu: float = LOW_HU, high_hu: float = HIGH_HU
) -> NDArray[np.float32]:
    """Map ``low_hu``…``high_hu`` linearly to -1…1 and clip what lies outside.

    Args:
        image_hu: any shape, Hounsfield units.
        low_hu: becomes -1.
        high_hu: becomes 1; above ``low_hu``.

    Returns:
        float32 of the same shape; the input is left as it is.
    """
    scaled = np.asarray(image_hu, dtype=np.float32) - np.float32(low_hu)
    scaled *= np.float32(2.0 / (high_hu - low_hu))
    scaled -= np.float32(1.0)
    return np.clip(scaled, -1.0, 1.0, out=scaled)
