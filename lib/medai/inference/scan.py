"""The whole-scan pipeline: lungs, candidates, an outline for each, one nodule each, and what each is rated.

Threads: a pipeline keeps no state between calls and may be used by any number of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medai.domain import Candidate, Nodule, OutlineDoubt, Prediction, Volume
from medai.domain.assessment import NoduleAssessment
from medai.errors import CancelledByUserError
from medai.geometry import IndexBox
from medai.inference.click import ClickResult
from medai.inference.find_boxes import Progress, Stop
from medai.postprocessing.nodules import join_fragments, merge_duplicates, nodule_from_mask
from medai.preprocessing.lung_mask import LungMask, segment_lungs


class Detector(Protocol):
    """What finds candidates: ``medai.inference.detect.NoduleDetector``."""

    @property
    def operating_probability(self) -> float:
        """From here on a candidate is worth showing."""
        ...

    def detect(
        self, volume: Volume, lungs: LungMask, *, on_progress: Progress = ..., should_stop: Stop = ...
    ) -> list[Candidate]:
        """Find candidates, most probable first."""
        ...


class Outliner(Protocol):
    """What outlines a nodule at a point: ``medai.inference.click.ClickSegmenter``."""

    def segment(
        self,
        volume: Volume,
        *,
        foreground_ijk: list[tuple[int, int, int]],
        background_ijk: list[tuple[int, int, int]] = ...,
        roi: IndexBox | None = None,
    ) -> ClickResult:
        """Outline what lies at the foreground points."""
        ...


class Classifier(Protocol):
    """What rates an outlined nodule: ``medai.inference.classify.NoduleClassifier``."""

    def assess(self, volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> NoduleAssessment:
        """Rate the nodule whose mask lies in ``box``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """What becomes a nodule.

    Attributes:
        least_probability: less probable candidates are not shown; None takes the detector's own threshold.
        most: at most so many of the most probable are outlined; a scan with more has metastases, not nodules to
            annotate one by one.
        least_diameter_mm: smaller outlines are dropped: noise.
        largest_diameter_mm: larger ones are dropped: a leak into the mediastinum or the chest wall.
        least_fill: outline volume over that of a ball of its longest extent; less is a vessel.
    """

    least_probability: float | None = None
    most: int = 15
    least_diameter_mm: float = 2.5
    largest_diameter_mm: float = 80.0
    least_fill: float = 0.06


class ScanPipeline:
    """A scan to a prediction.

    Args:
        detector: finds candidates.
        outliner: outlines them.
        config: what becomes a nodule.
        model_versions: task name to version id, copied into each prediction.
        classifier: rates each nodule; None leaves them unrated.
    """

    def __init__(
        self,
        detector: Detector,
        outliner: Outliner,
        config: ScanConfig | None = None,
        model_versions: dict[str, str] | None = None,
        *,
        classifier: Classifier | None = None,
    ) -> None:
        self._detector = detector
        self._outliner = outliner
        self._config = config or ScanConfig()
        self._model_versions = dict(model_versions or {})
        self._classifier = classifier

    def predict(
        self,
        volume: Volume,
        *,
        lungs: LungMask | None = None,
        on_progress: Progress = lambda fraction: None,
        should_stop: Stop = lambda: False,
    ) -> Prediction:
        """Find, outline, measure and rate the nodules of a scan.

        Args:
            volume: the scan; a crop is allowed.
            lungs: of this scan, where they are known already.
            on_progress: told the share of the work done, 0–1.
            should_stop: asked between steps.

        Returns:
            Nodules, most probable first, and the seconds of the stages "lungs", "candidates",
            "outline" and, with a classifier, "classify".

        Raises:
            CancelledByUserError: ``should_stop`` said so.
        """
        begun = time.perf_counter()
        lungs = lungs or segment_lungs(volume)
        on_progress(0.1)
        found = time.perf_counter()
        candidates = self._detector.detect(
            volume, lungs, on_progress=lambda share: on_progress(0.1 + 0.5 * share), should_stop=should_stop
        )
        judged = time.perf_counter()
        outlined = self._all_outlined(
            volume, lungs, candidates, lambda share: on_progress(0.6 + 0.3 * share), should_stop
        )
        nodules = [n for n in join_fragments(volume, merge_duplicates(outlined)) if self._is_plausible(n, volume)]
        drawn = time.perf_counter()
        seconds = {"lungs": found - begun, "candidates": judged - found, "outline": drawn - judged}
        if self._classifier is not None:
            nodules = self._rated(volume, nodules, self._classifier, should_stop)
            seconds["classify"] = time.perf_counter() - drawn
        on_progress(1.0)
        return Prediction(
            case_id=volume.case_id,
            geometry=volume.geometry,
            nodules=tuple(nodules),
            model_versions=dict(self._model_versions),
            stage_seconds=seconds,
        )

    def _all_outlined(
        self, volume: Volume, lungs: LungMask, candidates: list[Candidate], on_progress: Progress, should_stop: Stop
    ) -> list[Nodule]:
        """The nodules at the candidates that are worth showing."""
        least = self._config.least_probability
        least = self._detector.operating_probability if least is None else least
        likely = [c for c in candidates if c.probability >= least][: self._config.most]
        nodules: list[Nodule] = []
        for number, candidate in enumerate(likely, start=1):
            if should_stop():
                raise CancelledByUserError("Outlining nodules was stopped; nothing was kept.")
            nodule = self._outlined(volume, lungs, candidate)
            if nodule is not None:
                nodules.append(nodule)
            on_progress(number / len(likely))
        return nodules

    def _rated(self, volume: Volume, nodules: list[Nodule], classifier: Classifier, should_stop: Stop) -> list[Nodule]:
        """The nodules with what they are rated."""
        rated: list[Nodule] = []
        for nodule in nodules:
            if should_stop():
                raise CancelledByUserError("Rating nodules was stopped; nothing was kept.")
            rated.append(replace(nodule, assessment=classifier.assess(volume, nodule.box, nodule.mask)))
        return rated

    def _outlined(self, volume: Volume, lungs: LungMask, candidate: Candidate) -> Nodule | None:
        """The nodule at a candidate, or None where the outline is no nodule's."""
        shape = np.asarray(volume.geometry.shape_ijk)
        index = np.clip(np.rint(volume.geometry.ras_to_ijk(candidate.centre_ras_mm)).astype(int), 0, shape - 1)
        result = self._outliner.segment(volume, foreground_ijk=[(int(index[0]), int(index[1]), int(index[2]))])
        if not result.mask.any():
            return None
        nodule = nodule_from_mask(
            volume,
            result.box,
            result.mask,
            probability=candidate.probability,
            side=lungs.side_at(candidate.centre_ras_mm),
        )
        doubt = OutlineDoubt(
            expected_error=result.uncertainty,
            view_variation=result.view_variation,
            member_information=result.member_information,
        )
        nodule = replace(nodule, doubt=doubt)
        return nodule if self._is_plausible(nodule, volume) else None

    def _is_plausible(self, nodule: Nodule, volume: Volume) -> bool:
        """False for specks, leaks and vessels."""
        if not self._config.least_diameter_mm <= nodule.diameter_mm <= self._config.largest_diameter_mm:
            return False
        extent_mm = float(np.max(np.asarray(nodule.box.shape_ijk) * volume.geometry.spacing_mm))
        return nodule.volume_mm3 >= self._config.least_fill * np.pi / 6 * extent_mm**3
