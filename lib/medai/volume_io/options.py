"""What a caller may ask of the readers beyond "read this"; the defaults refuse whatever would change the anatomy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to treat scans whose slices do not form a regular grid. Both change voxel values, so both are off.

    Attributes:
        resample_irregular: resample a DICOM series with missing or unevenly spaced slices to its finest regular
            spacing, linearly along the slice axis; otherwise such a series is refused with the positions named.
        correct_tilt: shift the slices of a gantry-tilted series back onto a right-angled grid (linear in the slice
            plane); otherwise a tilted series is refused with its angle.
    """

    resample_irregular: bool = False
    correct_tilt: bool = False
