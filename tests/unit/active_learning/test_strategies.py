"""One contract for every strategy, and what each promises besides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.score_factory import candidate, case_score

from medai.active_learning.strategies import COLD_START_LABELS, DEFAULT_STRATEGY, STRATEGIES, Pool
from medai.domain.score_table import ScoreTable
from medai.errors import InputError

IDS = st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=6), unique=True, max_size=10)
CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.floats(0, 1, width=32),
        predicted_class=st.sampled_from(["solid", "part-solid", "non-solid, suspicious"]),
        information=st.none() | st.floats(0, 1, width=32),
        variation=st.none() | st.floats(0, 1, width=32),
    ),
    max_size=3,
)
PLACES = st.none() | st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3)


@st.composite
def pools(draw):
    """A pool in which some cases were never scored, some hold nothing, some numbers are not known."""
    ids = draw(IDS)
    labelled = tuple(f"done {n}" for n in range(draw(st.integers(0, 14))))
    held = tuple(f"held {n}" for n in range(draw(st.integers(0, 2))))
    scores = []
    for case_id in (*ids, *labelled, *held):
        if draw(st.booleans()):
            found = draw(CANDIDATES)
            score = case_score(
                case_id,
                *found,
                at=draw(PLACES) if found else None,
                minutes=draw(st.floats(0.25, 60)),
                disagreement=draw(st.none() | st.floats(0, 1)),
            )
            scores.append(score)
    readers = draw(st.dictionaries(st.sampled_from([*ids, "elsewhere"]), st.floats(0, 1), max_size=3))
    return {
        "case_ids": tuple(ids),
        "scores": ScoreTable.of(scores),
        "labelled": labelled,
        "in_work": held,
        "reader_disagreement": readers,
    }


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
class TestEveryStrategy:
    @settings(max_examples=30)
    @given(pool=pools(), n=st.integers(0, 12), seed=st.integers(0, 99))
    def test_a_batch_is_of_distinct_open_cases_and_as_large_as_it_can_be(self, strategy, pool, n, seed):
        batch = strategy.select_batch(Pool(**pool), n, np.random.default_rng(seed))
        assert len(batch) == min(n, len(pool["case_ids"]))
        assert len(set(batch)) == len(batch)
        assert set(batch) <= set(pool["case_ids"])

    @settings(max_examples=20)
    @given(pool=pools())
    def test_it_serves_each_case_of_the_pool_once(self, strategy, pool):
        rng, left, served = np.random.default_rng(1), list(pool["case_ids"]), []
        while left:
            case_id = strategy.select(Pool(**{**pool, "case_ids": tuple(left)}), rng)
            assert case_id in left
            left.remove(case_id)
            served.append(case_id)
        assert sorted(served) == sorted(pool["case_ids"])

    @settings(max_examples=30)
    @given(pool=pools(), n=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
    def test_the_same_seed_gives_the_same_cases_in_whatever_order_they_are_listed(self, strategy, pool, n, seed, data):
        shuffled = {**pool, "case_ids": tuple(data.draw(st.permutations(pool["case_ids"])))}
        first = strategy.select_batch(Pool(**pool), n, np.random.default_rng(seed))
        assert strategy.select_batch(Pool(**shuffled), n, np.random.default_rng(seed)) == first

    def test_it_gives_none_from_an_empty_pool(self, strategy):
        assert strategy.select(Pool(case_ids=()), np.random.default_rng(1)) is None
        assert strategy.select_batch(Pool(case_ids=()), 5, np.random.default_rng(1)) == []

    def test_it_can_be_shown_to_an_annotator(self, strategy):
        assert strategy.description.strip()
        assert len(strategy.description) < 120


def test_the_plugin_finds_them_in_this_order():
    assert list(STRATEGIES) == [
        "default",
        "random",
        "first",
        "last",
        "foreground_random",
        "uncertainty",
        "entropy",
        "bald",
        "test_time_variation",
        "core_set",
        "typical",
        "representative",
        "information_density",
        "class_stratified_noisy",
        "cost_aware",
        "disagreement",
    ]


def test_a_pool_with_repetitions_is_refused():
    with pytest.raises(InputError, match="3 ids with repetitions"):
        Pool(case_ids=("a", "b", "a"))


def of(*scores, case_ids=None, **more):
    ids = tuple(score.case_id for score in scores) if case_ids is None else case_ids
    return Pool(case_ids=ids, scores=ScoreTable.of(scores), **more)


def order(name, pool, seed=1):
    return STRATEGIES[name].select_batch(pool, len(pool), np.random.default_rng(seed))


@pytest.mark.parametrize(
    "name", ["entropy", "uncertainty", "bald", "test_time_variation", "cost_aware", "foreground_random"]
)
def test_one_uncertain_5_mm_nodule_outranks_a_scan_of_noisy_air(name):
    specks = [candidate(0.12, diameter_mm=3.0, information=0.3, variation=0.5) for _ in range(10)]
    air = case_score("a air", *specks, minutes=4.5)
    nodule = case_score("b nodule", candidate(0.55, diameter_mm=5.0, information=0.2, variation=0.3), minutes=4.5)
    empty = case_score("c empty", minutes=3.0)
    assert order(name, of(air, nodule, empty))[0] == "b nodule"
    assert order(name, of(air, nodule, empty))[-1] != "b nodule"


class TestBaselines:
    def test_first_goes_by_name(self):
        assert order("first", of(case_ids=("b", "c", "a"))) == ["a", "b", "c"]

    def test_last_goes_by_name_from_the_end(self):
        assert order("last", of(case_ids=("b", "c", "a"))) == ["c", "b", "a"]

    def test_random_gives_every_case_its_chance(self):
        rng, pool = np.random.default_rng(1), of(case_ids=("a", "b", "c", "d"))
        counts = dict.fromkeys(pool.case_ids, 0)
        for _ in range(2000):
            counts[STRATEGIES["random"].select(pool, rng)] += 1
        assert all(abs(n - 500) < 80 for n in counts.values())

    def test_foreground_random_draws_where_nodules_are_then_the_unscored_then_the_rest(self):
        scores = [case_score(f"nodule {n}", candidate(0.2), candidate(0.5)) for n in range(4)]
        scores += [case_score("empty"), case_score("speck", candidate(0.49))]
        pool = of(*scores, case_ids=(*(s.case_id for s in scores), "new 1", "new 2"))
        seen = set()
        for seed in range(40):
            drawn = order("foreground_random", pool, seed)
            assert {case_id.split()[0] for case_id in drawn[:4]} == {"nodule"}
            assert {case_id.split()[0] for case_id in drawn[4:6]} == {"new"}
            seen.add(drawn[0])
        assert len(seen) == 4


class TestDoubt:
    def test_entropy_goes_by_the_least_sure_candidate_then_the_unscored_then_the_empty(self):
        pool = of(
            case_score("sure", candidate(0.99), candidate(0.98)),
            case_score("half", candidate(0.99), candidate(0.5)),
            case_score("quarter", candidate(0.25)),
            case_score("empty"),
            case_ids=("empty", "half", "new", "quarter", "sure"),
        )
        assert order("entropy", pool) == ["half", "quarter", "sure", "new", "empty"]
        assert order("uncertainty", pool) == order("entropy", pool)

    def test_bald_counts_what_members_differ_about_by_the_probability_of_a_nodule(self):
        pool = of(
            case_score("vessel", candidate(0.125, information=0.5)),
            case_score("nodule", candidate(0.75, information=0.25)),
            case_score("agreed", candidate(0.5, information=0.0)),
        )
        # 0.0625, 0.1875, 0
        assert order("bald", pool) == ["nodule", "vessel", "agreed"]

    @pytest.mark.parametrize("name", ["bald", "test_time_variation"])
    def test_without_ensemble_or_views_entropy_decides(self, name):
        pool = of(case_score("a", candidate(0.9)), case_score("b", candidate(0.5)), case_score("c"))
        assert order(name, pool) == ["b", "a", "c"]

    def test_test_time_variation_by_hand(self):
        pool = of(
            case_score("a", candidate(0.5, variation=0.5)),
            case_score("b", candidate(1.0, variation=0.375)),
            case_score("c", candidate(0.25, variation=0.75)),
        )
        # 0.25, 0.375, 0.1875
        assert order("test_time_variation", pool) == ["b", "a", "c"]

    def test_cost_counts(self):
        pool = of(
            case_score("long", candidate(0.5), minutes=10.0),
            case_score("short", candidate(0.25), minutes=4.0),
            case_score("sure", candidate(1.0), minutes=0.25),
        )
        # 1 / 10, 0.811 / 4, 0
        assert order("cost_aware", pool) == ["short", "long", "sure"]

    def test_readers_or_models_that_differ_come_first(self):
        pool = of(
            case_score("models", candidate(0.9), disagreement=0.25),
            case_score("same", candidate(0.5), disagreement=0.0),
            case_score("sure", candidate(1.0)),
            case_score("readers", candidate(0.9), disagreement=0.125),
            reader_disagreement={"readers": 0.75},
        )
        assert order("disagreement", pool) == ["readers", "models", "same", "sure"]


class TestDefault:
    def test_it_begins_with_representative_cases(self):
        # A dense group, a thin one, and one far away.
        scores = [case_score(f"dense {n}", candidate(), at=[0.01 * n, 0.0]) for n in range(7)]
        scores += [case_score(f"thin {n}", candidate(), at=[0.03, 5.0 + n]) for n in range(2)]
        for name in (DEFAULT_STRATEGY, "representative", "typical"):
            assert STRATEGIES[name].select(of(*scores), np.random.default_rng(1)) == "dense 3"

    def test_after_the_cold_start_it_is_the_recommended_one(self):
        labelled = tuple(f"done {n}" for n in range(COLD_START_LABELS))
        scores = [case_score(f"c{n}", candidate(0.1 * n), at=[float(n)]) for n in range(10)]
        pool = of(*scores, labelled=labelled)
        for seed in range(5):
            assert order(DEFAULT_STRATEGY, pool, seed) == order("information_density", pool, seed)

    def test_a_batch_may_end_the_cold_start(self):
        scores = [case_score(f"c{n:02}", candidate(0.5), at=[float(n)]) for n in range(20)]
        labelled = tuple(f"done {n}" for n in range(COLD_START_LABELS - 2))
        assert len(order(DEFAULT_STRATEGY, of(*scores, labelled=labelled))) == 20

    def test_before_anything_is_scored_it_is_random(self):
        first = {order(DEFAULT_STRATEGY, of(case_ids=("a", "b", "c", "d")), seed)[0] for seed in range(40)}
        assert first == {"a", "b", "c", "d"}
