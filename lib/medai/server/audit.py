"""Who read, downloaded and wrote what: one line a request in the study's audit log (``store.audit_log``).

A line has the time, the user and their roles, the address, the method and the route (never what stood in it), the case
and tag, the status and the bytes sent and received. No token, no body. Requests that ask only how things go
(``/info/``, progress of a training, cards of models) are left out unless they are refused; so are paths that do not
exist. Where refusals come by the thousand they are counted instead of written, or they would push real lines out of
the files.

Threads: the event loop; lines are written by the log's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from monailabel.config import settings as platform
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medai.store.audit_log import AuditLog, timestamp

if TYPE_CHECKING:
    from medai.server.app import MedaiApp

REFUSALS_A_MINUTE = 300
"""More than this are counted, not written."""

CLIENT_LEFT = 499
"""The status of a request whose client went away before it was answered; nginx's number."""

_FACTS = "medai.audit"
_LONGEST_FACT = 200
_LONGEST_QUERY = 8192
_CASE_FIELDS = ("image", "label", "id", "case")
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_ASKED_OFTEN = ("/info", "/train", "/scoring", "/batch/infer", "/medai/models", "/auth/token/valid")
"""GET requests that only ask how things go."""

_NO_CONTENT = ("/", "/auth", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/favicon.ico")


def note(scope: MutableMapping[str, Any], **facts: Any) -> None:
    """Add to what the audit log will say about a request: ``case``, ``tag``, ``user``, ``roles``."""
    scope.setdefault(_FACTS, {}).update(facts)


class Audit:
    """Writes the line of each request, around everything else that looks at it.

    Args:
        app: what is audited.
        served: gives what has the log and its settings; None before the start.
    """

    def __init__(self, app: ASGIApp, *, served: Callable[[], MedaiApp | None]) -> None:
        self._app = app
        self._served = served
        self._refusals = _Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and write its line."""
        served = self._served() if scope["type"] == "http" else None
        log = served.audit if served else None
        if served is None or log is None:
            await self._app(scope, receive, send)
            return
        facts = scope[_FACTS] = {}
        seen = _Seen()
        started_s = time.time()

        async def received() -> Message:
            message = await receive()
            seen.received += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = int(message["status"])
            seen.sent += len(message.get("body", b""))
            await send(message)

        app = self._app
        if log.problem and served.options.audit == "required" and is_content(scope["method"], _path(scope)):
            app = JSONResponse(
                {"detail": f"The audit log cannot be written ({log.problem}), and nothing is answered without it."},
                status_code=HTTPStatus.INSUFFICIENT_STORAGE,
            )
        try:
            await app(scope, received, sent)
        finally:
            self._write(log, scope, seen, facts, started_s)

    def _write(self, log: AuditLog, scope: Scope, seen: _Seen, facts: dict[str, Any], started_s: float) -> None:
        method, path = scope["method"], _path(scope)
        is_refused = seen.status in _REFUSED
        route = getattr(scope.get("route"), "path", None)
        if route is None and seen.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            return
        if not is_content(method, path) and not (is_refused and path not in _NO_CONTENT):
            return
        if is_refused:
            is_written, unwritten = self._refusals.admit(started_s)
            if unwritten:
                log.write({"time": timestamp(started_s), "event": "refused", "lines": unwritten})
            if not is_written:
                return
        client = scope.get("client")
        log.write(
            {
                "time": timestamp(started_s),
                "user": "",
                "roles": [],
                "address": client[0] if client else "",
                "method": method,
                "route": route or _shown_path(path),
                **_facts_of_query(scope),
                **{name: _short(value) for name, value in facts.items()},
                "status": seen.status or CLIENT_LEFT,
                "bytes": seen.sent,
                "received": seen.received,
                "seconds": round(time.time() - started_s, 3),
            }
        )


def is_content(method: str, path: str) -> bool:
    """Whether a request touches what is in the study, as far as its path tells."""
    path = path.rstrip("/") or "/"
    if path in _NO_CONTENT:
        return False
    return method not in ("GET", "HEAD", "OPTIONS") or not any(
        path == known or path.startswith(f"{known}/") for known in _ASKED_OFTEN
    )


class _Seen:
    """What goes through."""

    __slots__ = ("received", "sent", "status")

    def __init__(self) -> None:
        self.status = 0
        self.sent = 0
        self.received = 0


class _Refusals:
    """Counts the refusals of a minute."""

    def __init__(self) -> None:
        self._minute = 0
        self._count = 0

    def admit(self, now_s: float) -> tuple[bool, int]:
        """Count one; whether to write it, and how many of an earlier minute were not written."""
        minute, unwritten = int(now_s // 60), 0
        if minute != self._minute:
            unwritten = max(0, self._count - REFUSALS_A_MINUTE)
            self._minute, self._count = minute, 0
        self._count += 1
        return self._count <= REFUSALS_A_MINUTE, unwritten


def _path(scope: Scope) -> str:
    path = str(scope["path"])
    prefix = platform.MONAI_LABEL_API_STR
    return path[len(prefix) :] if prefix and path.startswith(prefix) else path


def _shown_path(path: str) -> str:
    """A path that was refused before its route was looked for, without what may stand in it."""
    parts = path.split("/")[1:3]
    return "/" + "/".join(part for part in parts if part.isascii() and part.isalpha() and len(part) < 20)


def _facts_of_query(scope: Scope) -> dict[str, Any]:
    """Case and tag as the query names them."""
    query = scope.get("query_string", b"")[:_LONGEST_QUERY]
    values = dict(parse_qsl(query.decode("latin-1"))) if query else {}
    case = next((values[name] for name in _CASE_FIELDS if values.get(name)), "")
    return {"case": _short(case), "tag": _short(values.get("tag", ""))}


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:_LONGEST_FACT]
    if isinstance(value, list):
        return [_short(each) for each in value[:50]]
    return value
