"""``nodule_click``: one segment from the annotator's clicks, answered from a scan's first slices where they suffice."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from medai.domain import LabelMap, Nodule, Segment, Volume
from medai.errors import InputError, MedaiError
from medai.geometry import VolumeGeometry
from medai.postprocessing.nodules import assessed, nodule_from_mask
from medai.server.click_params import IndexFrame, clicks_ijk, label_name, roi_box
from medai.server.infer_models import ClickModel, ClickOutcome, ScanSource
from medai.server.infer_request import InferReply, InferRequest, MedaiInferTask, Proposes, encode_label_map
from medai.server.lanes import Lane
from medai.server.nodule_table import centre_ijk, latencies, nodule_row
from medai.volume_io.decoding import ScanHead
from medai.workflows.classify_case import NoduleAssessor

logger = logging.getLogger(__name__)

CLICK_BUDGET_S = 0.35
"""A click is answered within half a second through HTTP: what the outline leaves of this may go to the rating."""
FIRST_RATING_S = 0.15
"""What a rating is taken to need before one was timed."""
LEAST_RATING_S = 0.05
RATED_MARGIN_MM = 30.0
"""What a rating looks at beside a nodule, at most."""


class NoduleClickTask(MedaiInferTask):
    """One segment from the annotator's clicks.

    Args:
        scans: decoded scans.
        model: gives the present version and the model, at each request.
        classifier: gives what rates the nodule, None where it is not there (yet).
        budget_s: a nodule is rated where the answer is still given within so many seconds.
    """

    lane = Lane.CLICK
    proposes = Proposes.SEGMENT

    def __init__(
        self,
        scans: ScanSource,
        model: Callable[[], tuple[str, ClickModel]],
        classifier: Callable[[], NoduleAssessor | None] = lambda: None,
        *,
        budget_s: float = CLICK_BUDGET_S,
    ) -> None:
        super().__init__(
            type=InferType.DEEPGROW,
            labels={"nodule": 1},
            dimension=3,
            description="Outlines the nodule you click on; more clicks add, background clicks take away",
        )
        self._scans = scans
        self._model = model
        self._classifier = classifier
        self._budget_s = budget_s
        self._rating_s = FIRST_RATING_S

    def answer(self, request: InferRequest) -> InferReply:
        """Segment around the clicks and answer on the whole scan's grid."""
        started = time.perf_counter()
        foreground, background = clicks_ijk(request.params, list(self.labels))
        roi, name = roi_box(request.params), label_name(request.params)
        version_id, model = self._model()

        def frame_of(geometry: VolumeGeometry) -> IndexFrame:
            return IndexFrame.of_request(geometry, request.params, is_case=bool(request.case_id))

        def slices_needed(geometry: VolumeGeometry) -> int:
            frame = frame_of(geometry)
            return _slices_needed(geometry, [frame.index(p) for p in (*foreground, *background)], model.reach_mm)

        def segment(volume: Volume, frame: IndexFrame) -> ClickOutcome:
            return model.segment(
                volume,
                foreground_ijk=[frame.index(point) for point in foreground],
                background_ijk=[frame.index(point) for point in background],
                roi=frame.box(roi),
            )

        head = self._scans.get_head(request.scan_path, request.case_id, slices=slices_needed)
        loaded = time.perf_counter()
        geometry, volume = head.geometry, head.volume
        frame = frame_of(geometry)
        result = _answer_from_head(head, lambda: segment(head.volume, frame))
        if result is None:
            volume = self._scans.get(request.scan_path, request.case_id)
            result = segment(volume, frame)
        inferred = time.perf_counter()
        payload, extension = encode_label_map(_painted(geometry, result, name), request)
        encoded = time.perf_counter()
        told = self._clicked_nodule(volume, geometry, result, frame, left_s=self._budget_s - (encoded - started))
        done = time.perf_counter()
        logger.info(
            "nodule_click %s on %s: %d+%d clicks, %.0f ms",
            version_id,
            request.case_id or "an uploaded scan",
            len(foreground),
            len(background),
            (done - started) * 1e3,
        )
        params = {
            "label_names": {name: 1},
            "model_version": version_id,
            "uncertainty": result.uncertainty,
            "latencies": latencies(pre=loaded - started, infer=inferred - loaded, post=done - inferred)
            | {"network": round(result.seconds.get("network", 0.0), 4), "rating": round(done - encoded, 4)},
            **told,
        }
        return InferReply(params=params, payload=payload, extension=extension)

    def _clicked_nodule(
        self, volume: Volume, geometry: VolumeGeometry, result: ClickOutcome, frame: IndexFrame, *, left_s: float
    ) -> dict[str, Any]:
        """What is said of the nodule; ``volume`` may be the scan's first slices, ``geometry`` is all of its grid."""
        if not result.mask.any():
            return {"nodules": [], "centroids": {}}
        probability = float(result.probability[result.mask].mean())
        nodule = nodule_from_mask(volume, result.box, result.mask, probability=probability)
        if self._rating_s > left_s:
            # Slow while the machine was busy: a little less is expected each time, until one is tried again.
            self._rating_s = max(LEAST_RATING_S, 0.9 * self._rating_s)
        elif _is_surrounded(nodule, volume.geometry, geometry):
            nodule = self._rated(volume, nodule)
        return {"nodules": [nodule_row(nodule, 1)], "centroids": {"1": centre_ijk(nodule, frame)}}

    def _rated(self, volume: Volume, nodule: Nodule) -> Nodule:
        """The nodule with its rating; without one where there is no classifier or it refuses."""
        classifier = self._classifier()
        if classifier is None:
            return nodule
        begun = time.perf_counter()
        try:
            return assessed(nodule, classifier.assess(volume, nodule.box, nodule.mask))
        except MedaiError as error:
            # The outline is what was asked for.
            logger.warning("The clicked nodule is not rated: %s", error)
            return nodule
        finally:
            self._rating_s = 0.5 * (self._rating_s + time.perf_counter() - begun)


