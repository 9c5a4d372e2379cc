"""A CT scan in Hounsfield units on its own grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """A scan.

    Attributes:
        geometry: the scan's own grid.
        image_hu: Hounsfield units indexed [i, j, k], shape ``geometry.shape_ijk``, int16 or float32. It may be a
            read-only memory map of the decoded scan on disk: take regions of it, do not copy it whole without need.
        case_id: the name of the case in its study, "" where the scan stands alone. Never a patient's name.
        header: facts of the acquisition under their DICOM keywords (``SliceThickness``, ``ConvolutionKernel``,
            ``SeriesInstanceUID`` …), without patient identifiers; may be empty.
        notes: what a reader had to decide about the file and an annotator should know, in sentences.
    """

    geometry: VolumeGeometry
    image_hu: NDArray[np.generic]
    case_id: str = ""
    header: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.image_hu.shape != self.geometry.shape_ijk:
            raise GeometryError(
                f"The image has shape {self.image_hu.shape} but its geometry says {self.geometry.shape_ijk}."
            )

    def crop(self, box: IndexBox) -> Volume:
        """The part inside ``box``, which must lie inside the volume; a view, no copy."""
        return Volume(
            geometry=self.geometry.crop(box),
            image_hu=self.image_hu[box.slices],
            case_id=self.case_id,
            header=self.header,
            notes=self.notes,
        )
