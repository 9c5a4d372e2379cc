"""What runs a network: OpenVINO on the CPU, torch on a GPU, chosen once when the weights are loaded.

On the CPU, OpenVINO answers a click two to four times faster than torch at the same float32 numbers. The conversion is
checked against torch and refused where the logits differ by more than ``PARITY_LOGITS``; torch then runs instead. A
converted network is kept in a cache folder under the digest of its weights, so that later starts import no torch.

Threads: an engine may be called from any number of threads; each has its own OpenVINO request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError
from medai.networks.checkpoint import load_checkpoint, read_config, weights_digest

if TYPE_CHECKING:
    from torch import nn

PARITY_LOGITS = 1e-3
"""Largest difference of a logit between torch and OpenVINO that still counts as the same network."""
MAX_THREADS = 8
"""Patches of 48³ voxels gain nothing from more, and the server has other work to do."""
DEVICES = ("auto", "cpu", "cuda")
ABANDONED_AFTER_S = 3600.0
"""A conversion takes seconds."""
_CONVERTING = ".converting-"

_log = logging.getLogger(__name__)

# OpenVINO reports its use to its maker when it is imported and at every conversion, from a forked process: nothing of
# ours may leave the machine, and among threads that fork can hang for ever. Where this package is missing OpenVINO
# falls back to a stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: absent


class Engine(Protocol):
    """A loaded network."""

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config."""
        ...

    @property
    def description(self) -> str:
        """Backend and device in words: "OpenVINO on CPU, 2 threads"."""
        ...

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn a batch [N, C, D1, D2, D3] into logits, float32."""
        ...


class OpenVinoEngine:
    """A network compiled by OpenVINO for the CPU."""

    def __init__(self, model: Any, config: dict[str, Any], threads: int) -> None:
        import openvino

        self._compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                # Pinned to the first cores, a network waits behind whatever else runs on them: on a busy machine five
                # times as long as when the system may place its threads.
                "ENABLE_CPU_PINNING": False,
                # Without it newer CPUs silently compute in bfloat16, which is no parity.
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
        self._local = threading.local()
        self._config = config
        self._threads = threads

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config."""
        return self._config

    @property
    def description(self) -> str:
        """Backend and device in words."""
        return f"OpenVINO on CPU, {self._threads} threads"

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn a batch [N, C, D1, D2, D3] into logits, float32."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        results = request.infer([np.ascontiguousarray(batch, dtype=np.float32)])
        return np.array(results[0], dtype=np.float32)


class TorchEngine:
    """A network run by torch itself."""

    def __init__(self, network: nn.Module, config: dict[str, Any], device: str) -> None:
        import torch

        self._network = network.eval().to(device)
        self._network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
        self._config = config
        self._device = device

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config."""
        return self._config

    @property
    def description(self) -> str:
        """Backend and device in words."""
        return f"torch on {self._device}"

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn a batch [N, C, D1, D2, D3] into logits, float32."""
        import torch

        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32)).to(self._device)
            logits = self._network(tensor.contiguous(memory_format=torch.channels_last_3d))
        return np.ascontiguousarray(logits.float().cpu().numpy())


def load_engine(
    checkpoint_path: Path,
    *,
    part: str | None = None,
    device: str = "auto",
    cache_folder: Path | None = None,
    threads: int | None = None,
) -> Engine:
    """Load weights into the fastest engine this machine has.

    Args:
        checkpoint_path: written by ``save_checkpoint`` or ``save_parts``.
        part: which network of a file that holds several.
        device: "auto" takes CUDA where there is one, else the CPU; "cpu"; "cuda".
        cache_folder: where converted networks are kept; None converts at every load.
        threads: CPU threads; by default OMP_NUM_THREADS, which Ray sets to a worker's share of its machine, else those
            of the process; at most ``MAX_THREADS``.

    Raises:
        ModelError: the weights are missing, damaged or do not fit their network.
        InputError: the device is unknown or not there.
    """
    if device not in DEVICES:
        raise InputError(f"Device '{device}' is unknown: choose one of {', '.join(DEVICES)}.")
    threads = max(1, min(threads or _usual_threads(), MAX_THREADS))
    if device == "cuda" or (device == "auto" and _may_have_cuda()):
        engine = _load_on_cuda(checkpoint_path, part, required=device == "cuda")
        if engine is not None:
            return engine
    return _load_on_cpu(checkpoint_path, part, cache_folder, threads)


def _usual_threads() -> int:
    share = os.environ.get("OMP_NUM_THREADS", "")
    return int(share) if share.isdigit() and int(share) else len(os.sched_getaffinity(0))


