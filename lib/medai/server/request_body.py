"""Parts of a request that several routes read: JSON in a form field, and an uploaded file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from medai.errors import InputError
from medai.server.strict_json import check_line, read_json
from medai.store.names import split_extension

COPY_BYTES = 1 << 20


def json_object(text: str | None, name: str) -> dict[str, Any]:
    """Decode a form field that holds a JSON object; empty where there is none.

    Raises:
        InputError: not JSON, not an object, or something in it cannot be kept (``strict_json``).
    """
    if not text or not text.strip():
        return {}
    content = read_json(text, name)
    if not isinstance(content, dict):
        raise InputError(f'\'{name}\' takes a JSON object such as {{"label": "nodule"}}, not {text[:120]!a}.')
    return content


def is_true(value: Any) -> bool:
    """A flag as clients send it: true, "true", "1", "yes"."""
    return value is True or str(value).strip().lower() in ("true", "1", "yes", "on")


def store_upload(upload: UploadFile, folder: Path, *, extensions: Sequence[str], stem: str = "upload") -> Path:
    """Copy an upload into a folder of ours, under a name of ours; blocking.

    Raises:
        InputError: the file's name has no ending that is accepted.
    """
    name = Path(check_line(upload.filename or "", "the uploaded file's name")).name
    parts = split_extension(name, extensions)
    if parts is None:
        raise InputError(f"The uploaded file is called {name[:120]!r}; its name must end in {', '.join(extensions)}.")
    path = folder / f"{stem}{parts[1].lower()}"
    with path.open("wb") as target:
        shutil.copyfileobj(upload.file, target, COPY_BYTES)
    return path
