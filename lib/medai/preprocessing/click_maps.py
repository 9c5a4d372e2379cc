"""What the click network is shown: the scan, the annotator's points, where the scan ends, and how fine the patch is.

Shared by training and inference, so that both show the same.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medai.preprocessing.hu_window import window_hu

CHANNELS = ("scan", "foreground clicks", "background clicks", "inside the scan", "fineness")
"""The network's input channels, in order."""

USUAL_SPACING_MM = 0.7
"""The spacing whose fineness is 0: the median of chest CT in-plane."""

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


def network_input(
    image_hu: NDArray[np.float32],
    *,
    foreground: Sequence[Sequence[float]] | NDArray[np.float64],
    background: Sequence[Sequence[float]] | NDArray[np.float64] = (),
    inside: NDArray[np.bool_],
    spacing_mm: float,
) -> NDArray[np.float32]:
    """Stack a patch's channels.

    Args:
        image_hu: the patch, HU.
        foreground: patch voxel coordinates of clicks inside the nodule, may be fractional.
        background: patch voxel coordinates of clicks outside it.
        inside: where the patch lies inside the scan; beyond it ``image_hu`` only repeats the scan's end.
        spacing_mm: the patch's isotropic spacing.

    Returns:
        float32 [``len(CHANNELS)``, …].
    """
    fineness = float(np.clip(np.log2(spacing_mm / USUAL_SPACING_MM), -2.0, 2.0)) / 2.0
    return np.stack(
        [
            window_hu(image_hu),
            click_map(image_hu.shape, foreground),
            click_map(image_hu.shape, background),
            inside.astype(np.float32),
            np.full(image_hu.shape, fineness, dtype=np.float32),
        ]
    )
