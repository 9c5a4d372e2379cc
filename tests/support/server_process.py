"""Starts the real server, as ``medai serve`` does, in a process of its own, and stops it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


class ServerProcess:
    """A server on a free port of the loopback address; use it as a context manager.

    Args:
        studies: study folder.
        conf: settings, as ``--conf`` takes them.
        environment: added to this process's environment.
        probe: what it is asked to see that it answers; ``/auth/`` where it asks for a login.
        log_path: where its output goes; default: ``<studies>/.medai/test-server.out``.

    Attributes:
        url: its address once started, such as ``http://127.0.0.1:41233``.
        start_s: seconds from starting the process to its first answer.
    """

    def __init__(
        self,
        studies: Path,
        *,
        conf: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        probe: str = "/info/",
    ) -> None:
        self.studies = studies
        # Off unless asked for: it would take the processor from what a test looks at.
        self.conf = {"score_in_background": "off", **(conf or {})}
        self.environment = dict(environment or {})
        self.log_path = log_path or studies / ".medai" / "test-server.out"
        self.probe = probe
        self.url = ""
        self.start_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the process has printed, and its log file."""
        paths = (self.log_path, self.studies / ".medai" / "logs" / "server.log")
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())

    def start(self) -> ServerProcess:
        """Start the process and wait until it answers; one that runs is left as it is."""
        if self.is_running:
            return self
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        ready_file = self.log_path.with_suffix(f".{os.getpid()}.ready.json")
        ready_file.unlink(missing_ok=True)
        code = (
            "import json, sys, pathlib\n"
            "from medai.server.launch import LaunchOptions, run_server\n"
            "o = json.loads(sys.argv[1])\n"
            "run_server(LaunchOptions(studies=pathlib.Path(o['studies']), port=0, conf=o['conf'],\n"
            "    on_ready=lambda url: pathlib.Path(o['ready']).write_text(json.dumps({'url': url}))))\n"
        )
        options = {"studies": str(self.studies), "conf": self.conf, "ready": str(ready_file)}
        started = time.monotonic()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(options)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        while time.monotonic() - started < START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise RuntimeError(f"The server ended with code {self._process.returncode}:\n{self.log[-4000:]}")
            if ready_file.is_file() and ready_file.stat().st_size:
                self.url = json.loads(ready_file.read_text())["url"]
                ready_file.unlink()
                self.get_json(self.probe)
                self.start_s = time.monotonic() - started
                return self
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"The server did not answer within {START_TIMEOUT_S} s:\n{self.log[-4000:]}")

    def get_json(self, path: str, *, timeout_s: float = 60.0) -> Any:
        """GET a path and decode its JSON."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=timeout_s) as response:
            return json.load(response)

    def stop(self) -> None:
        """Ask the server to end, then make it."""
        self._end(signal.SIGINT)

    def terminate(self) -> None:
        """Ask the server to end as a service manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
