"""One scan from file to answer: by a click, or whole.

Reading, the model that answers and writing are joined here; each is a line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medai.domain import LabelMap, Nodule, Prediction, Segment, Volume
from medai.errors import InputError, ModelError
from medai.geometry import IndexBox

if TYPE_CHECKING:
    from medai.inference.scan import ScanConfig, ScanPipeline
    from medai.networks.engine import Engine

CLICK_TASK = "nodule_click"
DETECTION_TASK = "nodule_detection"
CLASSIFICATION_TASK = "nodule_classification"

_log = logging.getLogger(__name__)


class Model(Protocol):
    """A version of a model."""

    @property
    def version_id(self) -> str:
        """Its name."""
        ...

    @property
    def weights_path(self) -> Path:
        """Its safetensors file."""
        ...


class Registry(Protocol):
    """Knows which model answers: ``medai.registry.model_registry.ModelRegistry``."""

    def champion(self, task: str) -> Model:
        """The version of a task that answers now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOutcome:
    """The answer to a whole scan.

    Attributes:
        prediction: measured nodules.
        label_map: one segment a nodule, in the prediction's order.
    """

    prediction: Prediction
    label_map: LabelMap

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        prediction = self.prediction
        return {
            "nodules": [
                _nodule_json(nodule, segment)
                for nodule, segment in zip(prediction.nodules, self.label_map.segments, strict=True)
            ],
            "model_versions": prediction.model_versions,
            "seconds": {stage: round(seconds, 4) for stage, seconds in prediction.stage_seconds.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickOutcome(ScanOutcome):
    """The answer to clicks on one nodule: a prediction of that nodule alone."""

    @property
    def nodule(self) -> Nodule:
        """The nodule clicked on, measured."""
        return self.prediction.nodules[0]


def infer_click(
    path: Path,
    *,
    foreground_ijk: Sequence[tuple[int, int, int]],
    background_ijk: Sequence[tuple[int, int, int]] = (),
    roi: IndexBox | None = None,
    registry: Registry,
    out: Path | None = None,
    read: Callable[[Path], Volume] | None = None,
    device: str = "auto",
    cache_folder: Path | None = None,
) -> ClickOutcome:
    """Outline the nodule at one or several points of a scan.

    Args:
        path: a scan file or a DICOM folder.
        foreground_ijk: voxels inside the nodule.
        background_ijk: voxels outside.
        roi: nothing outside it is segmented.
        registry: says which weights answer.
        out: where to write the label map; None writes none.
        read: decodes the scan (a scan cache's ``get``); None reads the file.
        device: see ``medai.networks.engine.load_engine``.
        cache_folder: where converted networks are kept; None converts each time.

    Raises:
        InputError: the scan or a point cannot be used, or nothing was found at the points.
        ModelError: the weights cannot be used.
    """
    from medai.inference.click import ClickSegmenter
    from medai.networks.engine import load_engine
    from medai.postprocessing.nodules import nodule_from_mask

    volume = _read(path, read)
    model = registry.champion(CLICK_TASK)
    segmenter = ClickSegmenter(load_engine(model.weights_path, device=device, cache_folder=cache_folder))
    result = segmenter.segment(volume, foreground_ijk=foreground_ijk, background_ijk=background_ijk, roi=roi)
    if not result.mask.any():
        raise InputError(f"Nothing was found at {list(foreground_ijk)}: click inside the nodule.")
    nodule = nodule_from_mask(volume, result.box, result.mask, probability=1.0)
    prediction = Prediction(
        case_id=volume.case_id,
        geometry=volume.geometry,
        nodules=(nodule,),
        model_versions={CLICK_TASK: model.version_id},
        stage_seconds=dict(result.seconds),
    )
    return ClickOutcome(prediction=prediction, label_map=_written(prediction, out))


def infer_scan(
    path: Path,
    *,
    registry: Registry,
    out: Path | None = None,
    read: Callable[[Path], Volume] | None = None,
    device: str = "auto",
    cache_folder: Path | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ScanOutcome:
    """Find and outline the nodules of a scan.

    Args:
        path: a scan file or a DICOM folder.
        registry: says which weights answer.
        out: where to write the label map; None writes none.
        read: decodes the scan (a scan cache's ``get``); None reads the file.
        device: see ``medai.networks.engine.load_engine``.
        cache_folder: where converted networks are kept; None converts each time.
        on_progress: told the share of the work done, 0–1.
        should_stop: asked between steps.

    Raises:
        InputError: the scan cannot be used.
        ModelError: the weights cannot be used.
        CancelledByUserError: ``should_stop`` said so.
    """
    volume = _read(path, read)
    pipeline = load_pipeline(registry, device=device, cache_folder=cache_folder)
    prediction = pipeline.predict(volume, on_progress=on_progress, should_stop=should_stop)
    return write_outcome(prediction, out)


def write_outcome(prediction: Prediction, out: Path | None) -> ScanOutcome:
    """A prediction as an answer, its label map written where a path is given."""
    return ScanOutcome(prediction=prediction, label_map=_written(prediction, out))


def load_pipeline(
    registry: Registry,
    *,
    device: str = "auto",
    cache_folder: Path | None = None,
    wrap: Callable[[Engine], Engine] = lambda engine: engine,
    config: ScanConfig | None = None,
    from_all_sides: bool = False,
) -> ScanPipeline:
    """The whole-scan pipeline of the present champions.

    Args:
        registry: says which weights answer.
        device: see ``medai.networks.engine.load_engine``.
        cache_folder: where converted networks are kept; None converts at every load.
        wrap: put around each engine, to time it.
        config: what becomes a nodule; None: what an annotator is shown.
        from_all_sides: outline in all mirrored views, whose differences tell what is doubtful.
    """
    from medai.inference.classify import NoduleClassifier
    from medai.inference.click import ClickSegmenter
    from medai.inference.detect import load_detector
    from medai.inference.scan import ScanPipeline
    from medai.networks.committee import load_committee
    from medai.networks.engine import load_engine

    detection, click = registry.champion(DETECTION_TASK), registry.champion(CLICK_TASK)
    versions = {DETECTION_TASK: detection.version_id, CLICK_TASK: click.version_id}
    classifier = None
    try:
        rating = registry.champion(CLASSIFICATION_TASK)
        engine = load_engine(rating.weights_path, device=device, cache_folder=cache_folder)
        classifier = NoduleClassifier.of_checkpoint(wrap(engine))
        versions[CLASSIFICATION_TASK] = rating.version_id
    except ModelError as error:
        _log.warning("Nodules are not rated: %s", error)
    outliner = ClickSegmenter(wrap(load_committee(click.weights_path, device=device, cache_folder=cache_folder)))
    return ScanPipeline(
        load_detector(detection.weights_path, device=device, cache_folder=cache_folder, wrap=wrap),
        outliner.from_all_sides() if from_all_sides else outliner,
        config,
        versions,
        classifier=classifier,
    )


def _read(path: Path, read: Callable[[Path], Volume] | None) -> Volume:
    if read is not None:
        return read(path)
    from medai.volume_io.plausibility import read_chest_ct

    return read_chest_ct(path)


def _written(prediction: Prediction, out: Path | None) -> LabelMap:
    """The prediction as a label map, on disk where a path is given."""
    from medai.postprocessing.nodules import prediction_to_label_map
    from medai.volume_io.writers import write_label_map

    label_map = prediction_to_label_map(prediction)
    if out is not None:
        write_label_map(label_map, out)
    return label_map


def _nodule_json(nodule: Nodule, segment: Segment) -> dict[str, Any]:
    """What is known of a nodule, JSON-ready."""
    rated = nodule.assessment
    malignancy = None if rated is None else rated.malignancy
    return {
        "segment": segment.name,
        "value": segment.value,
        "centre_ras_mm": [round(c, 2) for c in nodule.centre_ras_mm],
        "diameter_mm": nodule.diameter_mm,
        "volume_mm3": round(nodule.volume_mm3, 1),
        "kind": str(nodule.kind),
        "side": nodule.side,
        "probability": round(nodule.probability, 4),
        "malignancy": None if malignancy is None else round(malignancy.value, 4),
        "malignancy_interval": None if malignancy is None else [round(malignancy.low, 4), round(malignancy.high, 4)],
        "ratings": {} if rated is None else {name: round(value, 2) for name, value in rated.ratings.items()},
    }
