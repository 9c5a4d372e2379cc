"""What is served: a click, a whole scan as segments or as boxes, and the lungs.

Each task reads the client's parameters, asks the library, and says the answer in MONAI Label's words. Label values are
contiguous from 1 with a name for each: 3D Slicer gives value k the k-th name, makes an empty segment of a value that is
absent and drops one beyond the names.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from numpy.typing import NDArray

from medai.domain import LabelMap, Nodule, Prediction, Segment, Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.postprocessing.markups import prediction_to_markups
from medai.postprocessing.nodules import nodule_from_mask, prediction_to_label_map, segment_name
from medai.preprocessing.lung_mask import LEFT_LUNG, RIGHT_LUNG, segment_lungs
from medai.server.click_params import IndexFrame, label_name, points_ijk, roi_box
from medai.server.infer_request import InferReply, InferRequest, MedaiInferTask, encode_label_map
from medai.server.lanes import Lane
from medai.volume_io.decoding import ScanHead

logger = logging.getLogger(__name__)

NO_NODULES = "no nodules"
"""The one (empty) segment of a scan without findings. Without any name the plugin would fall back to the task's
labels and empty the annotator's own segment "nodule"; submitted as it is, this name says that there is nothing
(``label_names``)."""

KEPT_PREDICTIONS = 32
"""A prediction is boxes with small masks, some hundred kilobytes: running the segments and then the boxes of a scan, or
coming back to it, costs one inference."""


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


class NoduleClickTask(MedaiInferTask):
    """One segment from the annotator's clicks.

    Args:
        scans: decoded scans.
        model: gives the present version and the model, at each request.
    """

    lane = Lane.CLICK

    def __init__(self, scans: ScanSource, model: Callable[[], tuple[str, ClickModel]]) -> None:
        super().__init__(
            type=InferType.DEEPGROW,
            labels={"nodule": 1},
            dimension=3,
            description="Outlines the nodule you click on; more clicks add, background clicks take away",
        )
        self._scans = scans
        self._model = model

    def answer(self, request: InferRequest) -> InferReply:
        """Segment around the clicks and answer on the whole scan's grid."""
        started = time.perf_counter()
        foreground, background = points_ijk(request.params, "foreground"), points_ijk(request.params, "background")
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
        payload, extension = encode_label_map(_painted(geometry, result, name), request.params)
        encoded = time.perf_counter()
        logger.info(
            "nodule_click %s on %s: %d+%d clicks, %.0f ms",
            version_id,
            request.case_id or "an uploaded scan",
            len(foreground),
            len(background),
            (encoded - started) * 1e3,
        )
        params = {
            "label_names": {name: 1},
            "model_version": version_id,
            "uncertainty": result.uncertainty,
            "latencies": _latencies(pre=loaded - started, infer=inferred - loaded, post=encoded - inferred)
            | {"network": round(result.seconds.get("network", 0.0), 4)},
            **_clicked_nodule(volume, result, frame),
        }
        return InferReply(params=params, payload=payload, extension=extension)


class ScanPredictions:
    """Whole-scan predictions of the present models, the last few kept.

    Args:
        scans: decoded scans.
        model: gives the present versions by task and the pipeline, at each request.
        on_prediction: told of each new prediction of a case of the study.
    """

    def __init__(
        self,
        scans: ScanSource,
        model: Callable[[], tuple[Mapping[str, str], ScanModel]],
        on_prediction: Callable[[str, Prediction], None],
    ) -> None:
        self._scans = scans
        self._model = model
        self._on_prediction = on_prediction
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Prediction] = OrderedDict()

    def get(self, request: InferRequest) -> tuple[Prediction, dict[str, str]]:
        """The prediction for a scan and the versions it is from."""
        versions, model = self._model()
        status = request.scan_path.stat()
        key = (str(request.scan_path), status.st_size, status.st_mtime_ns, *sorted(versions.items()))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], dict(versions)
        prediction = model.predict(self._scans.get(request.scan_path, request.case_id))
        logger.info(
            "%s on %s: %d nodules, %.1f s",
            ", ".join(f"{task} {version}" for task, version in versions.items()),
            request.case_id or "an uploaded scan",
            len(prediction.nodules),
            sum(prediction.stage_seconds.values()),
        )
        with self._lock:
            self._kept[key] = prediction
            while len(self._kept) > KEPT_PREDICTIONS:
                self._kept.popitem(last=False)
        if request.case_id:
            self._on_prediction(request.case_id, prediction)
        return prediction, dict(versions)


class NoduleSegmentationTask(MedaiInferTask):
    """Every nodule of a scan as a segment whose name says its size and kind."""

    def __init__(self, predictions: ScanPredictions) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={"nodule": 1},
            dimension=3,
            description="Finds and outlines the nodules of the whole scan, one segment each",
        )
        self._predictions = predictions

    def answer(self, request: InferRequest) -> InferReply:
        """Predict, and answer as a label map on the scan's grid."""
        started = time.perf_counter()
        prediction, versions = self._predictions.get(request)
        predicted = time.perf_counter()
        label_map = prediction_to_label_map(prediction)
        if not label_map.segments:
            label_map = LabelMap(
                geometry=label_map.geometry,
                labels=label_map.labels,
                segments=(Segment(value=1, name=NO_NODULES),),
            )
        payload, extension = encode_label_map(label_map, request.params)
        params = {
            "label_names": label_map.label_names,
            **_prediction_params(prediction, versions, request),
            "latencies": _latencies(pre=0.0, infer=predicted - started, post=time.perf_counter() - predicted),
        }
        return InferReply(params=params, payload=payload, extension=extension)


