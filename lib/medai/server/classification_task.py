"""``nodule_classification``: the nodules that are there, rated.

3D Slicer's plugin has no place for a class, and sends no label with an Auto Segmentation request. So the nodules are
those of the label that came with the request (other clients), else of the case's submitted label, else of the
proposal; each comes back as a segment whose name says size, kind, side and malignancy, and the parameters hold the
whole assessment. Slicer adds the segments beside those that are there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from monailabel.interfaces.tasks.infer_v2 import InferType

from medai.domain import LabelMap, Nodule, Prediction, Volume
from medai.postprocessing.nodules import ratings_in_name
from medai.server.infer_models import ScanSource
from medai.server.infer_request import InferReply, InferRequest, MedaiInferTask, encode_label_map
from medai.server.nodule_table import latencies, prediction_params
from medai.server.scan_tasks import ScanPredictions, nodules_label_map
from medai.volume_io.scan_labels import read_scan_label
from medai.workflows.classify_case import NoduleAssessor, outlined_nodules, rate_nodules

logger = logging.getLogger(__name__)


class NoduleClassificationTask(MedaiInferTask):
    """Rates the nodules of a label, or of the proposal where there is no label.

    Args:
        scans: decoded scans.
        predictions: proposes nodules where no label says where they are.
        submitted: the label a case was submitted with, None where it has none.
        model: gives the present version and the classifier, at each request.
    """

    def __init__(
        self,
        scans: ScanSource,
        predictions: ScanPredictions,
        submitted: Callable[[str], LabelMap | None],
        model: Callable[[], tuple[str, NoduleAssessor]],
    ) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={"nodule": 1},
            dimension=3,
            description="Rates the nodules of the submitted label, else of the proposal: malignancy in each segment's "
            "name",
        )
        self._scans = scans
        self._predictions = predictions
        self._submitted = submitted
        self._model = model

    def answer(self, request: InferRequest) -> InferReply:
        """Find the nodules, rate them, and answer as a label map on the scan's grid."""
        started = time.perf_counter()
        version_id, classifier = self._model()
        volume = self._scans.get(request.scan_path, request.case_id)
        loaded = time.perf_counter()
        source, label_map = self._label(request, volume)
        names: Sequence[str] = ()
        versions: dict[str, str] = {}
        if label_map is not None:
            outlined = outlined_nodules(volume, label_map)
            nodules: Sequence[Nodule] = [found.nodule for found in outlined]
            names = [found.segment for found in outlined]
        else:
            proposal, versions = self._predictions.get(request)
            nodules = proposal.nodules
        rated = Prediction(
            case_id=request.case_id, geometry=volume.geometry, nodules=tuple(rate_nodules(volume, nodules, classifier))
        )
        inferred = time.perf_counter()
        label_map = nodules_label_map(rated)
        payload, extension = encode_label_map(label_map, request)
        logger.info(
            "nodule_classification %s on %s: %d nodules of the %s, %.2f s",
            version_id,
            request.case_id or "an uploaded scan",
            len(rated.nodules),
            source,
            inferred - loaded,
        )
        params = {
            "label_names": label_map.label_names,
            **prediction_params(rated, {**versions, "nodule_classification": version_id}, request),
            "nodules_of": source,
            "latencies": latencies(pre=loaded - started, infer=inferred - loaded, post=time.perf_counter() - inferred),
        }
        for row, name in zip(params["nodules"], names, strict=False):
            row |= {"segment": name, "typed_ratings": ratings_in_name(name)}
        return InferReply(params=params, payload=payload, extension=extension)

    def _label(self, request: InferRequest, volume: Volume) -> tuple[str, LabelMap | None]:
        """Where the nodules come from, in a word, and the label they are in; None: the proposal."""
        if request.label_path is not None:
            sent = read_scan_label(request.label_path, volume.geometry, request.params)
            return "label that was sent", sent.label_map
        submitted = self._submitted(request.case_id) if request.case_id else None
        return ("proposal", None) if submitted is None else ("submitted label", submitted)
