"""The state of a training on disk, from which a later one goes on: torch's own format, whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medai.errors import StorageError
from medai.volume_io.atomic import atomic_path, disk_words


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the state of a training.

    Args:
        path: the file; its folder is made.
        state: what ``torch.load(path, weights_only=True)`` is to give back.

    Raises:
        StorageError: the disk refused; what was there is unchanged.
    """
    import torch

    # Through memory: torch's own writer answers a full disk with an internal error that names neither disk nor file.
    packed = io.BytesIO()
    torch.save(dict(state), packed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {path.parent} cannot be made: {disk_words(error)}.") from error
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(packed.getbuffer())
        stream.flush()
        os.fsync(stream.fileno())
