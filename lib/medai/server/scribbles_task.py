"""MONAI Label's own scribbles (graph cut), on the region that was drawn on.

The library's tasks read and resample the whole scan with MONAI's dictionary transforms; beside monai 1.6 that fails
("'str' object has no attribute 'update'"), and its fixed 2.5×2.5×5 mm is coarser than a nodule. So its likelihoods
and its graph cut are taken as they are, and given the region of interest at the scan's own spacing, or at the finest
one that keeps the region small enough to answer while the annotator waits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.scribbles.infer import GMMBasedGraphCut, HistogramBasedGraphCut, ScribblesLikelihoodInferTask
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment, Volume
from medai.errors import GeometryError, InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.inference.click_rules import region_of_scan
from medai.preprocessing.resampling import resample_to_grid
from medai.server.click_params import IndexFrame, label_name, number, roi_box
from medai.server.infer_models import ScanSource
from medai.server.infer_request import InferReply, InferRequest, MedaiInferTask, encode_label_map
from medai.volume_io.axes import with_axes_of
from medai.volume_io.readers import ReadBudget, read_label_map

logger = logging.getLogger(__name__)

WINDOW_HU = (-1000.0, 400.0)
MARGIN_MM = 10.0
"""Around the scribbles, where no region is given."""
MOST_LAYERS = 8
"""Times the scan's voxels that a file of scribbles may hold: Slicer writes segments that overlap as layers."""

LARGEST_REGION_VOXELS = 1_000_000
"""The graph cut takes about a second for this many."""
BACKGROUND, FOREGROUND = 2, 3
"""Values of the scribbles inside this module; what the client used is read from ``label_info``."""


class ScribblesTask(MedaiInferTask):
    """One of MONAI Label's graph cuts.

    Args:
        scans: decoded scans.
        method: the library's task, whose likelihood and optimiser are used.
    """

    def __init__(self, scans: ScanSource, method: ScribblesLikelihoodInferTask) -> None:
        super().__init__(
            type=InferType.SCRIBBLES,
            labels=[],
            dimension=3,
            description=str(method.description),
            config=dict(method.config()),
        )
        self._scans = scans
        self._method = method

    def answer(self, request: InferRequest) -> InferReply:
        """Cut foreground from background inside the region."""
        started = time.perf_counter()
        if request.label_path is None:
            raise InputError("Scribbles come as a label map in the part 'label'; this request has none.")
        volume = self._scans.get(request.scan_path, request.case_id)
        # Layers of a segmentation count too; nothing is inflated that could not be the scribbles of this scan.
        budget = ReadBudget(largest_voxels=MOST_LAYERS * math.prod(volume.geometry.shape_ijk))
        drawn = with_axes_of(volume.geometry, read_label_map(request.label_path, budget=budget))
        if not drawn.geometry.is_same_grid(volume.geometry):
            raise GeometryError(
                f"The scribbles have {drawn.geometry.describe()}, the scan has {volume.geometry.describe()}."
            )
        frame = IndexFrame.of_request(volume.geometry, request.params, is_case=bool(request.case_id))
        box, scribbles = _drawn_region(drawn, request.params, frame.box(roi_box(request.params)))
        loaded = time.perf_counter()
        mask = self._cut(volume, scribbles, box, request.params)
        inferred = time.perf_counter()
        name = label_name(request.params, "selected_label_name")
        labels = np.zeros(volume.geometry.shape_ijk, dtype=np.uint8, order="F")
        labels[box.slices] = mask
        label_map = LabelMap(geometry=volume.geometry, labels=labels, segments=(Segment(value=1, name=name),))
        payload, extension = encode_label_map(label_map, request)
        ended = time.perf_counter()
        logger.info("%s on %s: %.1f s", type(self._method).__name__, request.case_id or "an upload", ended - started)
        params = {
            "label_names": {name: 1},
            "latencies": {
                "pre": round(loaded - started, 4),
                "infer": round(inferred - loaded, 4),
                "post": round(ended - inferred, 4),
                "total": round(ended - started, 4),
            },
        }
        return InferReply(params=params, payload=payload, extension=extension)

    def _cut(
        self, volume: Volume, scribbles: NDArray[np.uint8], box: IndexBox, params: Mapping[str, Any]
    ) -> NDArray[np.bool_]:
        """Run the library's likelihood and graph cut on a region; scribbles and answer have the shape of the box."""
        native = volume.geometry.crop(box)
        working = _working_grid(native)
        image_hu = resample_to_grid(volume.image_hu[box.slices], native, working)
        low_hu, high_hu = WINDOW_HU
        image = np.clip((image_hu - low_hu) / (high_hu - low_hu), 0, 1).astype(np.float32)
        data: dict[str, Any] = {
            "image": image[None],
            "label": _onto(scribbles, native, working)[None].astype(np.float32),
            "label_info": [
                {"name": "background_scribbles", "id": BACKGROUND},
                {"name": "foreground_scribbles", "id": FOREGROUND},
            ],
            "lamda": number(params, "lamda", self._method.lamda, low=0.0, high=1000.0),
            "sigma": number(params, "sigma", self._method.sigma, low=1e-6, high=1000.0),
        }
        for key, high in (("num_bins", 1024), ("num_mixtures", 32)):
            if key in self.config():
                data[key] = int(number(params, key, self.config()[key], low=2, high=high))
        data = self._method.inferer(data)(data)
        # The third transform writes the answer back to the file it came from; ours came from memory.
        for transform in self._method.post_transforms(data)[:2]:
            data = transform(data)
        answer = np.asarray(data["pred"]).reshape(working.shape_ijk).astype(np.float32)
        if working is native:
            return answer > 0.5
        return resample_to_grid(answer, working, native) > 0.5


