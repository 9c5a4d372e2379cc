"""Model versions on disk with their cards and verdicts: atomic publish, rollback, and always one good champion."""

from medai.registry.model_registry import ModelRegistry
from medai.registry.version_files import STARTER, ModelVersion

__all__ = ["STARTER", "ModelRegistry", "ModelVersion"]
