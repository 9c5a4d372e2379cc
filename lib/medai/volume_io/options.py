"""What a caller may ask of the readers beyond "read this"; the defaults refuse whatever would change the anatomy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry

OnSlices = Callable[[Volume, int], None]
"""Told of a scan whose voxels are still being decoded, and how many of its first slices along k are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBudget:
    """The largest image that is read, asked from its header before anything is inflated or memory is taken.

    The defaults are for files of one's own: 2³¹ voxels are 1024×1024×2048, several times the longest chest CT at the
    finest matrix of today's scanners, and as float32 they fill the 8 GiB. A door that strangers reach passes a smaller
    budget.

    Attributes:
        largest_voxels: samples in the file, over all its axes, slices or frames.
        largest_bytes: size of these samples as stored, before compression.
        advice: what to do where an image is larger.
    """

    largest_voxels: int = 1 << 31
    largest_bytes: int = 8 << 30
    advice: str = "Crop or resample it to fewer voxels"

    def check(self, shape: Sequence[int], voxel_bytes: int, name: str) -> None:
        """Refuse an image that is larger than the budget.

        Args:
            shape: number of samples along each axis, as the header has it.
            voxel_bytes: size of one sample as stored.
            name: of the file or series, for the message.

        Raises:
            InputError: too many voxels or bytes.
        """
        voxels = math.prod(int(n) for n in shape)
        if voxels <= self.largest_voxels and voxels * voxel_bytes <= self.largest_bytes:
            return
        raise InputError(
            f"{name} has {'×'.join(str(n) for n in shape)} voxels of {voxel_bytes} bytes "
            f"({voxels * voxel_bytes / 1e6:.4g} MB); at most {self.largest_voxels} voxels and "
            f"{self.largest_bytes / 1e6:.4g} MB are read. {self.advice}."
        )


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
        budget: the largest image that is read.
    """

    resample_irregular: bool = False
    correct_tilt: bool = False
    on_slices: OnSlices | None = field(default=None, compare=False)
    budget: ReadBudget = ReadBudget()

    def watcher(self, geometry: VolumeGeometry) -> Callable[[NDArray[np.generic], int], None] | None:
        """``on_slices`` for a reader that has the voxels [i, j, k] of a scan with this grid; None where nobody asks."""
        tell = self.on_slices
        if tell is None:
            return None
        return lambda voxels, complete: tell(Volume(geometry=geometry, image_hu=voxels), complete)
