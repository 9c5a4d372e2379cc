"""Turning arrays so that their axes point to the patient's right, front and head, as nearly as the grid allows.

No voxel is interpolated: axes are swapped and reversed. What works on turned arrays needs no case of its own for
oblique, flipped or sagittal scans.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medai.geometry import VolumeGeometry

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How to turn an array.

    Attributes:
        order: array axis that comes first, second and third.
        flips: whether it is reversed then.
        spacing_mm: voxel size of the turned array.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing_mm: tuple[float, float, float]

    def apply(self, image: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The turned array, contiguous."""
        turned = image.transpose(self.order)[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        result = np.empty(turned.shape, dtype=turned.dtype)
        # Plane by plane: two axes fit into the cache, where their order in memory costs little.
        for number in range(turned.shape[1]):
            result[:, number] = turned[:, number]
        return result

    def undo(self, image: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """A turned array as it was."""
        turned = image[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        return turned.transpose(np.argsort(self.order))

    def geometry(self, geometry: VolumeGeometry) -> VolumeGeometry:
        """The grid of the turned array."""
        affine = geometry.affine_ijk_to_ras_mm.copy()
        affine[:, :3] = geometry.affine_ijk_to_ras_mm[:, list(self.order)]
        shape = tuple(geometry.shape_ijk[axis] for axis in self.order)
        turned = VolumeGeometry(shape_ijk=(shape[0], shape[1], shape[2]), affine_ijk_to_ras_mm=affine)
        for axis, flip in enumerate(self.flips):
            if flip:
                turned = turned.with_axis_reversed(axis)
        return turned


def turn_to_ras(geometry: VolumeGeometry) -> Turn:
    """The best matching of array axes to patient axes."""
    directions = geometry.directions_ras
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(directions[r, a]) for r, a in enumerate(p)))
    flips = tuple(bool(directions[r, a] < 0) for r, a in enumerate(best))
    spacing = tuple(geometry.spacing_mm[a] for a in best)
    return Turn(
        order=(best[0], best[1], best[2]),
        flips=(flips[0], flips[1], flips[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
    )
