"""Candidates (unconfirmed findings) and nodules (outlined ones)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain.assessment import NoduleAssessment
from medai.domain.nodule_kind import NoduleKind
from medai.errors import GeometryError
from medai.geometry import IndexBox

__all__ = ["Candidate", "Nodule", "NoduleKind", "OutlineDoubt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A place that may be a nodule.

    Attributes:
        centre_ras_mm: RAS millimetres.
        diameter_mm: estimated mean diameter.
        probability: 0–1, that it is a nodule.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineDoubt:
    """How sure the models are of an outline.

    Attributes:
        expected_error: one less the Dice that may be expected of it, 0–1.
        view_variation: one less the mean Dice of mirrored views with what they agree on, 0–1; None with one view.
        member_information: mutual information between its voxels and an ensemble's members, bits; None with one member.
    """

    expected_error: float
    view_variation: float | None = None
    member_information: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nodule:
    """An outlined nodule.

    Attributes:
        box: where ``mask`` lies in the scan's index space; inside the scan.
        mask: bool, shape ``box.shape_ijk``.
        centre_ras_mm: centroid of the mask.
        diameter_mm: mean of the longest axis in the axial plane and the longest one at right angles to it.
        volume_mm3: voxels times voxel volume.
        kind: attenuation type.
        probability: 0–1, that it is a nodule.
        side: "left", "right" or "" where the lungs are not known.
        assessment: how it is rated, None where it was not classified.
        doubt: how sure the models are of the outline; None where that is not known.
    """

    box: IndexBox
    mask: NDArray[np.bool_]
    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    volume_mm3: float
    kind: NoduleKind
    probability: float
    side: str = ""
    assessment: NoduleAssessment | None = None
    doubt: OutlineDoubt | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.box.shape_ijk:
            raise GeometryError(f"A nodule's mask has shape {self.mask.shape} but its box {self.box.shape_ijk}.")
