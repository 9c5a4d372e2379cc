"""Plots of text."""

import pytest

from medai.cli.terminal_plots import bar, curve


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "█" * 8), (0.5, "█" * 4), (0.0, ""), (0.53, "████▎"), (9.0, "█" * 8), (float("nan"), "")]
)
def test_bars_have_the_length_of_their_figure(share: float, text: str) -> None:
    assert bar(share, width=8) == text


def test_a_curve_is_drawn_in_its_box() -> None:
    lines = curve([(0.0, 0.0), (1.0, 1.0)], width=4, height=3).splitlines()
    assert lines[0].startswith("1.0 │")
    assert len(lines) == 5
    inked = [[character not in " \u2800" for character in line[5:]] for line in lines[:3]]
    assert inked[0][3]
    assert inked[2][0]
    assert not inked[0][0]
