"""What the long proofs measured is printed at their end: figures are no asserts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

MEASURED: list[str] = []


@pytest.fixture
def report() -> Callable[[str], None]:
    """Takes a line of figures for the end of the run."""
    return MEASURED.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in MEASURED:
        terminalreporter.write_line(line)
