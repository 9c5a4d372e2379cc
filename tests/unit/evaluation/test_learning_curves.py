"""Areas, labels needed and paired gains, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError
from medai.evaluation.learning_curves import (
    LearningCurve,
    area,
    compare_strategies,
    mean_curve,
    reached_at,
    t_interval,
)


def curve(*figures: float, ml: tuple[float, ...] | None = None) -> LearningCurve:
    cases = tuple(float(4 + 4 * number) for number in range(len(figures)))
    return LearningCurve(cases=cases, millilitres=ml or tuple(2 * n for n in cases), figures=figures)


class TestArea:
    def test_of_a_straight_line_is_its_middle(self) -> None:
        assert area([0, 10], [0.5, 0.9]) == pytest.approx(0.7)

    def test_counts_long_steps_for_more(self) -> None:
        # Two thirds of the range at 1, one third rising from 0 to 1.
        assert area([0, 1, 3], [0, 1, 1]) == pytest.approx((0.5 + 2) / 3)

    def test_ends_where_it_is_told(self) -> None:
        assert area([0, 10], [0.0, 1.0], until=5) == pytest.approx(0.25)

    def test_beyond_the_end_is_the_end(self) -> None:
        assert area([0, 10], [0.0, 1.0], until=50) == pytest.approx(0.5)

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
    def test_lies_between_the_figures(self, figures: list[float]) -> None:
        assert min(figures) - 1e-9 <= area(range(len(figures)), figures) <= max(figures) + 1e-9


class TestReached:
    def test_between_two_points_is_interpolated(self) -> None:
        assert reached_at([10, 20], [0.8, 0.9], 0.85) == pytest.approx(15)

    def test_the_last_crossing_counts_not_a_lucky_point(self) -> None:
        assert reached_at([0, 1, 2, 3], [0.5, 0.9, 0.7, 0.9], 0.8) == pytest.approx(2.5)

    def test_from_the_start(self) -> None:
        assert reached_at([4, 8], [0.9, 0.95], 0.9) == 4

    def test_never(self) -> None:
        assert reached_at([4, 8], [0.5, 0.6], 0.9) is None


class TestMeanCurve:
    def test_of_curves_over_different_budgets_covers_what_both_reach(self) -> None:
        budget, figures = mean_curve([([0, 10], [0.0, 1.0]), ([0, 20], [0.0, 1.0])])
        assert budget[-1] == 10
        assert figures[-1] == pytest.approx(0.75)


class TestComparison:
    def test_gains_are_taken_seed_by_seed(self) -> None:
        # Seeds differ by 0.2, strategies by 0.05 in every seed but for a little: paired, that is no chance.
        random = {1: curve(0.5, 0.6), 2: curve(0.7, 0.8), 3: curve(0.6, 0.7)}
        clever = {1: curve(0.55, 0.65), 2: curve(0.75, 0.85), 3: curve(0.65, 0.76)}
        found = compare_strategies({"random": random, "entropy": clever}, 0.9)["entropy"]
        gain = found.gains["random"]
        assert gain.mean == pytest.approx((0.05 + 0.05 + 0.055) / 3)
        assert gain.p is not None
        assert gain.p < 0.01
        assert gain.ci95 is not None
        assert gain.ci95[0] > 0

    def test_share_of_the_labels_random_needs(self) -> None:
        curves = {"random": {1: curve(0.5, 0.6, 0.7, 0.8, 0.95)}, "bald": {1: curve(0.5, 0.95, 0.95, 0.95, 0.95)}}
        found = compare_strategies(curves, 1.0)
        assert found["random"].labels_to_95pct == pytest.approx(20)
        assert found["bald"].labels_to_95pct == pytest.approx(8)
        assert found["bald"].share_of_random_labels == pytest.approx(0.4)

    def test_cost_in_millilitres_is_compared_up_to_the_same_volume(self) -> None:
        # The same figures with half the volume: better by volume, equal by cases.
        curves = {
            "random": {1: curve(0.5, 0.9, ml=(2, 10))},
            "cost_aware": {1: curve(0.5, 0.9, ml=(2, 6))},
        }
        gain = compare_strategies(curves, 1.0)["cost_aware"].gains["random"]
        assert gain.mean == pytest.approx(0)
        assert gain.mean_by_millilitres == pytest.approx(0.1)

    def test_json_has_the_agreed_keys(self) -> None:
        curves = {"random": {1: curve(0.5, 0.6), 2: curve(0.5, 0.7)}, "bald": {1: curve(0.5, 0.7), 2: curve(0.6, 0.7)}}
        shown = compare_strategies(curves, 0.9)["bald"].to_json()
        assert {"aubc", "aubc_ci95", "labels_to_95pct", "gain_vs_random", "p_vs_random"} <= shown.keys()
        assert {"gain_vs_foreground_random", "p_vs_foreground_random"} <= shown.keys()
        assert shown["gain_vs_foreground_random"] is None

    def test_one_seed_has_no_interval(self) -> None:
        found = compare_strategies({"random": {1: curve(0.5, 0.6)}}, 0.9)["random"]
        assert found.aubc_ci95 is None

    def test_refuses_nothing_to_compare(self) -> None:
        with pytest.raises(InputError, match="at least one seed"):
            compare_strategies({"random": {}}, 0.9)
        with pytest.raises(InputError, match="full-data figure is nan"):
            compare_strategies({"random": {1: curve(0.5, 0.6)}}, float("nan"))


class TestCurve:
    def test_refuses_points_out_of_order(self) -> None:
        with pytest.raises(InputError, match="out of order"):
            LearningCurve(cases=(8, 4), millilitres=(1, 2), figures=(0.5, 0.6))

    def test_refuses_figures_that_are_none(self) -> None:
        with pytest.raises(InputError, match="not a number"):
            LearningCurve(cases=(4, 8), millilitres=(1, 2), figures=(0.5, float("nan")))


def test_t_interval_is_that_of_the_textbook() -> None:
    # Mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027.
    low, high = t_interval([1, 2, 3]) or (np.nan, np.nan)
    assert (low, high) == (
        pytest.approx(2 - 4.3027 / np.sqrt(3), abs=1e-3),
        pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-3),
    )


def test_millilitres_are_counted_by_round_whatever_a_seed_began_with() -> None:
    small, large = curve(0.2, 0.8, 1.0, ml=(1, 2, 3)), curve(0.4, 1.0, 1.0, ml=(9, 20, 31))
    found = compare_strategies({"random": {1: small, 2: large}}, 0.8 / 0.95)["random"]
    # Means by round: 5, 11 and 17 ml give 0.3, 0.9 and 1.0; the goal of 0.8 lies five sixths on the way to the second.
    assert found.millilitres_to_95pct == pytest.approx(10.0)
