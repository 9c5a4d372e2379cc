"""Parts of a request that several routes read: JSON in a form field, and an uploaded file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from medai.errors import InputError
from medai.server.strict_json import check_line, read_json
from medai.store.names import find_extension

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


def store_upload(
    upload: UploadFile,
    folder: Path,
    *,
    extensions: Sequence[str],
    stem: str = "upload",
    unnamed: tuple[str, Callable[[Path], bool]] | None = None,
) -> Path:
    """Copy an upload into a folder of ours, under a name of ours; blocking.

    Args:
        upload: the file.
        folder: where to.
        extensions: the endings that are accepted.
        stem: of our name.
        unnamed: the ending of files that are known by their content, whatever their name, and what knows them.

    Raises:
        InputError: the file's name has no ending that is accepted.
    """
    name = Path(check_line(upload.filename or "", "the uploaded file's name")).name
    parts = find_extension(name, extensions)
    if parts is None and unnamed is None:
        raise _unknown_ending(name, extensions)
    path = folder / f"{stem}{parts[1].lower() if parts else unnamed[0] if unnamed else ''}"
    with path.open("wb") as target:
        shutil.copyfileobj(upload.file, target, COPY_BYTES)
    if parts is None and unnamed is not None and not unnamed[1](path):
        raise _unknown_ending(name, extensions)
    return path


def _unknown_ending(name: str, extensions: Sequence[str]) -> InputError:
    return InputError(f"The uploaded file is called {name[:120]!r}; its name must end in {', '.join(extensions)}.")
