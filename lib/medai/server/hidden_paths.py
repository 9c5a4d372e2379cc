"""Where the server's files lie is nobody's business where paths are not shared (``share_paths``).

Routes leave paths out where a client is offered one. This is the net under them: whatever answers in words, an error
message, a record, MONAI Label's own objects, has the server's folders replaced by a word before it leaves. Scans and
labels are not looked at, only JSON and text.

Pure ASGI, on the event loop; a few microseconds for a short answer, nothing where paths are shared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_IN_WORDS = (b"application/json", b"text/")


class HiddenPaths:
    """Replaces folders in what is answered in words.

    Args:
        app: what answers.
        hidden: gives each folder and the word for it, at each answer; empty where paths are shared.
    """

    def __init__(self, app: ASGIApp, hidden: Callable[[], Sequence[tuple[bytes, bytes]]]) -> None:
        self._app = app
        self._hidden = hidden

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        hidden = self._hidden() if scope["type"] == "http" else ()
        if not hidden:
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        parts: list[bytes] = []

        async def veiled(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_in_words(message):
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body = b"".join(parts)
            for folder, word in hidden:
                body = body.replace(folder, word)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            if scope["method"] != "HEAD":
                headers.append((b"content-length", str(len(body)).encode()))
            await send({**start, "headers": headers})
            await send({**message, "body": body})

        await self._app(scope, receive, veiled)


def hidden_folders(folders: Sequence[tuple[Path, str]]) -> list[tuple[bytes, bytes]]:
    """The forms that folders take in an answer (as JSON writes them, and as they are), longest first.

    Args:
        folders: each with the word that stands for it.
    """
    found: dict[bytes, bytes] = {}
    for folder, word in folders:
        for path in {str(folder), str(folder.resolve())}:
            if path == folder.anchor:
                continue
            found[json.dumps(path)[1:-1].encode()] = word.encode()
            found[path.encode("utf-8", "surrogateescape")] = word.encode()
    return sorted(found.items(), key=lambda pair: len(pair[0]), reverse=True)


def _is_in_words(message: Message) -> bool:
    kind = next((value for name, value in message["headers"] if name.lower() == b"content-type"), b"")
    return kind.startswith(_IN_WORDS)
