"""One contract for every strategy, and what each promises besides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.active_learning.strategies import STRATEGIES, FirstStrategy, Pool, RandomStrategy, UncertaintyStrategy
from medai.errors import InputError

case_ids = st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=6), unique=True, max_size=12)
scores = st.floats(0, 1)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
class TestEveryStrategy:
    @given(ids=case_ids, data=st.data())
    def test_it_serves_each_case_of_the_pool_once(self, strategy, ids, data):
        known = data.draw(st.dictionaries(st.sampled_from([*ids, "elsewhere"]), scores))
        rng, left, served = np.random.default_rng(1), list(ids), []
        while left:
            case_id = strategy.select(Pool(case_ids=tuple(left), scores=known), rng)
            assert case_id in left
            left.remove(case_id)
            served.append(case_id)
        assert sorted(served) == sorted(ids)

    def test_it_gives_none_from_an_empty_pool(self, strategy):
        assert strategy.select(Pool(case_ids=()), np.random.default_rng(1)) is None

    @given(ids=case_ids, seed=st.integers(0, 99), data=st.data())
    def test_the_same_seed_gives_the_same_case_in_whatever_order_they_are_listed(self, strategy, ids, seed, data):
        shuffled = data.draw(st.permutations(ids))
        known = dict.fromkeys(ids[::2], 0.5)
        first = strategy.select(Pool(case_ids=tuple(ids), scores=known), np.random.default_rng(seed))
        second = strategy.select(Pool(case_ids=tuple(shuffled), scores=known), np.random.default_rng(seed))
        assert first == second

    def test_it_can_be_shown_to_an_annotator(self, strategy):
        assert strategy.description.strip()


def test_the_plugin_finds_random_first_uncertainty():
    assert list(STRATEGIES) == ["random", "first", "uncertainty"]


def test_a_pool_with_repetitions_is_refused():
    with pytest.raises(InputError, match="3 ids with repetitions"):
        Pool(case_ids=("a", "b", "a"))


def test_first_goes_by_name():
    assert FirstStrategy().select(Pool(case_ids=("b", "a")), np.random.default_rng(1)) == "a"


def test_random_gives_every_case_its_chance():
    rng = np.random.default_rng(1)
    pool = Pool(case_ids=("a", "b", "c", "d"))
    counts = dict.fromkeys(pool.case_ids, 0)
    for _ in range(2000):
        counts[RandomStrategy().select(pool, rng)] += 1
    assert all(abs(n - 500) < 80 for n in counts.values())


def test_uncertainty_takes_the_largest_score_and_the_unscored_last():
    strategy, rng = UncertaintyStrategy(), np.random.default_rng(1)
    known = {"b": 0.2, "c": 0.9, "d": 0.9, "gone": 1.0}
    order = []
    left = ["a", "b", "c", "d", "e"]
    while left:
        order.append(strategy.select(Pool(case_ids=tuple(left), scores=known), rng))
        left.remove(order[-1])
    assert order == ["c", "d", "b", "a", "e"]
