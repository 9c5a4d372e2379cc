"""Every route with a body of ours: its size is bounded, and its text is text.

A body is read through a bound: ``max_upload_mb`` where files are uploaded, one megabyte for everything else. Who asks
is known by then (``access.CheckedRoute``), so that nobody without a login makes the server take in a file.

Runs on the event loop alone; nothing here blocks but decoding at most a megabyte of text.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from medai.errors import InputError
from medai.server.limits import LARGEST_PLAIN_BYTES, UploadSlots
from medai.server.strict_json import check_line, check_text, read_json

_LONGEST_COUNT = 20
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")
_SPOOLED_FILES = 8
"""Small files of one request kept in memory; a series of a thousand slices goes to the disk."""


class BoundedRoute(APIRoute):
    """A route whose body is bounded and checked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given the body through its bound."""
        handler = super().get_route_handler()
        fields = _body_fields(self.dependant)
        if not fields:
            return handler
        takes_files = any(isinstance(field.field_info, params.File) for field in fields)

        async def bounded(request: Request) -> Response:
            slots: UploadSlots = request.app.state.uploads
            is_upload = takes_files and _content_type(request)[0] == b"multipart/form-data"
            if not is_upload:
                body = _Bounded(request, LARGEST_PLAIN_BYTES, "a request without files has no more")
                return await handler(CheckedRequest(request.scope, body.receive))
            with slots.hold() as slot:
                body = _Bounded(request, slots.largest_bytes, "--conf max_upload_mb sets the limit", slot.take)
                return await handler(CheckedRequest(request.scope, body.receive))

        return bounded


class CheckedRequest(Request):
    """A request whose JSON and form fields are refused where they are no text, or say something twice."""

    async def json(self) -> Any:
        """The body as JSON."""
        return _refused_as_http(read_json, await self.body(), "body")

    async def _get_form(
        self, *, max_files: float = 1000, max_fields: float = 1000, max_part_size: int = LARGEST_PLAIN_BYTES
    ) -> FormData:
        if self._form is not None:
            return self._form
        content_type, options = _content_type(self)
        charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
        if charset not in _UTF8:
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The form is sent as {charset[:40]!r}; it is taken as utf-8."
            )
        if content_type == b"multipart/form-data":
            self._form = await self._multipart(max_files, max_fields, max_part_size)
        elif content_type == b"application/x-www-form-urlencoded":
            self._form = FormData(_refused_as_http(_url_encoded, await self.body(), int(max_fields)))
        elif await self.body():
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"The body is sent as {content_type.decode('latin-1')[:60]!r}; this route takes multipart/form-data.",
            )
        else:
            self._form = FormData()
        try:
            _refused_as_http(_check_fields, self._form)
        except HTTPException:
            await self._form.close()
            raise
        return self._form

    async def _multipart(self, max_files: float, max_fields: float, max_part_size: int) -> FormData:
        stream = self.stream()
        try:
            return await _Utf8Parser(
                self.headers, stream, max_files=max_files, max_fields=max_fields, max_part_size=max_part_size
            ).parse()
        except MultiPartException as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"The form cannot be read: {error.message}") from error
        finally:
            await stream.aclose()


class _Utf8Parser(MultiPartParser):
    """Starlette's parser, which takes what is no UTF-8 for Latin-1, without that."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        _utf8(part.content_disposition or b"", "the Content-Disposition of a part")
        if self._current_files == _SPOOLED_FILES:
            self.spool_max_size = 1
        super().on_headers_finished()

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            _utf8(part.data, part.field_name)
        super().on_part_end()


class _Bounded:
    """A request's body, counted while it arrives.

    Args:
        request: whose body.
        largest: bytes taken.
        advice: why, or who sets it.
        take: told of every byte that will be held, before it is.
    """

    def __init__(
        self, request: Request, largest: int, advice: str, take: Callable[[int], None] = lambda count: None
    ) -> None:
        self._receive, self._largest, self._advice, self._take = request.receive, largest, advice, take
        self._received = 0
        announced = request.headers.get("content-length", "")
        self._is_announced = announced.isdecimal() and len(announced) < _LONGEST_COUNT
        if self._is_announced:
            self._check(int(announced))
            take(int(announced))

    async def receive(self) -> Message:
        """The next message; HTTPException where the body is too large."""
        message = await self._receive()
        body = message.get("body", b"")
        self._received += len(body)
        self._check(self._received)
        if body and not self._is_announced:
            self._take(len(body))
        return message

    def _check(self, size: int) -> None:
        if size <= self._largest:
            return
        raise HTTPException(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request is larger than {self._largest >> 20} MB; {self._advice}."
        )


def all_bounded(app: FastAPI) -> bool:
    """Whether every route of ours that takes a body is a ``BoundedRoute``."""
    return all(
        isinstance(route, BoundedRoute)
        for router in app.router.routes
        for route in getattr(getattr(router, "original_router", None), "routes", [router])
        if isinstance(route, APIRoute) and _body_fields(route.dependant)
    )


def _body_fields(dependant: Dependant) -> list[Any]:
    return [*dependant.body_params, *(field for each in dependant.dependencies for field in _body_fields(each))]


def _content_type(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    kind, options = parse_options_header(request.headers.get("content-type"))
    return kind.lower(), options


def _url_encoded(body: bytes, max_fields: int) -> list[tuple[str, str]]:
    try:
        return urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=max_fields)
    except UnicodeDecodeError as error:
        raise InputError("A field of the form is not UTF-8 text. Send UTF-8.") from error
    except ValueError as error:
        raise InputError(f"The form has more than the {max_fields} fields taken.") from error


def _check_fields(form: FormData) -> None:
    seen = set()
    for name, value in form.multi_items():
        check_line(name, "the name of a form field")
        if not isinstance(value, str):
            check_line(value.filename or "", f"{name}.filename")
            continue
        if name in seen:
            raise InputError(f"The field '{name}' is there twice; send it once.")
        seen.add(name)
        check_text(value, name)


def _utf8(content: bytes | bytearray, name: str) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise MultiPartException(f"{name!a} is not UTF-8 text (byte 0x{content[error.start]:02x}).") from error


def _refused_as_http(check: Callable[..., Any], *arguments: Any) -> Any:
    """FastAPI turns every other error of reading a body into "There was an error parsing the body"."""
    try:
        return check(*arguments)
    except InputError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
