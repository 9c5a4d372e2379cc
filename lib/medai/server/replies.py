"""What leaves the server: JSON without NaN, and MONAI Label's two-part answer to an inference."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, ParamSpec

import numpy as np
from fastapi.responses import JSONResponse, Response

P = ParamSpec("P")

_DROP = object()


def plain(value: Any) -> Any:
    """Turn a value into what JSON can say and every client can read.

    NaN and infinities are no JSON: Python's encoder writes them all the same, strict parsers refuse the whole reply,
    and the Slicer plugin multiplies what it reads. An entry of a mapping that is not finite is left out, an item of a
    list becomes null. numpy scalars and arrays, paths, sets and enums become plain values.
    """
    cleaned = _plain(value)
    return None if cleaned is _DROP else cleaned


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, bool | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Mapping):
        pairs = ((str(_plain(key)), _plain(item)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not _DROP}
    if isinstance(value, list | tuple | set | frozenset):
        return [None if (item := _plain(each)) is _DROP else item for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else _DROP
    if isinstance(value, int):
        return value
    return str(value) if isinstance(value, PurePath) else repr(value)


class PlainJSONResponse(JSONResponse):
    """JSON that holds no NaN and no infinity."""

    def render(self, content: Any) -> bytes:
        """Clean and encode."""
        return json.dumps(plain(content), allow_nan=False, separators=(",", ":")).encode()


def json_of(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> PlainJSONResponse:
    """Call and encode, both in the thread this runs in: a whole study takes a while to encode as well."""
    return PlainJSONResponse(function(*args, **kwargs))


def multipart_reply(params: Mapping[str, Any], *, payload: bytes, file_name: str, media_type: str) -> Response:
    """MONAI Label's answer: part ``params`` (JSON) and part ``image`` (the file)."""
    boundary = uuid.uuid4().hex
    text = json.dumps(plain(params), allow_nan=False).encode()
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
    ).encode()
    middle = (
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file_name}"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    ).encode()
    body = b"".join((head, text, middle, payload, f"\r\n--{boundary}--\r\n".encode()))
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")
