"""Weights on disk: safetensors, with everything needed to rebuild and use the network as JSON in its header.

No pickle: a weights file that a user drops into a study must not be able to run code. Reading needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import ModelError, StorageError
from medai.volume_io.atomic import atomic_path

_CONFIG_KEY = "medai_config"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A network's weights and how to use them.

    Attributes:
        config: ``network`` (a name of ``medai.networks.factory.NETWORKS``), ``network_options`` (its arguments),
            ``task``, and what the task needs to know of the network's input (patch shape, spacing …).
        tensors: weights by name, as in torch's ``state_dict``.
    """

    config: dict[str, Any]
    tensors: dict[str, NDArray[np.generic]]


def save_checkpoint(path: Path, tensors: Mapping[str, NDArray[np.generic]], config: Mapping[str, Any]) -> None:
    """Write weights atomically: a reader sees the old file or the new one, never a part.

    Args:
        path: ends in .safetensors; the folder is made.
        tensors: numpy arrays (``{name: tensor.numpy()}`` of a ``state_dict``); float16 halves the file.
        config: must hold ``network`` and be JSON.

    Raises:
        ModelError: a weight is not finite, or the config names no network.
        StorageError: the file cannot be written.
    """
    from safetensors.numpy import save

    if "network" not in config:
        raise ModelError(f"A checkpoint's config must name its network, this one has only {sorted(config)}.")
    broken = [name for name, tensor in tensors.items() if not np.all(np.isfinite(tensor))]
    if broken:
        raise ModelError(
            f"Weights with NaN or infinity are not saved: {broken[:3]}. The training diverged; lower its rate."
        )
    packed = save(
        {name: np.array(tensor, order="C") for name, tensor in tensors.items()},
        metadata={_CONFIG_KEY: json.dumps(dict(config))},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {path.parent} could not be made: {error}.") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed)


def save_parts(path: Path, parts: Mapping[str, Checkpoint], config: Mapping[str, Any]) -> None:
    """Write several networks that work together into one file, so that they are published and rolled back together.

    Args:
        path: as for ``save_checkpoint``.
        parts: each network's weights and config by the part's name, which holds no dot.
        config: of the whole; it names the whole as its ``network``.

    Raises:
        ModelError: see ``save_checkpoint``.
        StorageError: the file cannot be written.
    """
    tensors = {f"{part}.{name}": t for part, checkpoint in parts.items() for name, t in checkpoint.tensors.items()}
    save_checkpoint(path, tensors, {**config, "parts": {part: stored.config for part, stored in parts.items()}})


def load_checkpoint(path: Path, *, part: str | None = None) -> Checkpoint:
    """Read weights and config.

    Args:
        path: written by ``save_checkpoint`` or ``save_parts``.
        part: one network of several; None where the file holds one alone. The members of an ensemble are its parts
            "members.0", "members.1" …

    Raises:
        ModelError: the file is missing, damaged, not one of ours, or has no such part.
    """
    with _open(path) as stored:
        config = _part_of(_config_of(stored.metadata(), path), part, path)
        prefix = "" if part is None else f"{part}."
        names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118  # no mapping
        return Checkpoint(config=config, tensors={name[len(prefix) :]: stored.get_tensor(name) for name in names})


def read_config(path: Path, *, part: str | None = None) -> dict[str, Any]:
    """Read the config alone; the weights stay on disk."""
    with _open(path) as stored:
        return _part_of(_config_of(stored.metadata(), path), part, path)


def weights_digest(path: Path) -> str:
    """SHA-256 of the file, hexadecimal: the same weights have the same digest wherever they lie."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"There are no weights at {path} that can be read ({error.strerror}).") from error
    return digest.hexdigest()


def _open(path: Path) -> Any:
    """Open a safetensors file for reading as numpy."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(
            f"There are no weights at {path}: train a model, or reinstall medai to get the starter weights."
        )
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}): train again or roll back.") from error


def _config_of(metadata: dict[str, str] | None, path: Path) -> dict[str, Any]:
    """The config in a file's metadata."""
    try:
        config = json.loads((metadata or {})[_CONFIG_KEY])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} holds weights without medai's config: it was not written by medai.") from error
    if not isinstance(config, dict) or "network" not in config:
        raise ModelError(f"The config in {path} names no network.")
    return config


def _part_of(config: dict[str, Any], part: str | None, path: Path) -> dict[str, Any]:
    """The config of one network of several, or the whole."""
    if part is None:
        return config
    parts = _members(config) if config["network"] == "ensemble" else config.get("parts", {})
    if part not in parts:
        raise ModelError(f"{path} has no part '{part}'; it has {', '.join(parts) or 'none'}.")
    found: dict[str, Any] = parts[part]
    return found


def _members(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config of each member of an ensemble, as if it were alone."""
    options = config["network_options"]
    return {f"members.{number}": {**config, **options["member"]} for number in range(int(options["count"]))}
