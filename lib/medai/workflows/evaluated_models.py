"""Which model an evaluation judges: a study's champion, the packaged starter, or a weights file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai.errors import InputError
from medai.registry.version_files import WEIGHTS_FILE, sha256_of
from medai.workflows.models import open_registry

if TYPE_CHECKING:
    from medai.inference.classify import NoduleClassifier
    from medai.inference.click import ClickSegmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModel:
    """The weights that are judged.

    Attributes:
        task: what they do.
        version_id: their name: a version's id, or the file's name.
        weights_path: where they are.
        sha256: of the file.
    """

    task: str
    version_id: str
    weights_path: Path
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {"task": self.task, "version_id": self.version_id, "weights_sha256": self.sha256}


def evaluated_model(task: str, *, studies: Path | None = None, weights: Path | None = None) -> EvaluatedModel:
    """Find the weights to judge.

    Args:
        task: what they do.
        studies: a study whose champion is meant; None for the starter.
        weights: a weights file, or a folder that holds one; it goes before ``studies``.

    Raises:
        InputError: the weights file is not there.
        ModelError: there are no weights for the task.
    """
    if weights is None:
        version = open_registry(studies).champion(task)
        return EvaluatedModel(
            task=task,
            version_id=version.version_id,
            weights_path=version.weights_path,
            sha256=sha256_of(version.weights_path),
        )
    path = weights / WEIGHTS_FILE if weights.is_dir() else weights
    if not path.is_file():
        raise InputError(f"There are no weights at {path}: name a .safetensors file or a folder with {WEIGHTS_FILE}.")
    return EvaluatedModel(task=task, version_id=path.name, weights_path=path, sha256=sha256_of(path))


def load_segmenter(model: EvaluatedModel, *, device: str = "auto", cache_folder: Path | None = None) -> ClickSegmenter:
    """The click path on these weights."""
    from medai.inference.click import ClickSegmenter
    from medai.networks.engine import load_engine

    return ClickSegmenter(load_engine(model.weights_path, device=device, cache_folder=cache_folder))


def load_classifier(
    model: EvaluatedModel, *, device: str = "auto", cache_folder: Path | None = None
) -> NoduleClassifier:
    """The classifier on these weights."""
    from medai.inference.classify import NoduleClassifier
    from medai.networks.engine import load_engine

    return NoduleClassifier.of_checkpoint(load_engine(model.weights_path, device=device, cache_folder=cache_folder))
