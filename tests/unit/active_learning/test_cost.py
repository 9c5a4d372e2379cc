"""What a label costs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.active_learning.cost import AnnotationCost, fit_cost
from medai.errors import InputError

PRIOR = AnnotationCost(minutes_a_case=3.0, minutes_a_nodule=1.0, minutes_a_ml=0.5)


def test_minutes_by_hand():
    assert PRIOR.minutes(nodules=2.5, volume_ml=4.0) == 3.0 + 2.5 + 2.0
    assert AnnotationCost(minutes_a_case=0, minutes_a_nodule=0, minutes_a_ml=0).minutes(nodules=1, volume_ml=1) == 0.25


def test_without_annotations_the_prior_holds():
    assert fit_cost([], [], [], prior=PRIOR) == PRIOR


def test_many_annotations_outweigh_the_prior():
    rng = np.random.default_rng(1)
    nodules, volume_ml = rng.integers(0, 6, 400).astype(float), rng.exponential(2.0, 400)
    minutes = 1.0 + 2.0 * nodules + 0.25 * volume_ml
    found = fit_cost(minutes.tolist(), nodules.tolist(), volume_ml.tolist(), prior=PRIOR)
    assert (found.minutes_a_case, found.minutes_a_nodule, found.minutes_a_ml) == pytest.approx(
        (1.0, 2.0, 0.25), abs=0.3
    )


def test_a_coffee_break_counts_three_times_the_median_at_most():
    usual = fit_cost([4.0] * 9, [1.0] * 9, [1.0] * 9, prior=PRIOR)
    with_break = fit_cost([4.0] * 8 + [600.0], [1.0] * 9, [1.0] * 9, prior=PRIOR)
    assert with_break.minutes(nodules=1, volume_ml=1) < usual.minutes(nodules=1, volume_ml=1) + 1.0


@given(st.lists(st.tuples(st.floats(0.1, 500), st.integers(0, 20), st.floats(0, 100)), max_size=12))
def test_no_history_makes_a_label_cost_less_than_nothing(history):
    minutes, nodules, volume_ml = ([row[n] for row in history] for n in range(3))
    assert fit_cost(minutes, nodules, volume_ml).minutes(nodules=0, volume_ml=0) > 0


def test_lists_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="1 times, 2 counts and 1 volumes"):
        fit_cost([1.0], [1.0, 2.0], [1.0])


def test_a_negative_cost_is_refused():
    with pytest.raises(InputError, match="less than nothing"):
        AnnotationCost(minutes_a_case=-1.0)
