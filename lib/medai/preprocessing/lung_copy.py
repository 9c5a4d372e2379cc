"""The copy of a scan that the detector works on: one spacing, the lungs' surroundings alone, axes as in the patient.

The same function makes it for training and for inference, so that the network sees what it has learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.lung_mask import LungMask, lungs_on
from medai.preprocessing.resampling import resample_region
from medai.preprocessing.turning import turn_to_ras

MARGIN_MM = 16.0
"""Kept around the lungs: a nodule on the pleura is told from the chest wall by what lies behind it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LungCopy:
    """The lungs and what is near them at the detector's spacing.

    Attributes:
        geometry: its grid; axes point nearest to right, anterior, superior.
        image_hu: float32 indexed [i, j, k].
        inside: True in the lungs.
    """

    geometry: VolumeGeometry
    image_hu: NDArray[np.float32]
    inside: NDArray[np.bool_]

    def is_near_lung(self, index_ijk: Sequence[float], reach_mm: float) -> bool:
        """True where a voxel of the lungs lies in the box of ``reach_mm`` around a place."""
        reach = np.rint(reach_mm / np.asarray(self.geometry.spacing_mm)).astype(int)
        middle = np.rint(np.asarray(index_ijk)).astype(int)
        start = np.clip(middle - reach, 0, self.geometry.shape_ijk)
        stop = np.clip(middle + reach + 1, 0, self.geometry.shape_ijk)
        return bool(self.inside[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))].any())


def lung_copy(volume: Volume, lungs: LungMask, spacing_ras_mm: Sequence[float]) -> LungCopy | None:
    """Make the copy.

    Args:
        volume: the scan.
        lungs: on the scan's grid.
        spacing_ras_mm: wanted voxel size along the axes nearest to right, anterior and superior.

    Returns:
        The copy, or None where there are no lungs.
    """
    box = IndexBox.of_mask(lungs.labels)
    if box is None:
        return None
    turn = turn_to_ras(volume.geometry)
    spacing_mm = [float(spacing_ras_mm[turn.order.index(axis)]) for axis in range(3)]
    margin = [int(np.ceil(MARGIN_MM / s)) for s in volume.geometry.spacing_mm]
    copy = resample_region(volume, box.expand(margin).clip(volume.geometry.shape_ijk), spacing_mm)
    return LungCopy(
        geometry=turn.geometry(copy.geometry),
        image_hu=turn.apply(np.asarray(copy.image_hu, dtype=np.float32)),
        inside=turn.apply(lungs_on(lungs, copy.geometry)),
    )
