"""Where medai keeps its own state: one hidden folder in the study, which stock MONAI Label passes over."""

from __future__ import annotations

import os
from pathlib import Path

STATE_FOLDER = ".medai"


def state_folder(studies: Path) -> Path:
    """The folder of our own state in a study: models, scan cache, split, reservations, scores, training runs."""
    return studies / STATE_FOLDER


def models_folder(studies: Path) -> Path:
    """Where the study's model versions lie."""
    return state_folder(studies) / "models"


def engines_folder() -> Path:
    """Converted networks, named by their weights' digest: one folder for all studies of this user."""
    return user_state_folder() / "engines"


def user_state_folder() -> Path:
    """State of no study (converted networks, say): ``medai`` in XDG_STATE_HOME or ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "medai"