def scribbles_tasks(scans: ScanSource) -> dict[str, ScribblesTask]:
    """The graph cuts that this machine can run; the one on Gaussian mixtures is compiled for CUDA at its first use."""
    window = (*WINDOW_HU, 0.0, 1.0, True)
    tasks = {"Histogram+GraphCut": ScribblesTask(scans, HistogramBasedGraphCut(intensity_range=window))}
    if _can_compile_for_cuda():
        tasks["GMM+GraphCut"] = ScribblesTask(scans, GMMBasedGraphCut(intensity_range=window))
    return tasks


def _can_compile_for_cuda() -> bool:
    import torch

    if not torch.cuda.is_available():
        return False
    from torch.utils.cpp_extension import CUDA_HOME

    return CUDA_HOME is not None


def _drawn_region(
    drawn: LabelMap, params: Mapping[str, Any], roi: IndexBox | None
) -> tuple[IndexBox, NDArray[np.uint8]]:
    """The region to cut and what was drawn in it, with one voxel of background around it where the scan goes on."""
    whole = IndexBox.of_shape(drawn.geometry.shape_ijk)
    values = _scribble_values(params)
    if roi is None:
        used = IndexBox.of_mask(drawn.labels) or whole
        marked = IndexBox.of_mask(np.isin(drawn.labels[used.slices], list(values)))
        if marked is not None:
            margin = [int(np.ceil(MARGIN_MM / s)) for s in drawn.geometry.spacing_mm]
            roi = marked.shift(used.start_ijk).expand(margin)
    roi = region_of_scan(drawn.geometry, roi)
    box = roi.expand((1, 1, 1)).intersect(whole)
    labels = drawn.labels[box.slices]
    scribbles = np.zeros(box.shape_ijk, dtype=np.uint8)
    for value, kind in values.items():
        scribbles[labels == value] = kind
    inside = roi.shift([-n for n in box.start_ijk]).slices
    if not np.any(scribbles[inside] == FOREGROUND):
        raise InputError("There is no foreground scribble in the region: draw inside the nodule with that brush.")
    rim = np.ones(box.shape_ijk, dtype=bool)
    rim[inside] = False
    scribbles[rim] = BACKGROUND
    return box, scribbles


def _scribble_values(params: Mapping[str, Any]) -> dict[Any, int]:
    """The label map's values of the two scribbles, to ``BACKGROUND`` and ``FOREGROUND``."""
    kinds = {"background_scribbles": BACKGROUND, "foreground_scribbles": FOREGROUND}
    values: dict[str, Any] = dict(kinds)
    given = params.get("label_info") or []
    if not isinstance(given, list) or not all(isinstance(entry, Mapping) for entry in given):
        raise InputError(f"'label_info' is {given!a:.120}; it takes [{{'name': 'foreground_scribbles', 'id': 3}}, …].")
    for entry in given:
        if entry.get("name") in kinds:
            values[entry["name"]] = entry.get("id", entry.get("idx"))
    if not all(isinstance(value, int) for value in values.values()):
        raise InputError(f"'label_info' is {given!a:.120}; an 'id' is the scribbles' voxel value, a whole number.")
    return {value: kinds[name] for name, value in values.items()}


def _working_grid(native: VolumeGeometry) -> VolumeGeometry:
    """The region's own grid, or an evenly coarser one where that has too many voxels."""
    voxels = int(np.prod(native.shape_ijk))
    if voxels <= LARGEST_REGION_VOXELS:
        return native
    spacing_mm = float((native.voxel_volume_mm3 * voxels / LARGEST_REGION_VOXELS) ** (1 / 3))
    return native.resampled([max(spacing_mm, s) for s in native.spacing_mm])


def _onto(scribbles: NDArray[np.uint8], native: VolumeGeometry, working: VolumeGeometry) -> NDArray[np.uint8]:
    """Each drawn voxel onto the voxel of the working grid that it lies in; foreground wins."""
    if working is native:
        return scribbles
    target = np.zeros(working.shape_ijk, dtype=np.uint8)
    for value in (BACKGROUND, FOREGROUND):
        index = np.rint(working.ras_to_ijk(native.ijk_to_ras(np.argwhere(scribbles == value)))).astype(int)
        index = np.clip(index, 0, np.array(working.shape_ijk) - 1)
        target[tuple(index.T)] = value
    return target
