"""What a model says of a scan."""

from __future__ import annotations

from dataclasses import dataclass, field

from medai.domain.nodule import Nodule
from medai.geometry import VolumeGeometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """The nodules found in one scan, largest probability first.

    Attributes:
        case_id: the case's name in its study, or "".
        geometry: the scan's own grid; every nodule's box lies in it.
        nodules: outlined findings.
        model_versions: task name to version id that took part.
        stage_seconds: stage name to wall seconds.
    """

    case_id: str
    geometry: VolumeGeometry
    nodules: tuple[Nodule, ...]
    model_versions: dict[str, str] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
