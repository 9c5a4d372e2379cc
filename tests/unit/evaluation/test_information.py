"""Entropy and mutual information, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.evaluation.information import entropy_bits, mutual_information_bits


@pytest.mark.parametrize(
    ("probability", "bits"), [(0.0, 0.0), (0.5, 1.0), (1.0, 0.0), (0.25, 0.811278), (0.75, 0.811278)]
)
def test_entropy_by_hand(probability, bits):
    # 0.25: -(0.25 · -2 + 0.75 · log2 0.75) = 0.5 + 0.75 · 0.415037
    assert float(entropy_bits(probability)) == pytest.approx(bits, abs=1e-6)


def test_members_that_contradict_each_other_tell_most():
    assert float(mutual_information_bits(np.array([1.0, 0.0]))) == 1.0


def test_members_that_are_unsure_alike_tell_nothing():
    assert float(mutual_information_bits(np.array([0.5, 0.5, 0.5]))) == 0.0


def test_mutual_information_by_hand():
    # mean 0.5 has 1 bit, the members 0.811278 each
    assert float(mutual_information_bits(np.array([0.25, 0.75]))) == pytest.approx(0.188722, abs=1e-6)


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_it_lies_between_nothing_and_the_entropy_of_the_mean(members):
    each = np.array(members)
    information = mutual_information_bits(each)
    assert information.shape == (3,)
    assert np.all(information >= 0)
    assert np.all(information <= entropy_bits(each.mean(axis=0)) + 1e-12)
