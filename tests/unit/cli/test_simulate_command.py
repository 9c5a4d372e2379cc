"""What ``medai simulate retrain`` shows."""

import io

from rich.console import Console
from tests.support.simulated_rounds import MARGIN, label, off, on

from medai.cli.simulate import show_simulation
from medai.workflows.simulation_report import summarise


def test_arms_annotators_and_claims_are_shown():
    labels = [label("malicious Mal", quarantine="alone", quality=0.0), label("honest Ann")]
    text = io.StringIO()
    show_simulation(Console(file=text, width=160), summarise([on(labels=labels), off(labels=labels)], MARGIN))
    shown = " ".join(text.getvalue().split())
    assert "0.500 → 0.680" in shown
    assert "1 (round 3)" in shown
    assert "−0.200" in shown
    assert "biased Bea" in shown
    assert "+80 %, named in 1 of 1" in shown
    assert shown.count("holds ") == 5
    assert "fails " not in shown
