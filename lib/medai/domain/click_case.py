"""One nodule to be outlined by clicks: what the click network learns from and is judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain.volume import Volume
from medai.errors import GeometryError, InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickCase:
    """One nodule to be outlined.

    Attributes:
        case_id: names the nodule in reports.
        patient_id: what must never be split between training and validation.
        volume: the scan around the nodule.
        mask: the nodule on the volume's grid, bool, at least one voxel.
        readers: the mean of several readers' masks on the same grid, float32, 0-1; None where only ``mask`` is known.
        weight: how often training draws it, over other cases; above 0.
    """

    case_id: str
    patient_id: str
    volume: Volume
    mask: NDArray[np.bool_]
    readers: NDArray[np.float32] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.mask.shape != self.volume.geometry.shape_ijk:
            raise GeometryError(
                f"Case {self.case_id}: the mask has shape {self.mask.shape}, its scan {self.volume.geometry.shape_ijk}."
            )
        if not np.any(self.mask):
            raise InputError(f"Case {self.case_id} has an empty mask: there is no nodule to outline.")
        if not (self.weight > 0 and np.isfinite(self.weight)):
            raise InputError(f"Case {self.case_id} has the weight {self.weight}; it must be above 0 and finite.")
        if self.readers is not None and self.readers.shape != self.mask.shape:
            raise GeometryError(
                f"Case {self.case_id}: the readers' mean has shape {self.readers.shape}, the mask {self.mask.shape}."
            )