def _may_have_cuda() -> bool:
    """True where an NVIDIA driver is loaded: asked of the system, because asking torch means importing it."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def _load_on_cuda(checkpoint_path: Path, part: str | None, *, required: bool) -> Engine | None:
    """A torch engine on the GPU, or None where there is none and none was asked for."""
    import torch

    from medai.networks.factory import restore_network

    if not torch.cuda.is_available():
        if required:
            raise InputError("Device 'cuda' was asked for, but torch finds no usable GPU: choose 'cpu' or 'auto'.")
        return None
    checkpoint = load_checkpoint(checkpoint_path, part=part)
    return TorchEngine(restore_network(checkpoint), checkpoint.config, "cuda")


def _load_on_cpu(checkpoint_path: Path, part: str | None, cache_folder: Path | None, threads: int) -> Engine:
    """OpenVINO from the cache or newly converted; torch where the conversion is not the same network."""
    cached = _cached_model_folder(checkpoint_path, part, cache_folder)
    if cached is not None and (cached / "model.xml").is_file():
        try:
            import openvino

            model = openvino.Core().read_model(cached / "model.xml")
            return OpenVinoEngine(model, read_config(checkpoint_path, part=part), threads)
        except (ImportError, RuntimeError) as error:
            _log.warning("The converted network in %s is unusable (%s): converting again.", cached, error)
            shutil.rmtree(cached, ignore_errors=True)
    from medai.networks.factory import restore_network

    checkpoint = load_checkpoint(checkpoint_path, part=part)
    network = restore_network(checkpoint)
    try:
        model = _convert(network, checkpoint.config)
        engine = OpenVinoEngine(model, checkpoint.config, threads)
        difference = _largest_difference(engine, network, checkpoint.config)
    except (ImportError, RuntimeError) as error:
        _log.warning("OpenVINO cannot run %s (%s): torch runs it, slower.", checkpoint_path.name, error)
        return TorchEngine(network, checkpoint.config, "cpu")
    if not difference <= PARITY_LOGITS:
        _log.warning(
            "OpenVINO's logits for %s differ from torch's by %.2g (at most %g is accepted): torch runs it, slower.",
            checkpoint_path.name, difference, PARITY_LOGITS,
        )  # fmt: skip
        return TorchEngine(network, checkpoint.config, "cpu")
    if cached is not None:
        _keep(model, cached)
    return engine


def _cached_model_folder(checkpoint_path: Path, part: str | None, cache_folder: Path | None) -> Path | None:
    """Where these weights' converted network belongs: named by their digest and OpenVINO's version."""
    if cache_folder is None:
        return None
    from importlib.metadata import version

    name = f"{weights_digest(checkpoint_path)[:24]}-{part}" if part else weights_digest(checkpoint_path)[:24]
    return cache_folder / f"{name}-openvino-{version('openvino')}"


def _example(config: dict[str, Any]) -> NDArray[np.float32]:
    """A batch of one like the network's real input: its patch shape, values within -1…1."""
    channels = int(config.get("network_options", {}).get("channels_in", 3))
    shape = (1, channels, *config.get("patch_shape", (48, 48, 48)))
    return np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)


def _convert(network: nn.Module, config: dict[str, Any]) -> Any:
    """Convert a torch network to an OpenVINO model with any batch and patch size."""
    import openvino
    import torch

    example = torch.from_numpy(_example(config))
    with torch.no_grad():
        return openvino.convert_model(network, example_input=example, input=[-1, example.shape[1], -1, -1, -1])


def _largest_difference(engine: Engine, network: nn.Module, config: dict[str, Any]) -> float:
    """The largest absolute difference of a logit between an engine and torch."""
    import torch

    example = _example(config)
    with torch.inference_mode():
        expected = network(torch.from_numpy(example)).numpy()
    return float(np.max(np.abs(engine.run(example) - expected)))


def _keep(model: Any, folder: Path) -> None:
    """Write a converted model into its cache folder; it appears there whole or not at all."""
    import openvino

    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_CONVERTING))
        openvino.save_model(model, temporary / "model.xml", compress_to_fp16=False)
        for path in temporary.iterdir():
            # A power cut after the rename must not leave weights of the right length without their content.
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if not folder.is_dir():
            temporary.rename(folder)
    except (OSError, RuntimeError) as error:
        # OpenVINO answers a full disk with a RuntimeError. Where another process was first, its copy is the same.
        if not folder.is_dir():
            _log.warning(
                "The converted network could not be kept in %s (%s): the next start converts again. Is the disk full?",
                folder,
                error,
            )
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while they converted have left."""
    for leftover in folder.glob(f"{_CONVERTING}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(leftover, ignore_errors=True)
