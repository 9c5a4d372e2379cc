"""Kills real processes at random moments of what they do, and counts the kills.

``Victims`` starts children of ``fault_worker`` that repeat one operation; ``kill`` lets one begin, waits for a moment
drawn from the seeded generator, and ends it as a power cut would. What it had been told was done (``said``) before that
must still be there afterwards: the test checks it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WORKER = Path(__file__).with_name("fault_worker.py")
PATIENCE_S = 300.0
KILLS: Counter[str] = Counter()
"""Kills by operation in this session; printed at its end (``tests/integration/faults/conftest.py``)."""


@dataclass(slots=True)
class Ended:
    """How a child ended.

    Attributes:
        said: what it told before, in order.
        code: its exit code; the negative of a signal's number.
    """

    said: list[dict[str, Any]] = field(default_factory=list)
    code: int = 0

    def values(self, name: str) -> list[Any]:
        """What it said under a name."""
        return [each[name] for each in self.said if name in each]

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Victims:
    """One worker program and its children, one at a time; use it as a context manager.

    Args:
        modules: what the worker imports before the first child.
        environment: added to this process's environment.
    """

    def __init__(self, modules: Sequence[str] = (), *, environment: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, str(WORKER), *modules]
        self._environment = {**os.environ, **(environment or {})}
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def __enter__(self) -> Victims:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        threading.Thread(target=self._read, daemon=True).start()
        assert "ready" in self._next()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)

    def run(self, operation: str, **arguments: Any) -> Ended:
        """Let a child come to its own end."""
        self._begin(operation, arguments)
        return self._until_end(Ended())

    def kill(
        self,
        operation: str,
        *,
        rng: np.random.Generator,
        within_s: float,
        counted_as: str = "",
        since: Callable[[dict[str, Any]], bool] = lambda said: "begun" in said,
        **arguments: Any,
    ) -> Ended:
        """Kill a child at a random moment.

        Args:
            operation: what it does.
            rng: draws the moment.
            within_s: it is killed at most this long after what ``since`` waits for.
            counted_as: name in the count; "" is the operation's.
            since: told of each thing said until it says that the time to kill begins.
            arguments: of the operation.
        """
        pid, ended = self._begin(operation, arguments), Ended()
        while not (ended.said and since(ended.said[-1])):
            line = self._next()
            if "ended" in line:
                ended.code = line["ended"]
                return ended
            ended.said.append(line["said"])
        time.sleep(float(rng.uniform(0.0, within_s)))
        with contextlib.suppress(ProcessLookupError):  # it had come to its own end
            os.killpg(pid, signal.SIGKILL)
        self._until_end(ended)
        KILLS[counted_as or operation] += ended.was_killed
        return ended

    def start(self, operation: str, **arguments: Any) -> None:
        """Start a child that ``finish`` waits for."""
        self._begin(operation, arguments)

    def finish(self) -> Ended:
        """Wait for the end of what ``start`` began."""
        return self._until_end(Ended())

    def _begin(self, operation: str, arguments: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"operation": operation, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        return int(self._next()["pid"])

    def _until_end(self, ended: Ended) -> Ended:
        while "ended" not in (line := self._next()):
            ended.said.append(line["said"])
        ended.code = int(line["ended"])
        return ended

    def _next(self) -> dict[str, Any]:
        line = self._lines.get(timeout=PATIENCE_S)
        assert line is not None, f"the worker ended with code {self._process.wait(PATIENCE_S)}"
        return line

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._lines.put(json.loads(line))
            except ValueError:
                self._lines.put({"said": {"printed": line}})
        self._lines.put(None)
