"""Labels on a scan's grid: which voxel belongs to which named segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One named value of a label map.

    Attributes:
        value: voxel value, 1 or more.
        name: what the annotator reads in 3D Slicer's segment list.
        colour_rgb: red, green, blue, each 0–1.
    """

    value: int
    name: str
    colour_rgb: tuple[float, float, float] = (0.9, 0.6, 0.2)

    def __post_init__(self) -> None:
        if self.value < 1:
            raise InputError(f"Segment '{self.name}' has value {self.value}; 0 is background, segments start at 1.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelMap:
    """An integer per voxel on a scan's grid; 0 is background.

    Attributes:
        geometry: the scan's own grid.
        labels: unsigned integers indexed [i, j, k], shape ``geometry.shape_ijk``.
        segments: one for each value, sorted by value. A segment may have no voxel.
    """

    geometry: VolumeGeometry
    labels: NDArray[np.generic]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.labels.shape != self.geometry.shape_ijk:
            raise GeometryError(
                f"The label map has shape {self.labels.shape} but its geometry says {self.geometry.shape_ijk}."
            )
        values = [segment.value for segment in self.segments]
        if values != sorted(set(values)):
            raise InputError(f"Segment values must be distinct and rising, these are {values}.")

    @property
    def label_names(self) -> dict[str, int]:
        """Name to value, in rising order of value (MONAI Label's ``label_names``)."""
        return {segment.name: segment.value for segment in self.segments}
