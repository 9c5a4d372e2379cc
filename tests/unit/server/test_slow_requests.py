"""Requests that stop arriving, connections that send nothing, and too many of them; on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request

from medai.server.connections import BoundedProtocol
from medai.server.slow_requests import SlowRequests

PAUSE_S = 0.25


def make_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(SlowRequests, timeout_s=lambda: PAUSE_S)

    @app.post("/take")
    async def take(request: Request) -> int:
        return len(await request.body())

    @app.post("/refuse")
    async def refuse() -> int:
        return 0

    @app.get("/wait")
    async def wait(request: Request) -> bool:
        await asyncio.sleep(3 * PAUSE_S)
        return await request.is_disconnected()

    return app


@contextlib.asynccontextmanager
async def served(**bounds: Any) -> AsyncIterator[int]:
    """The app on a free port, with bounds of its own."""
    protocol = type("Protocol", (BoundedProtocol,), bounds)
    config = uvicorn.Config(make_app(), port=0, log_config=None, lifespan="off", http=protocol)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def talk(port: int, *pieces: bytes, pause_s: float = 0.0) -> tuple[bytes, float]:
    """Send pieces with pauses between; what came back until the server closed, or half a second of silence."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = asyncio.get_running_loop().time()
    answer = b""
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        with contextlib.suppress(TimeoutError):
            while chunk := await asyncio.wait_for(reader.read(4096), 3.0):
                answer += chunk
                if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                    break
    took = asyncio.get_running_loop().time() - begun
    writer.close()
    return answer, took


def post(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_body_that_stops_is_answered_with_408() -> None:
    async def run() -> None:
        async with served() as port:
            answer, took = await talk(port, post("/take", 100), b"half")
            assert b" 408 " in answer
            assert b"4 bytes" in answer
            assert b"request_timeout_s" in answer
            assert PAUSE_S * 0.9 < took < 3

    asyncio.run(run())


def test_a_body_that_trickles_is_ended_too() -> None:
    async def run() -> None:
        async with served() as port:
            answer, took = await talk(port, post("/take", 100), *[b"x"] * 12, pause_s=PAUSE_S / 4)
            assert b" 408 " in answer
            assert took < 4

    asyncio.run(run())


def test_slow_answers_and_bodies_that_keep_coming_are_left_alone() -> None:
    async def run() -> None:
        async with served() as port:
            answer, _ = await talk(port, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 200 " in answer
            assert answer.endswith(b"false")
            answer, _ = await talk(port, post("/take", 40_000), *[bytes(10_000)] * 4, pause_s=PAUSE_S / 2)
            assert b" 200 " in answer

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    async def run() -> None:
        async with served(headers_s=PAUSE_S) as port:
            answer, took = await talk(port, sent)
            assert answer == b""
            assert took < 2

    asyncio.run(run())


def test_a_header_line_a_moment_does_not_keep_a_connection() -> None:
    async def run() -> None:
        async with served(headers_s=PAUSE_S) as port:
            lines = [f"X-{n}: 1\r\n".encode() for n in range(8)]
            answer, _ = await talk(port, b"GET / HTTP/1.1\r\n", *lines, pause_s=PAUSE_S / 2)
            assert answer == b""

    asyncio.run(run())


def test_what_was_refused_before_it_had_arrived_is_not_read_for_ever() -> None:
    async def run() -> None:
        async with served(headers_s=PAUSE_S) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post("/refuse", 10_000_000))
            assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)
            closed = False
            for _ in range(30):
                try:
                    writer.write(b"x" * 100)
                    await writer.drain()
                except ConnectionError:
                    closed = True
                    break
                await asyncio.sleep(PAUSE_S / 4)
            assert closed
            writer.close()

    asyncio.run(run())


def test_connections_are_bounded_in_number() -> None:
    async def run() -> None:
        async with served(most_connections=3) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                answer, took = await talk(port, post("/refuse", 0))
                assert answer == b""
                assert took < 2
            held[0][1].close()
            await asyncio.sleep(0.05)
            answer, _ = await talk(port, post("/refuse", 0))
            assert b" 200 " in answer
            for _, writer in held[1:]:
                writer.close()

    asyncio.run(run())
