"""Ends requests that stop arriving: each would hold its connection, its file and its place for ever.

uvicorn waits for a body as long as the client likes. Here a body must go on arriving, and at a pace that a poor line
keeps, else the request is answered with 408. Headers are watched where the connection is (``connections``).

Pure ASGI, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_BYTES_A_S = 4096
"""A gigabyte takes three days at this pace; a real line is a hundred times faster."""


class SlowRequests:
    """Answers 408 to a body that stops arriving, or comes too slowly for too long.

    Args:
        app: what is protected.
        timeout_s: gives the longest pause, at each request; a body slower than ``LEAST_BYTES_A_S`` on the whole is
            ended once it is this much behind.
    """

    def __init__(self, app: ASGIApp, timeout_s: Callable[[], float]) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, watching its body arrive."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        pause_s = self._timeout_s()
        clock = asyncio.get_running_loop().time
        begun = clock()
        received = 0
        is_whole = False

        async def watched() -> Message:
            nonlocal received, is_whole
            if is_whole:
                # Whoever asks now wants to know when the client goes.
                return await receive()
            behind_at = begun + pause_s + received / LEAST_BYTES_A_S
            try:
                async with asyncio.timeout_at(min(clock() + pause_s, behind_at)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"The request stopped arriving after {received} bytes: for {pause_s:g} s too little came (--conf "
                    "request_timeout_s). Send it again.",
                ) from None
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, watched, send)
