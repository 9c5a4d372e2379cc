"""The address and the headers of a request: UTF-8, no control characters, nothing twice; checked before any route.

uvicorn and Starlette replace bytes that are no UTF-8 by question marks, so that two ids that differ become one. Of a
parameter that is there twice the last one would win silently.

Pure ASGI, on the event loop; a few microseconds.
"""

from __future__ import annotations

import urllib.parse
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from medai.errors import InputError
from medai.server.strict_json import check_line

MOST_PARAMETERS = 32


class RequestLineCheck:
    """Answers 422 to an address or a header that is no text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            try:
                _check(scope)
            except InputError as error:
                refusal = JSONResponse({"detail": str(error)}, status_code=HTTPStatus.UNPROCESSABLE_ENTITY)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check(scope: Scope) -> None:
    path = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    check_line(_text(urllib.parse.unquote_to_bytes(path), "the path"), "the path")
    query: bytes = scope["query_string"]
    if query:
        _check_query(query)
    for name, value in scope["headers"]:
        if not value.isascii():
            shown = name.decode("latin-1")
            check_line(_text(value, f"the header {shown}"), f"the header {shown}")


def _check_query(query: bytes) -> None:
    seen = set()
    pairs = query.split(b"&")
    if len(pairs) > MOST_PARAMETERS:
        raise InputError(f"The address has {len(pairs)} parameters; it takes {MOST_PARAMETERS} at most.")
    for pair in pairs:
        raw_name, _, raw_value = pair.replace(b"+", b" ").partition(b"=")
        name = check_line(_text(urllib.parse.unquote_to_bytes(raw_name), "the name of a parameter"), "a parameter")
        if pair and name in seen:
            raise InputError(f"The parameter {ascii(name)[:60]} is there twice; give it once.")
        seen.add(name)
        check_line(_text(urllib.parse.unquote_to_bytes(raw_value), name), name)


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(
            f"'{name}' is not UTF-8 text: byte 0x{byte:02x} at position {error.start}. Send UTF-8, percent-encoded."
        ) from error
