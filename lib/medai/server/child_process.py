"""A real server process of our own or of stock MONAI Label, for benchmarks: started, asked, stopped."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from medai.errors import MedaiError

START_TIMEOUT_S = 180.0
ANSWER_TIMEOUT_S = 600.0


class ServerProcess:
    """A running server and a connection to it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        """Wait until the server answers; ``start_s`` is how long that took."""
        begin = time.perf_counter()
        self._process = process
        self._log = log
        self._client = httpx.Client(base_url=url, timeout=ANSWER_TIMEOUT_S, trust_env=False)
        while True:
            if process.poll() is not None or time.perf_counter() - begin > START_TIMEOUT_S:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise MedaiError(f"The server did not start (exit code {process.poll()}). Its last words:\n{tail}")
            try:
                if self._client.get("/info/").status_code == httpx.codes.OK:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        self.start_s = time.perf_counter() - begin

    def get_json(self, path: str) -> Any:
        """GET a route."""
        return self._checked(self._client.get(path)).json()

    def post_json(self, path: str, body: dict[str, Any]) -> Any:
        """POST a JSON body to a route."""
        return self._checked(self._client.post(path, json=body)).json()

    def delete(self, path: str) -> None:
        """DELETE a route."""
        self._checked(self._client.delete(path))

    def infer(self, model: str, case_id: str, params: dict[str, Any]) -> bytes:
        """Run an inference as the Slicer plugin asks for it; returns the whole reply."""
        data = {"params": json.dumps({"result_extension": ".nrrd", "result_dtype": "uint8", **params})}
        # A multipart body even without a file, as the plugin sends it.
        reply = self._client.post(f"/infer/{model}", params={"image": case_id}, data=data, files={"_": ("", b"")})
        return self._checked(reply).content

    def is_training(self) -> bool:
        """True while a training runs."""
        return self._client.get("/train/", params={"check_if_running": True}).status_code == httpx.codes.OK

    def peak_rss_mb(self) -> float:
        """Largest resident memory of the process so far (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 / 1e6 if found else float("nan")

    def stop(self) -> None:
        """End the process."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _checked(self, reply: httpx.Response) -> httpx.Response:
        if reply.status_code != httpx.codes.OK:
            raise MedaiError(
                f"{reply.request.method} {reply.request.url} answered {reply.status_code}: {reply.text[:500]}"
            )
        return reply


@contextmanager
def start_medai(studies: Path, *options: str) -> Iterator[ServerProcess]:
    """Our server on a study, as ``medai serve`` starts it, without scoring by itself: requests are measured."""
    port = free_port()
    command = [sys.executable, "-m", "medai.cli", "serve", str(studies), "--port", str(port)]
    with _running([*command, "--conf", "score_in_background=off", *options], port) as server:
        yield server


@contextmanager
def start_stock(studies: Path) -> Iterator[ServerProcess]:
    """Stock MONAI Label with the stock-style task on the same study."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="stock-app-") as app,
        _running([sys.executable, "-m", "medai.server.stock_server", app, str(studies), str(port)], port) as server,
    ):
        yield server


def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], port: int) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory(prefix="medai-log-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
        except BaseException:
            process.kill()
            process.wait()
            raise
        try:
            yield server
        finally:
            server.stop()
