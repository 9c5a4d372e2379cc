"""Which models answer: those a study has trained, else the starter models of the package."""

from __future__ import annotations

from pathlib import Path

from medai.registry.model_registry import ModelRegistry
from medai.store.layout import models_folder, user_state_folder


def open_registry(studies: Path | None) -> ModelRegistry:
    """Open the model registry of a study.

    Args:
        studies: study folder, or None for the starter models alone.

    Returns:
        The registry; it falls back to the packaged starter model of a task where the study has none of its own.
    """
    return ModelRegistry(models_folder(studies) if studies is not None else user_state_folder() / "models")
