"""What the tasks ask of the library: decoded scans, and the models that outline, find and assess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medai.domain import Prediction, Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.volume_io.decoding import ScanHead


class ScanSource(Protocol):
    """Decoded scans; ``volume_io.scan_cache.ScanCache`` is one."""

    def get(self, path: Any, case_id: str = "") -> Volume:
        """The scan."""
        ...

    def get_head(self, path: Any, case_id: str = "", *, slices: Callable[[VolumeGeometry], int]) -> ScanHead:
        """The first slices along k of the scan, at least so many, or all of it."""
        ...


class ClickOutcome(Protocol):
    """What a click segmenter answers; ``inference.click.ClickResult`` is one."""

    @property
    def box(self) -> IndexBox:
        """Where the mask lies in the scan."""
        ...

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The outline in the box."""
        ...

    @property
    def probability(self) -> NDArray[np.float32]:
        """0–1 in the box."""
        ...

    @property
    def looked_at(self) -> IndexBox:
        """The part of the scan that the answer rests on; where it reaches the scan's end, on that end too."""
        ...

    @property
    def uncertainty(self) -> float:
        """0–1."""
        ...

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by stage."""
        ...


class ClickModel(Protocol):
    """Outlines what was clicked; ``inference.click.ClickSegmenter`` is one."""

    @property
    def reach_mm(self) -> float:
        """How far from a click it usually looks."""
        ...

    def segment(
        self,
        volume: Volume,
        *,
        foreground_ijk: Any,
        background_ijk: Any = (),
        roi: IndexBox | None = None,
    ) -> ClickOutcome:
        """Outline the nodules that the foreground clicks lie in."""
        ...


class ScanModel(Protocol):
    """Finds nodules in a whole scan; ``inference.scan.ScanPipeline`` is one."""

    def predict(self, volume: Volume) -> Prediction:
        """Find and outline every nodule."""
        ...
