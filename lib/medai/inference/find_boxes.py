"""Runs a detection network over the lungs, window by window, and gives the boxes it finds.

The network looks at the lungs' copy in windows that overlap by a margin: an answer counts where it lies in a window's
own part, away from its rim. Windows without lung are left out.

Threads: a finder keeps no state between calls and may be used by any number of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import CancelledByUserError, ModelError
from medai.geometry import IndexBox
from medai.networks.engine import Engine
from medai.postprocessing.detection_boxes import AnchorConfig, ScoredBoxes, decode_heads, suppressed
from medai.preprocessing.hu_window import window_hu
from medai.preprocessing.lung_copy import LungCopy

Progress = Callable[[float], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBox:
    """A place the network marks.

    Attributes:
        centre_ras_mm: RAS millimetres.
        diameter_mm: mean edge of the box.
        logit: how sure the network is.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxFinderConfig:
    """How the network is run.

    Attributes:
        most_core: voxels of a window's own part along each axis, at most; the weights may say otherwise.
        margin: voxels around it that the network sees as well; the weights may say otherwise.
        least_logit: less sure boxes are left out; -4.6 is 1 %.
        most_overlap: of two boxes with a larger intersection over union the surer one stays.
        most: boxes a scan.
        reach_mm: a box's centre lies at most so far from the lungs.
    """

    most_core: tuple[int, int, int] = (160, 160, 160)
    margin: tuple[int, int, int] = (10, 10, 10)
    least_logit: float = -4.6
    most_overlap: float = 0.22
    most: int = 150
    reach_mm: float = 3.0


class BoxFinder:
    """A detection network over a scan.

    Args:
        engine: a loaded detection network; its config names its spacing, its window of HU and its anchors.
        config: how it is run.

    Raises:
        ModelError: the weights are of another kind of network.
    """

    def __init__(self, engine: Engine, config: BoxFinderConfig | None = None) -> None:
        if engine.config.get("network") != "detection_network":
            raise ModelError(f"A '{engine.config.get('network')}' marks no boxes: a 'detection_network' is needed.")
        self._engine = engine
        self._config = config or BoxFinderConfig()
        self._most_core = tuple(engine.config.get("most_core", self._config.most_core))
        self._margin = tuple(engine.config.get("margin", self._config.margin))
        self._anchors = AnchorConfig.of_json(engine.config["anchors"])
        low_hu, high_hu = engine.config["window_hu"]
        self._low_hu, self._high_hu = float(low_hu), float(high_hu)
        low, high = engine.config["image_range"]
        self._low, self._high = float(low), float(high)

    @property
    def spacing_ras_mm(self) -> tuple[float, float, float]:
        """Voxel size the network works at, along the axes nearest to right, anterior, superior."""
        right, anterior, superior = self._engine.config["spacing_ras_mm"]
        return (float(right), float(anterior), float(superior))

    def find(
        self,
        copy: LungCopy,
        *,
        on_progress: Progress = lambda fraction: None,
        should_stop: Stop = lambda: False,
    ) -> list[FoundBox]:
        """Mark places.

        Args:
            copy: of the lungs, at ``spacing_ras_mm``.
            on_progress: told the share of windows done, 0–1.
            should_stop: asked before each window.

        Returns:
            Places, the surest first.

        Raises:
            CancelledByUserError: ``should_stop`` said so.
        """
        cores = [core for core in self._cores(copy.geometry.shape_ijk) if copy.inside[core.slices].any()]
        parts: list[ScoredBoxes] = []
        for done, core in enumerate(cores, start=1):
            if should_stop():
                raise CancelledByUserError("Looking for nodules was stopped; nothing was kept.")
            parts.append(self._in_window(copy, core))
            on_progress(done / len(cores))
        kept = suppressed(ScoredBoxes.join(parts), most_overlap=self._config.most_overlap, most=2 * self._config.most)
        return [*itertools.islice(self._near_lung(kept, copy), self._config.most)]

    def _cores(self, shape: Sequence[int]) -> Iterator[IndexBox]:
        """Boxes of about equal size that tile the copy."""
        edges = [
            np.linspace(0, size, -(-size // most) + 1).round().astype(int)
            for size, most in zip(shape, self._most_core, strict=True)
        ]
        for i, j, k in itertools.product(*[range(len(e) - 1) for e in edges]):
            yield IndexBox(
                start_ijk=(int(edges[0][i]), int(edges[1][j]), int(edges[2][k])),
                stop_ijk=(int(edges[0][i + 1]), int(edges[1][j + 1]), int(edges[2][k + 1])),
            )

    def _in_window(self, copy: LungCopy, core: IndexBox) -> ScoredBoxes:
        """Boxes whose centre lies in a window's own part, in the copy's index space."""
        seen = core.expand(self._margin).clip(copy.geometry.shape_ijk)
        divisor = self._anchors.divisor
        shape = [-(-n // d) * d for n, d in zip(seen.shape_ijk, divisor, strict=True)]
        image = np.full(shape, (self._low + self._high) / 2, dtype=np.float32)
        i, j, k = seen.shape_ijk
        image[:i, :j, :k] = self._windowed(copy.image_hu[seen.slices])
        answer = self._engine.run(image[None, None])[0]
        found = decode_heads(
            answer,
            shape,
            self._anchors,
            least_logit=self._config.least_logit,
            most_a_level=2 * self._config.most,
        )
        offset = np.asarray(seen.start_ijk, dtype=np.float32)
        boxes = found.boxes + np.tile(offset, 2)
        middle = (boxes[:, :3] + boxes[:, 3:]) / 2
        own = np.all((middle >= np.asarray(core.start_ijk) - 0.5) & (middle < np.asarray(core.stop_ijk) - 0.5), axis=1)
        return ScoredBoxes(boxes=boxes[own], logits=found.logits[own])

    def _windowed(self, image_hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """HU in the network's range."""
        scaled = window_hu(image_hu, low_hu=self._low_hu, high_hu=self._high_hu)
        scaled += np.float32(1)
        scaled *= np.float32((self._high - self._low) / 2)
        scaled += np.float32(self._low)
        return scaled

    def _near_lung(self, found: ScoredBoxes, copy: LungCopy) -> Iterator[FoundBox]:
        """What lies in or at the lungs, in the patient."""
        spacing_mm = np.asarray(copy.geometry.spacing_mm)
        for box, logit in zip(found.boxes, found.logits, strict=True):
            middle = (box[:3] + box[3:]) / 2
            if copy.is_near_lung([float(m) for m in middle], self._config.reach_mm):
                x, y, z = (float(c) for c in copy.geometry.ijk_to_ras(middle))
                diameter_mm = float(np.mean((box[3:] - box[:3]) * spacing_mm))
                yield FoundBox(centre_ras_mm=(x, y, z), diameter_mm=diameter_mm, logit=float(logit))
