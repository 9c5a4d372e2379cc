"""Plots of text for the terminal: bars, and a curve in a box."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 40
_BLANK_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each of the 4×2 dots of a Braille character, by row and column."""


def bar(share: float, width: int = _BAR_WIDTH) -> str:
    """A bar of a length of 0 to 1; empty where there is no figure."""
    if not math.isfinite(share):
        return ""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def bars(title: str, rows: Iterable[tuple[str, float, str]]) -> Table:
    """A table of bars.

    Args:
        title: above it.
        rows: name, length 0–1, and what is written behind the bar.
    """
    from rich.table import Table

    table = Table(title=title, box=None, show_header=False, title_justify="left", pad_edge=False, min_width=72)
    table.add_column(justify="right")
    table.add_column(width=_BAR_WIDTH, no_wrap=True, style="cyan")
    table.add_column()
    for name, share, text in rows:
        table.add_row(name, bar(share), text)
    return table


def curve(points: Sequence[tuple[float, float]], *, width: int = 40, height: int = 12) -> str:
    """A curve of points of 0–1 each, joined by straight lines, in a box of Braille dots with its axes."""
    dots = [[0] * width for _ in range(height)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        steps = 1 + int(max(abs(x1 - x0) * width * 2, abs(y1 - y0) * height * 4))
        for step in range(steps + 1):
            share = step / steps
            column = round((x0 + (x1 - x0) * share) * (width * 2 - 1))
            row = round((1 - (y0 + (y1 - y0) * share)) * (height * 4 - 1))
            if 0 <= column < width * 2 and 0 <= row < height * 4:
                dots[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    lines = ["".join(chr(_BLANK_BRAILLE + bits) for bits in row) for row in dots]
    labels = ["1.0"] + ["   "] * (height - 1)
    framed = [f"{label} │{line}" for label, line in zip(labels, lines, strict=True)]
    return "\n".join([*framed, "0.0 └" + "─" * width, "     0" + " " * (width - 2) + "1"])
