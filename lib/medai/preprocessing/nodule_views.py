"""What the classification network sees of an outlined nodule: one view of fixed size and one scaled to the nodule.

The fixed view tells how large the nodule is and what it lies beside, the scaled one shows its margin and texture at the
same size whatever the diameter. Both hold three channels: the lung window, a window of dense tissue up to calcium, and
the outline.

Only the slices the outline covers are shown; above and below them there is air and no outline. Training crops end at
the nodule's first and last slice while an application looks at whole scans: by showing neither more, both look alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.clinical.measurements import slice_axis
from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import IndexBox
from medai.preprocessing.hu_window import window_hu
from medai.preprocessing.patches import PatchGrid

VIEW_SIZE = 32
"""Voxels along each side of a view."""
CHANNELS = 6
"""Lung window, dense window and outline, of both views."""
FIXED_SPACING_MM = 1.0
SCALED_SHARE = 0.5
"""The outline's longest side over that of the scaled view."""
SCALED_LEAST_MM, SCALED_MOST_MM = 0.4, 3.0
DENSE_LOW_HU, DENSE_HIGH_HU = -150.0, 850.0


def nodule_views(
    volume: Volume, box: IndexBox, mask: NDArray[np.bool_], *, size: int = VIEW_SIZE
) -> NDArray[np.float32]:
    """Cut both views of a nodule out of a scan.

    Args:
        volume: the scan; only the region around the nodule is read.
        box: where the mask lies in the scan; inside the scan.
        mask: bool, shape ``box.shape_ijk``.
        size: voxels along a side; more than ``VIEW_SIZE`` adds surroundings to turn and shift in.

    Returns:
        float32 of shape (6, size, size, size), values -1…1, axes nearest to right, anterior, superior.

    Raises:
        InputError: the mask is empty.
    """
    tight = IndexBox.of_mask(mask)
    if tight is None:
        raise InputError("An empty outline cannot be classified: outline the nodule first.")
    inside = mask[tight.slices]
    where = tight.shift(box.start_ijk)
    axis = slice_axis(volume.geometry)
    reach_mm = SCALED_MOST_MM * size / 2
    margin = [0 if a == axis else int(np.ceil(reach_mm / s)) for a, s in enumerate(volume.geometry.spacing_mm)]
    slab = volume.crop(where.expand(margin).clip(volume.geometry.shape_ijk))
    outlined = np.zeros(slab.geometry.shape_ijk, dtype=np.float32)
    offset = slab.geometry.ras_to_ijk(volume.geometry.ijk_to_ras(np.asarray(where.start_ijk, dtype=float)))
    start = [round(float(n)) for n in offset]
    outlined[IndexBox(start_ijk=(0, 0, 0), stop_ijk=where.shape_ijk).shift(start).slices] = inside
    centre = [float(c) for c in np.argwhere(inside).mean(axis=0) + start]
    extent_mm = float(np.max(np.multiply(where.shape_ijk, volume.geometry.spacing_mm)))
    scaled_mm = float(np.clip(extent_mm / (SCALED_SHARE * VIEW_SIZE), SCALED_LEAST_MM, SCALED_MOST_MM))
    views = [_view(slab, outlined, centre, axis, spacing_mm, size) for spacing_mm in (FIXED_SPACING_MM, scaled_mm)]
    return np.concatenate(views)


def _view(
    slab: Volume, outlined: NDArray[np.float32], centre: list[float], axis: int, spacing_mm: float, size: int
) -> NDArray[np.float32]:
    """Three channels at one spacing; air and no outline beyond the slab's slices."""
    grid = PatchGrid.around(slab.geometry, centre, shape=(size, size, size), spacing_mm=spacing_mm)
    image = grid.extract(slab.image_hu)
    channels = np.stack(
        [
            window_hu(image),
            window_hu(image, low_hu=DENSE_LOW_HU, high_hu=DENSE_HIGH_HU),
            2 * grid.extract(outlined) - 1,
        ]
    )
    along = grid.scan_axes.index(axis)
    at = grid.first_voxel[along] + grid.step_voxels[along] * np.arange(size)
    beyond = (at < -0.5) | (at > slab.geometry.shape_ijk[axis] - 0.5)
    np.moveaxis(channels, along + 1, 1)[:, beyond] = -1.0
    return np.asarray(channels, dtype=np.float32)
