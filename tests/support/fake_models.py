"""Stand-ins for trained networks: outlines that a test can work out by hand, and a registry that swaps versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain import Candidate, NoduleAssessment, NoduleKind, RatedProbability, Volume
from medai.errors import ModelError
from medai.geometry import IndexBox
from medai.inference.click import ClickResult
from medai.preprocessing.lung_mask import LungMask
from medai.registry.version_files import ModelVersion

RADIUS_VOXELS = 2


@dataclass
class BoxClicks:
    """Outlines a cube of 5 voxels around each foreground click, less the background clicks."""

    before: Callable[[], None] = lambda: None
    reach_mm: float = 3.0

    def from_all_sides(self):
        return self

    def segment(
        self,
        volume: Volume,
        *,
        foreground_ijk: Sequence[Sequence[int]],
        background_ijk: Sequence[Sequence[int]] = (),
        roi: IndexBox | None = None,
    ) -> ClickResult:
        self.before()
        shape = volume.geometry.shape_ijk
        mask = np.zeros(shape, dtype=bool)
        for i, j, k in foreground_ijk:
            box = IndexBox(start_ijk=(i, j, k), stop_ijk=(i + 1, j + 1, k + 1)).expand([RADIUS_VOXELS] * 3)
            mask[box.clip(shape).slices] = True
        for click in background_ijk:
            mask[tuple(click)] = False
        if roi is not None:
            inside = np.zeros(shape, dtype=bool)
            inside[roi.clip(shape).slices] = True
            mask &= inside
        box = IndexBox.of_mask(mask) or IndexBox(start_ijk=(0, 0, 0), stop_ijk=(0, 0, 0))
        cut = mask[box.slices]
        probability = np.where(cut, 0.9, 0.1).astype(np.float32)
        return ClickResult(
            box=box,
            mask=cut,
            probability=probability,
            looked_at=box,
            uncertainty=0.25,
            seconds={"total": 0.0},
        )


@dataclass
class FixedCandidates:
    """Finds candidates at given voxels of any scan."""

    centres_ijk: tuple[tuple[int, int, int], ...] = ((8, 9, 10),)
    probabilities: tuple[float, ...] = (0.8,)
    operating_probability: float = 0.5
    before: Callable[[], None] = lambda: None

    def detect(self, volume: Volume, lungs: LungMask, **_: Any) -> list[Candidate]:
        self.before()
        found = []
        for centre_ijk, probability in zip(self.centres_ijk, self.probabilities, strict=True):
            x, y, z = (float(c) for c in volume.geometry.ijk_to_ras(centre_ijk))
            found.append(Candidate(centre_ras_mm=(x, y, z), diameter_mm=5.0, probability=probability))
        return found


@dataclass
class FixedRatings:
    """Rates every nodule the same."""

    malignancy: float = 0.62
    before: Callable[[], None] = lambda: None

    def assess(self, volume: Volume, box: IndexBox, mask: np.ndarray) -> NoduleAssessment:
        self.before()
        assert mask.shape == box.shape_ijk
        assert mask.any()
        return NoduleAssessment(
            malignancy=RatedProbability(value=self.malignancy, low=0.4, high=0.8),
            malignancy_rating=3.4,
            ratings={"malignancy": 3.4, "spiculation": 2.0},
            kind=NoduleKind.PART_SOLID,
            kind_probabilities={NoduleKind.PART_SOLID: 0.7, NoduleKind.SOLID: 0.2, NoduleKind.NON_SOLID: 0.1},
        )


@dataclass
class SwappableRegistry:
    """A registry whose champions a test changes by assignment."""

    versions: dict[str, str] = field(
        default_factory=lambda: {"nodule_click": "v1", "nodule_detection": "v1", "nodule_classification": "v1"}
    )
    lock: threading.Lock = field(default_factory=threading.Lock)

    def champion(self, task: str) -> ModelVersion:
        if task not in self.versions:
            raise ModelError(f"There are no weights for task '{task}'.")
        return ModelVersion(task=task, version_id=self.versions[task], weights_path=Path("/nowhere"), card={})
