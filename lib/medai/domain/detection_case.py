"""One scan whose nodules are all known: what a detector learns from and is judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medai.domain.nodule import NoduleKind
from medai.domain.volume import Volume
from medai.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueNodule:
    """A nodule that is known to be there.

    Attributes:
        centre_ras_mm: RAS millimetres.
        diameter_mm: of the sphere of the same volume, as in LUNA16's lists; a mark nearer than half of it is a hit.
        kind: attenuation type, None where it is not known.
        source: where it came from: "phantom", "real:<case id>" of an inserted nodule, "scan" for the host's own.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    kind: NoduleKind | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.centre_ras_mm) != 3 or not bool(np.all(np.isfinite(self.centre_ras_mm))):
            raise InputError(f"A nodule's centre is three finite numbers in RAS mm, this one is {self.centre_ras_mm}.")
        if not (np.isfinite(self.diameter_mm) and self.diameter_mm > 0):
            raise InputError(f"A nodule's diameter is a positive number of mm, this one is {self.diameter_mm}.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionCase:
    """A scan, or a region of one, and every nodule in it.

    Attributes:
        case_id: names the scan in reports and in the annotation lists.
        patient_ids: everyone whose anatomy is in it: the host's and those of inserted nodules; empty for a phantom
            with phantom nodules only. None of them may be on both sides of a split.
        volume: the scan.
        nodules: what must be found; empty in a scan without nodules.
        irrelevant: findings that are neither right nor wrong to mark (LUNA16's excluded annotations).
    """

    case_id: str
    patient_ids: tuple[str, ...]
    volume: Volume
    nodules: tuple[TrueNodule, ...]
    irrelevant: tuple[TrueNodule, ...] = ()
