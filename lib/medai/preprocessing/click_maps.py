"""Clicks as image channels: what the network is shown of the annotator's points. Shared by training and inference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CLICK_SIGMA_VOXELS = 1.5
"""Width of a click's Gaussian in patch voxels: about a millimetre, narrower than the smallest nodule."""


def click_map(
    shape_ijk: Sequence[int], points_ijk: Sequence[Sequence[float]] | NDArray[np.float64]
) -> NDArray[np.float32]:
    """Draw a Gaussian of height 1 at every point; where several overlap the largest holds.

    Args:
        shape_ijk: patch shape in voxels.
        points_ijk: patch voxel coordinates, may be fractional or outside the patch.

    Returns:
        float32 of ``shape_ijk``, 0–1; zero without points.
    """
    channel = np.zeros(tuple(shape_ijk), dtype=np.float32)
    for point in points_ijk:
        i, j, k = (
            np.exp(-0.5 * ((np.arange(n, dtype=np.float32) - float(c)) / CLICK_SIGMA_VOXELS) ** 2)
            for n, c in zip(shape_ijk, point, strict=True)
        )
        np.maximum(channel, i[:, None, None] * j[None, :, None] * k[None, None, :], out=channel)
    return channel
