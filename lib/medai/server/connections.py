"""What uvicorn does not bound about its connections: how many there are, and how long one may take over its headers.

A connection that sends nothing, or one header a minute, costs a file handle and is never ended by uvicorn. Here it has
``HEADERS_S`` from the moment it is opened, from the first byte of a further request, and from the end of an answer
that was given before the request had arrived whole.

On the event loop alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

logger = logging.getLogger(__name__)

HEADERS_S = 20.0
LARGEST_HEADERS = 64 << 10
MOST_CONNECTIONS = 512
"""An annotation team has a few dozen; each may need some file handles while it is served."""

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Protocol
else:
    _Protocol = cast(Any, AutoHTTPProtocol)


class BoundedProtocol(_Protocol):
    """uvicorn's own protocol with these bounds."""

    headers_s = HEADERS_S
    most_connections = MOST_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower than asyncio's
        """Take a connection, or close it at once where there are too many."""
        super().connection_made(transport)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        if len(self.connections) > self.most_connections:
            logger.warning("A connection was refused: %d are open already", len(self.connections) - 1)
            transport.abort()
            return
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._unwatch_headers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that complete no request are counted and timed."""
        super().data_received(data)
        if self._has_request():
            self._unwatch_headers()
            return
        self._watch_headers()
        self._header_bytes += len(data)
        if self._header_bytes > LARGEST_HEADERS and not self._has_answered() and not self.transport.is_closing():
            self.transport.abort()

    def _has_request(self) -> bool:
        """Whether a request is being answered."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _has_answered(self) -> bool:
        """Whether what arrives may be the rest of a request that was answered before it was there."""
        cycle: Any = self.cycle
        return cycle is not None

    def _watch_headers(self) -> None:
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.headers_s, self._end_half_sent)

    def _unwatch_headers(self) -> None:
        self._header_bytes = 0
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _end_half_sent(self) -> None:
        self._headers_timer = None
        if not self._has_request() and not self.transport.is_closing():
            self.transport.close()