def _slices_needed(geometry: VolumeGeometry, clicks_ijk: Sequence[tuple[int, int, int]], reach_mm: float) -> int:
    """How many slices of a scan a set of clicks can be answered from, most of the time.

    Two more than the reach: one because interpolation takes the next slice in, one so that the end of what is there is
    not taken for the end of the scan.
    """
    whole = geometry.shape_ijk[2]
    if not all(geometry.contains(click) for click in clicks_ijk):
        return whole
    last = max((k for _, _, k in clicks_ijk), default=0)
    return min(whole, last + 1 + math.ceil(reach_mm / geometry.spacing_mm[2]) + 2)


def _answer_from_head(head: ScanHead, segment: Callable[[], ClickOutcome]) -> ClickOutcome | None:
    """The answer from the first slices, or None where that on the whole scan might be another.

    It is the same where nothing was looked at beyond the slices before the last that is there. Whatever is wrong with
    the request is left to the whole scan, so that the message says what is valid in it.
    """
    if head.is_whole:
        return segment()
    try:
        result = segment()
    except InputError:
        return None
    return result if result.looked_at.stop_ijk[2] < head.volume.geometry.shape_ijk[2] else None


def _painted(geometry: VolumeGeometry, result: ClickOutcome, name: str) -> LabelMap:
    """The outline on the whole grid; fresh zero pages cost nothing until they are touched."""
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8, order="F")
    if not result.box.is_empty:
        labels[result.box.slices] = result.mask
    return LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name=name),))


def _is_surrounded(nodule: Nodule, part: VolumeGeometry, whole: VolumeGeometry) -> bool:
    """True where the slices that are there show all that a rating looks at; it is not worth waiting for the others."""
    there, all_of_them = part.shape_ijk[2], whole.shape_ijk[2]
    return there == all_of_them or there >= nodule.box.stop_ijk[2] + RATED_MARGIN_MM / whole.spacing_mm[2]