class NoduleDetectionTask(MedaiInferTask):
    """The same prediction as boxes: 3D Slicer's markups, one ROI a nodule."""

    def __init__(self, predictions: ScanPredictions) -> None:
        super().__init__(
            type=InferType.DETECTION,
            labels={"nodule": 1},
            dimension=3,
            description="Finds the nodules of the whole scan, one box each with size, kind and probability",
        )
        self._predictions = predictions

    def answer(self, request: InferRequest) -> InferReply:
        """Predict, and answer as markups JSON."""
        started = time.perf_counter()
        prediction, versions = self._predictions.get(request)
        params = {
            "label_names": {"nodule": 1},
            **_prediction_params(prediction, versions, request),
            "latencies": _latencies(pre=0.0, infer=time.perf_counter() - started, post=0.0),
        }
        payload = json.dumps(prediction_to_markups(prediction), allow_nan=False).encode()
        return InferReply(params=params, payload=payload, extension=".json")


class LungsTask(MedaiInferTask):
    """Right and left lung."""

    def __init__(self, scans: ScanSource) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={"right lung": RIGHT_LUNG, "left lung": LEFT_LUNG},
            dimension=3,
            description="Outlines the right and the left lung, nodules on the pleura included",
        )
        self._scans = scans

    def answer(self, request: InferRequest) -> InferReply:
        """Segment the lungs; those of a crop, whose side nobody can tell, are one segment."""
        started = time.perf_counter()
        volume = self._scans.get(request.scan_path, request.case_id)
        loaded = time.perf_counter()
        lungs = segment_lungs(volume)
        inferred = time.perf_counter()
        labels, names = lungs.labels, ["right lung", "left lung"]
        if not lungs.is_plausible:
            labels, names = (labels > 0).astype(np.uint8), ["lung"]
        segments = tuple(Segment(value=value, name=name) for value, name in enumerate(names, start=1))
        label_map = LabelMap(geometry=volume.geometry, labels=labels, segments=segments)
        payload, extension = encode_label_map(label_map, request.params)
        logger.info("lungs on %s: %.1f s", request.case_id or "an uploaded scan", inferred - loaded)
        params = {
            "label_names": label_map.label_names,
            "volume_ml": lungs.volume_ml,
            "latencies": _latencies(pre=loaded - started, infer=inferred - loaded, post=time.perf_counter() - inferred),
        }
        return InferReply(params=params, payload=payload, extension=extension)


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


def _clicked_nodule(volume: Volume, result: ClickOutcome, frame: IndexFrame) -> dict[str, Any]:
    if not result.mask.any():
        return {"nodules": [], "centroids": {}}
    probability = float(result.probability[result.mask].mean())
    nodule = nodule_from_mask(volume, result.box, result.mask, probability=probability)
    return {"nodules": [_row(nodule, 1)], "centroids": {"1": _centre_ijk(nodule, frame)}}


def _prediction_params(prediction: Prediction, versions: Mapping[str, str], request: InferRequest) -> dict[str, Any]:
    frame = IndexFrame.of_request(prediction.geometry, request.params, is_case=bool(request.case_id))
    numbered = list(enumerate(prediction.nodules, start=1))
    return {
        "model_version": dict(versions),
        "nodules": [_row(nodule, value) for value, nodule in numbered],
        "centroids": {str(value): _centre_ijk(nodule, frame) for value, nodule in numbered},
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in prediction.stage_seconds.items()},
    }


def _row(nodule: Nodule, value: int) -> dict[str, Any]:
    """A line of the nodule table."""
    return {
        "value": value,
        "name": segment_name(nodule, value),
        "diameter_mm": round(nodule.diameter_mm, 2),
        "volume_mm3": round(nodule.volume_mm3, 1),
        "kind": str(nodule.kind),
        "side": nodule.side,
        "probability": round(nodule.probability, 4),
        "centre_ras_mm": [round(c, 3) for c in nodule.centre_ras_mm],
    }


def _centre_ijk(nodule: Nodule, frame: IndexFrame) -> list[int]:
    """The voxel at a nodule's centre, on the grid that the client counts on."""
    i, j, k = (int(c) for c in np.rint(frame.geometry.ras_to_ijk(nodule.centre_ras_mm)))
    return list(frame.index((i, j, k)))


def _latencies(*, pre: float, infer: float, post: float) -> dict[str, float]:
    """MONAI Label's names: loading and parameters, network and what belongs to it, encoding; seconds."""
    return {
        "pre": round(pre, 4),
        "infer": round(infer, 4),
        "post": round(post, 4),
        "total": round(pre + infer + post, 4),
    }
