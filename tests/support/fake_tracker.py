"""A tracker that remembers what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medai.workflows.run_tracking import RunEnd, TrackedRun


class FakeTracker:
    """Remembers; fails at the calls it is told to fail at."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.told: list[str] = []
        self.run: TrackedRun | None = None
        self.points: list[tuple[int, dict[str, float]]] = []
        self.figures: dict[str, float] = {}
        self.verdict_told: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self._fails_at = fails_at

    def _note(self, what: str) -> None:
        self.told.append(what)
        if what == self._fails_at:
            raise RuntimeError(f"{what} does not work today")

    def begin(self, run: TrackedRun) -> None:
        """Remember."""
        self._note("begin")
        self.run = run

    def curves(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Remember."""
        self._note("curves")
        self.points.append((epoch, dict(values)))

    def verdict(self, figures: Mapping[str, float], verdict: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Remember."""
        self._note("verdict")
        self.figures, self.verdict_told, self.tags = dict(figures), dict(verdict), dict(tags)

    def end(self, how: RunEnd) -> None:
        """Remember."""
        self._note(f"end {how}")
