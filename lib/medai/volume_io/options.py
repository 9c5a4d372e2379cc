"""What a caller may ask of the readers beyond "read this"; the defaults refuse whatever would change the anatomy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.geometry import VolumeGeometry

OnSlices = Callable[[Volume, int], None]
"""Told of a scan whose voxels are still being decoded, and how many of its first slices along k are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to treat scans whose slices do not form a regular grid, and whom to tell of progress.

    The first two change voxel values, so both are off.

    Attributes:
        resample_irregular: resample a DICOM series with missing or unevenly spaced slices to its finest regular
            spacing, linearly along the slice axis; otherwise such a series is refused with the positions named.
        correct_tilt: shift the slices of a gantry-tilted series back onto a right-angled grid (linear in the slice
            plane); otherwise a tilted series is refused with its angle.
        on_slices: called every few megabytes, in the reader's thread, where the format is decoded slice by slice
            straight into the result (NIfTI and NRRD of int16 without scaling); never called for others. What it has
            been told of does not change any more.
    """

    resample_irregular: bool = False
    correct_tilt: bool = False
    on_slices: OnSlices | None = field(default=None, compare=False)

    def watcher(self, geometry: VolumeGeometry) -> Callable[[NDArray[np.generic], int], None] | None:
        """``on_slices`` for a reader that has the voxels [i, j, k] of a scan with this grid; None where nobody asks."""
        tell = self.on_slices
        if tell is None:
            return None
        return lambda voxels, complete: tell(Volume(geometry=geometry, image_hu=voxels), complete)
