"""A bound on request bodies, before anything reads them into memory or onto the disk."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Answers 413 to bodies over the limit, by their announced length or, without one, while they arrive.

    Args:
        app: what is protected.
        largest_bytes: gives the limit at each request.
    """

    def __init__(self, app: ASGIApp, largest_bytes: Callable[[], int]) -> None:
        self._app = app
        self._largest_bytes = largest_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        largest = self._largest_bytes()
        detail = f"The request is larger than {largest >> 20} MB; --conf max_upload_mb sets the limit."
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > largest:
            refusal = JSONResponse({"detail": detail}, status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > largest:
                # Raised where the route reads its body, so the app's own handler answers it.
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
            return message

        await self._app(scope, counted, send)
