"""How often a kill test kills, and how often it did."""

from __future__ import annotations

import pytest
from tests.support.kills import KILLS

FEW, MANY = 5, 60


@pytest.fixture(params=[pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)])
def kills(request: pytest.FixtureRequest) -> int:
    """Kills of one operation: a few in every run of the tests, many in the long one."""
    return int(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if KILLS:
        counted = ", ".join(f"{operation} {count}" for operation, count in sorted(KILLS.items()))
        terminalreporter.write_line(f"Killed with SIGKILL at random moments: {counted}; {sum(KILLS.values())} in all")
