"""Which models answer: those a study has trained, else the starter models of the package."""

from __future__ import annotations

import logging
from pathlib import Path

from medai.errors import MedaiError
from medai.registry.keep_policy import DEFAULT_KEEP
from medai.registry.model_registry import ModelRegistry
from medai.store.layout import engines_folder, models_folder, user_state_folder

logger = logging.getLogger(__name__)


def open_registry(studies: Path | None, *, keep: int = DEFAULT_KEEP, keep_mb: float | None = None) -> ModelRegistry:
    """Open the model registry of a study.

    Args:
        studies: study folder, or None for the starter models alone.
        keep: versions kept on disk a task; only a publish removes any.
        keep_mb: megabytes they may take together; None: no limit.

    Returns:
        The registry; it falls back to the packaged starter model of a task where the study has none of its own.
    """
    folder = models_folder(studies) if studies is not None else user_state_folder() / "models"
    return ModelRegistry(folder, keep=keep, keep_mb=keep_mb)


def convert_ahead(weights_path: Path, *, device: str = "auto", cache_folder: Path | None = None) -> None:
    """Convert a model's networks for this machine and keep them, so that the first request does not wait for it.

    Converted networks are kept by their weights' digest: a copy of the file finds them. What cannot be converted is
    told in the log; whoever loads the weights then runs them by torch, or says why not.

    Args:
        weights_path: of one network or of several parts.
        device: "auto", "cpu" or "cuda"; nothing is converted for a GPU.
        cache_folder: where they are kept; None: this user's.
    """
    from medai.networks.checkpoint import read_config
    from medai.networks.engine import load_engine

    try:
        parts = list(read_config(weights_path).get("parts", {})) or [None]
        for part in parts:
            load_engine(weights_path, part=part, device=device, cache_folder=cache_folder or engines_folder())
    except MedaiError as error:
        logger.warning("The networks in %s are not converted ahead: %s", weights_path.name, error)
