"""``medai bench scan``: how long a whole scan takes from file to label map, and where the time goes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medai.errors import InputError
from medai.registry.model_registry import ModelRegistry
from medai.workflows.models import open_registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medai.domain import Prediction
    from medai.inference.scan import ScanPipeline
    from medai.networks.engine import Engine

FULL_SHAPE_IJK = (512, 512, 300)


class TimedEngine:
    """An engine that adds up the time spent in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds = 0.0

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config."""
        return self._engine.config

    @property
    def description(self) -> str:
        """What runs the network."""
        return self._engine.description

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network."""
        begun = time.perf_counter()
        answer = self._engine.run(batch)
        self.seconds += time.perf_counter() - begun
        return answer


def bench_scan(
    image: Path | None = None,
    *,
    registry: ModelRegistry | None = None,
    shape_ijk: tuple[int, int, int] = FULL_SHAPE_IJK,
    device: str = "auto",
) -> dict[str, Any]:
    """Time one whole scan with loaded models, as a running server answers it: found, outlined and rated.

    Args:
        image: a scan; None makes a phantom.
        registry: the models; None: the user's own, else the packaged ones.
        shape_ijk: voxels of the phantom.
        device: see ``medai.networks.engine.load_engine``.

    Returns:
        ``total_s`` (the sum of the stages), ``network_s`` (spent in the networks, part of three stages),
        ``outside_networks_s`` (the rest), ``stages`` ("decode", "lungs", "candidates", "outline", "classify" where
        there are weights for it, "encode", seconds), ``first_total_s`` (of a first answer, which loads libraries that
        a running server has loaded), ``load_s`` (models, once a server), ``nodules`` found and ``voxels``.

    Raises:
        InputError: there is no such file.
        ModelError: there are no weights.
    """
    if image is not None and not image.exists():
        raise InputError(f"There is no scan {image}: give a file, or no image for a phantom.")
    with tempfile.TemporaryDirectory(prefix="medai-bench-") as temporary:
        scan_path = image or _make_phantom_scan(Path(temporary), shape_ijk)
        return _time_scan(scan_path, registry or open_registry(None), device)


def _time_scan(scan_path: Path, registry: ModelRegistry, device: str) -> dict[str, Any]:
    from medai.workflows.infer_case import load_pipeline

    begun = time.perf_counter()
    timed: list[TimedEngine] = []

    def wrap(engine: Engine) -> TimedEngine:
        timed.append(TimedEngine(engine))
        return timed[-1]

    pipeline = load_pipeline(registry, device=device, wrap=wrap)
    load_s = time.perf_counter() - begun
    first, _ = _answer(scan_path, pipeline)
    for engine in timed:
        engine.seconds = 0.0
    stages, prediction = _answer(scan_path, pipeline)
    total_s, network_s = sum(stages.values()), sum(engine.seconds for engine in timed)
    return {
        "total_s": total_s,
        "network_s": network_s,
        "outside_networks_s": total_s - network_s,
        "stages": stages,
        "first_total_s": sum(first.values()),
        "load_s": load_s,
        "nodules": len(prediction.nodules),
        "voxels": int(np.prod(prediction.geometry.shape_ijk)),
    }


def _answer(scan_path: Path, pipeline: ScanPipeline) -> tuple[dict[str, float], Prediction]:
    """From file to label map: the seconds of each stage, and what was found."""
    from medai.postprocessing.nodules import prediction_to_label_map
    from medai.volume_io.readers import read_volume
    from medai.volume_io.writers import encode_label_map_nrrd

    begun = time.perf_counter()
    volume = read_volume(scan_path)
    decode_s = time.perf_counter() - begun
    prediction = pipeline.predict(volume)
    begun = time.perf_counter()
    encode_label_map_nrrd(prediction_to_label_map(prediction))
    return {"decode": decode_s, **prediction.stage_seconds, "encode": time.perf_counter() - begun}, prediction


def _make_phantom_scan(folder: Path, shape_ijk: tuple[int, int, int]) -> Path:
    from medai.phantom import PhantomConfig, make_phantom
    from medai.volume_io.writers import write_volume

    # Spacing that shows a whole chest whatever the number of voxels.
    spacing_mm = tuple(extent_mm / count for extent_mm, count in zip((350.0, 350.0, 300.0), shape_ijk, strict=True))
    config = PhantomConfig(shape_ijk=shape_ijk, spacing_mm=(spacing_mm[0], spacing_mm[1], spacing_mm[2]))
    path = folder / "phantom.nii.gz"
    write_volume(make_phantom(config, np.random.default_rng(1)).volume, path)
    return path
