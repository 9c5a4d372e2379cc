"""Whole scans: the nodules as segments or as boxes, and the lungs.

Each task reads the client's parameters, asks the library, and says the answer in MONAI Label's words. Label values are
contiguous from 1 with a name for each: 3D Slicer gives value k the k-th name, makes an empty segment of a value that is
absent and drops one beyond the names.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from medai.domain import LabelMap, Prediction, Segment
from medai.postprocessing.markups import prediction_to_markups
from medai.postprocessing.nodules import prediction_to_label_map
from medai.preprocessing.lung_mask import LEFT_LUNG, RIGHT_LUNG, segment_lungs
from medai.server.infer_models import ScanModel, ScanSource
from medai.server.infer_request import InferReply, InferRequest, MedaiInferTask, Proposes, encode_label_map
from medai.server.nodule_table import latencies, prediction_params

logger = logging.getLogger(__name__)

NO_NODULES = "no nodules"
"""The one (empty) segment of a scan without findings. Without any name the plugin would fall back to the task's
labels and empty the annotator's own segment "nodule"; submitted as it is, this name says that there is nothing
(``label_names``)."""

KEPT_PREDICTIONS = 32
"""A prediction is boxes with small masks, some hundred kilobytes: running the segments and then the boxes of a scan, or
coming back to it, costs one inference."""


class ScanPredictions:
    """Whole-scan predictions of the present models, the last few kept.

    Args:
        scans: decoded scans.
        model: gives the present versions by task and the pipeline, at each request.
    """

    def __init__(
        self,
        scans: ScanSource,
        model: Callable[[], tuple[Mapping[str, str], ScanModel]],
    ) -> None:
        self._scans = scans
        self._model = model
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Prediction] = OrderedDict()

    def get(self, request: InferRequest) -> tuple[Prediction, dict[str, str]]:
        """The prediction for a scan and the versions it is from."""
        versions, model = self._model()
        key = _key(request.scan_path, versions)
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
        self._put(key, prediction)
        return prediction, dict(versions)

    def keep(self, scan_path: Path, prediction: Prediction) -> None:
        """Keep a prediction that was made elsewhere, by the versions that it names."""
        self._put(_key(scan_path, prediction.model_versions), prediction)

    def forget(self, scan_path: Path) -> None:
        """Drop the predictions for a scan that is gone."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == str(scan_path)]:
                del self._kept[key]

    def _put(self, key: tuple[Any, ...], prediction: Prediction) -> None:
        with self._lock:
            self._kept[key] = prediction
            while len(self._kept) > KEPT_PREDICTIONS:
                self._kept.popitem(last=False)


def _key(scan_path: Path, versions: Mapping[str, str]) -> tuple[Any, ...]:
    """What a prediction is kept under: the file as it is now, and who predicted."""
    status = scan_path.stat()
    return (str(scan_path), status.st_size, status.st_mtime_ns, *sorted(versions.items()))


def nodules_label_map(prediction: Prediction) -> LabelMap:
    """A segment a nodule; where there is none, one empty segment that says so."""
    label_map = prediction_to_label_map(prediction)
    if label_map.segments:
        return label_map
    nothing = (Segment(value=1, name=NO_NODULES),)
    return LabelMap(geometry=label_map.geometry, labels=label_map.labels, segments=nothing)


class NoduleSegmentationTask(MedaiInferTask):
    """Every nodule of a scan as a segment whose name says its size and kind."""

    proposes = Proposes.SCAN

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
        label_map = nodules_label_map(prediction)
        payload, extension = encode_label_map(label_map, request)
        params = {
            "label_names": label_map.label_names,
            **prediction_params(prediction, versions, request),
            "latencies": latencies(pre=0.0, infer=predicted - started, post=time.perf_counter() - predicted),
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
            **prediction_params(prediction, versions, request),
            "latencies": latencies(pre=0.0, infer=time.perf_counter() - started, post=0.0),
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
        payload, extension = encode_label_map(label_map, request)
        logger.info("lungs on %s: %.1f s", request.case_id or "an uploaded scan", inferred - loaded)
        params = {
            "label_names": label_map.label_names,
            "volume_ml": lungs.volume_ml,
            "latencies": latencies(pre=loaded - started, infer=inferred - loaded, post=time.perf_counter() - inferred),
        }
        return InferReply(params=params, payload=payload, extension=extension)
