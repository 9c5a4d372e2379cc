"""Which names the server answers to, and which web pages may change something through an annotator's browser.

A browser sends a request to this machine for any page that asks it to, with the annotator's network and, where the
server has none, without a login. It says which page: ``Origin``. A page whose own name was made to point here (DNS
rebinding) passes for the same origin, but its name stands in ``Host``. Clients that are no browsers (3D Slicer, Python)
send no ``Origin`` and the name they were told.

Pure ASGI, on the event loop: one look at two headers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

_PORTS = {"http": 80, "https": 443}
_PLAIN_NAME = re.compile(r"[a-z0-9._:-]{1,99}")
"""What may be shown as a value to type: a name or an address, and nothing that a shell reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedNames:
    """The names that settings allow.

    Attributes:
        hosts: names that may stand in ``Host``, lower case, without port; ``*.name`` stands for every name below it,
            ``*`` for any. None: loopback names where the server listens on loopback, any where it does not.
        origins: origins of pages that may change something; ``*`` for any.
    """

    hosts: frozenset[str] | None
    origins: frozenset[str]

    @classmethod
    def of(cls, hosts: str, origins: Iterable[str]) -> AllowedNames:
        """Read the settings: names with commas between them; "" where none are given."""
        names = frozenset(host_name(name) or name.strip().lower() for name in hosts.split(",") if name.strip())
        return cls(hosts=names or None, origins=frozenset(_plain_origin(origin) for origin in origins))

    def takes_host(self, host: str, *, on_loopback: bool) -> bool:
        """Whether a request for this name (with or without port) is answered."""
        name = host_name(host)
        if name is not None and is_loopback_name(name):
            return True
        if self.hosts is None:
            return not on_loopback
        return "*" in self.hosts or (name is not None and self._lists(name))

    def takes_origin(self, origin: str, host: str, *, on_loopback: bool) -> bool:
        """Whether a page of this origin may change something here, asked for as ``host``."""
        plain = _plain_origin(origin)
        if plain in self.origins or "*" in self.origins:
            return True
        parts = _origin_parts(plain)
        if parts is None:
            return False
        name, port, scheme = parts
        if self.hosts is not None and self._lists(name):
            return True
        if is_loopback_name(name) and on_loopback:
            return True
        # Behind a proxy that ends TLS the scheme here is another than the page's; the name and the port are not.
        here = _split_port(host)
        return here is not None and here[0] == name and (here[1] or _PORTS.get(scheme)) == port

    def _lists(self, name: str) -> bool:
        hosts = self.hosts or frozenset()
        return name in hosts or any(f"*.{above}" in hosts for above in _names_above(name))


class OriginCheck:
    """Refuses requests under a foreign name (421), and changes asked for by a foreign page (403)."""

    def __init__(self, app: ASGIApp, allowed: AllowedNames) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = named[0] if named else ""
        on_loopback = _listens_on_loopback(scope)
        if len(named) > 1 or (named and not self._allowed.takes_host(host, on_loopback=on_loopback)):
            return _refuse(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"This server does not answer to the name {ascii(host)[:120]}. Where that name is right (a proxy, "
                f"say), start it with --conf allowed_hosts {_shown_name(host)}.",
            )
        if scope["method"] in READING:
            return None
        for name, value in scope["headers"]:
            origin = value.decode("latin-1")
            if name == b"origin" and not self._allowed.takes_origin(origin, host, on_loopback=on_loopback):
                return _refuse(
                    HTTPStatus.FORBIDDEN,
                    f"A page of {ascii(origin)[:120]} may not change anything on this server. Where it is meant to, "
                    f"start the server with --conf allowed_origins {_shown_origin(origin)}.",
                )
        return None


def host_name(host: str) -> str | None:
    """The name in a ``Host`` header, plain: lower case, without port, brackets and trailing dot; None where none is."""
    parts = _split_port(host)
    return parts[0] if parts else None


def is_loopback_name(name: str) -> bool:
    """Whether a plain name always means this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _listens_on_loopback(scope: Scope) -> bool:
    """Whether the connection came in at an address of this machine alone."""
    host, port = scope.get("server") or ("", None)
    return port is not None and is_loopback_name(str(host).lower())


def _split_port(host: str) -> tuple[str, int | None] | None:
    """Plain name and port; None for what is no host."""
    text = host.strip(" \t").lower()
    if text.startswith("["):
        name, closed, rest = text[1:].partition("]")
        if not closed:
            return None
    elif text.count(":") > 1:
        name, rest = text, ""  # an IPv6 address without brackets, as people type it
    else:
        name, colon, rest = text.partition(":")
        rest = colon + rest
    port = rest.removeprefix(":")
    if rest and not (rest.startswith(":") and (not port or (port.isdecimal() and len(port) < 6))):
        return None
    name = name.removesuffix(".")
    return (name, int(port) if port else None) if name else None


def _plain_origin(origin: str) -> str:
    return origin.strip().rstrip("/").lower()


def _origin_parts(origin: str) -> tuple[str, int | None, str] | None:
    """Name, port and scheme; None for "null" and what is no origin."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    name = host_name(f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "")
    has_more = parts.path or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in _PORTS or name is None or has_more:
        return None
    return name, port or _PORTS[parts.scheme], parts.scheme


def _names_above(name: str) -> Iterable[str]:
    labels = name.split(".")
    return (".".join(labels[i:]) for i in range(1, len(labels)))


def _shown_name(host: str) -> str:
    name = host_name(host)
    return name if name and _PLAIN_NAME.fullmatch(name) else "NAME"


def _shown_origin(origin: str) -> str:
    parts = _origin_parts(_plain_origin(origin))
    return _plain_origin(origin) if parts and _PLAIN_NAME.fullmatch(parts[0]) else "ORIGIN"


def _refuse(status: HTTPStatus, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)
