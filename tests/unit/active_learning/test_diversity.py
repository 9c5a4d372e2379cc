"""k-centre and typical cases, against what can be seen on a line or a plane; distances remembered are as if new."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.score_factory import candidate, case_score

from medai.active_learning.diversity import (
    CoreSetStrategy,
    InformationDensityStrategy,
    RepresentativeStrategy,
    TypicalStrategy,
)
from medai.active_learning.nearest import NearestLabelled
from medai.active_learning.pool import Pool
from medai.domain.score_table import ScoreTable


def line(places, **more):
    scores = [case_score(case_id, candidate(), at=[float(x), 0.0]) for case_id, x in places.items()]
    return Pool(
        case_ids=tuple(c for c in places if c not in more.get("labelled", ())), scores=ScoreTable.of(scores), **more
    )


def chosen(strategy, pool, n, seed=1):
    return strategy.select_batch(pool, n, np.random.default_rng(seed))


class TestCoreSet:
    def test_the_order_of_k_centre_by_hand(self):
        pool = line({"a": 0, "b": 1, "c": 4, "d": 10, "done": 0.5}, labelled=("done",))
        # 10 is 9.5 away; then 4 is 3.5 from 0.5; then a and b are 0.5 away: by name.
        assert chosen(CoreSetStrategy(), pool, 4) == ["d", "c", "a", "b"]

    def test_without_labels_it_begins_in_the_middle(self):
        pool = line({"a": 0, "b": 4, "c": 6, "d": 10})
        # b and c are 1 from the mean 5; then d is 6 from b, a 4; then c and a ...
        assert chosen(CoreSetStrategy(), pool, 3) == ["b", "d", "a"]

    def test_what_somebody_is_labelling_counts_as_covered(self):
        places = {"a": 0, "b": 1, "d": 10, "held": 10.5, "done": 0.5}
        scores = ScoreTable.of(case_score(c, candidate(), at=[float(x)]) for c, x in places.items())
        pool = Pool(case_ids=("a", "b", "d"), scores=scores, labelled=("done",), in_work=("held",))
        assert chosen(CoreSetStrategy(), pool, 1) == ["a"]

    def test_cases_without_a_place_come_last_those_with_nothing_in_them_at_the_very_end(self):
        scores = ScoreTable.of([case_score("a", candidate(), at=[1.0]), case_score("empty")])
        pool = Pool(case_ids=("a", "empty", "new"), scores=scores)
        assert chosen(CoreSetStrategy(), pool, 3) == ["a", "new", "empty"]

    def test_a_batch_is_what_single_choices_give(self):
        rng = np.random.default_rng(3)
        places = {f"c{n:02}": x for n, x in enumerate(rng.normal(size=30))}
        batch = chosen(CoreSetStrategy(), line(places), 6)
        one_by_one: list[str] = []
        while len(one_by_one) < 6:
            one_by_one += chosen(CoreSetStrategy(), line(places, labelled=tuple(one_by_one)), 1)
        assert one_by_one == batch


class TestRepresentative:
    def test_the_order_of_facility_location_by_hand(self):
        pool = line({"a": 0, "b": 1, "c": 2, "d": 3, "far": 8, "done": 3.5}, labelled=("done",))
        # From 3.5 the cases are 3.5, 2.5, 1.5, 0.5 and 4.5 away. a saves 3.5+1.5+0, b 2.5+2.5+0.5, c 1.5+1.5+1.5,
        # d 0.5 of each of four, far 4.5. Then far saves 4.5; then a and c save 1 each: by name; d is left.
        assert chosen(RepresentativeStrategy(), pool, 5) == ["b", "far", "a", "c", "d"]

    def test_without_labels_it_begins_with_the_median(self):
        # Sums of distances are 16, 13, 12, 13 and 30.
        pool = line({"a": 0, "b": 1, "c": 2, "d": 3, "far": 10})
        assert chosen(RepresentativeStrategy(), pool, 1) == ["c"]

    def test_one_far_case_does_not_outweigh_a_group(self):
        places = {f"near {n}": 5 + 0.1 * n for n in range(9)} | {"far": 30.0, "done": 0.0}
        pool = line(places, labelled=("done",))
        assert chosen(CoreSetStrategy(), pool, 1) == ["far"]
        assert chosen(RepresentativeStrategy(), pool, 1)[0].startswith("near")

    def test_what_somebody_is_labelling_counts_as_covered(self):
        places = {"a": 0, "b": 1, "d": 10, "held": 10.5, "done": 3.0}
        scores = ScoreTable.of(case_score(c, candidate(), at=[float(x)]) for c, x in places.items())
        pool = Pool(case_ids=("a", "b", "d"), scores=scores, labelled=("done",), in_work=("held",))
        assert chosen(RepresentativeStrategy(), pool, 1)[0] in {"a", "b"}

    def test_cases_without_a_place_come_last(self):
        scores = ScoreTable.of([case_score("a", candidate(), at=[1.0]), case_score("empty")])
        pool = Pool(case_ids=("a", "empty", "new"), scores=scores)
        assert chosen(RepresentativeStrategy(), pool, 3) == ["a", "new", "empty"]
        assert set(chosen(RepresentativeStrategy(), Pool(case_ids=("x", "y")), 2)) == {"x", "y"}

    def test_of_a_large_pool_a_part_is_looked_at(self):
        rng = np.random.default_rng(4)
        places = {f"left {n}": x for n, x in enumerate(rng.normal(-5, 0.1, 2500))}
        places |= {f"right {n}": x for n, x in enumerate(rng.normal(5, 0.1, 600))}
        names = [case_id.split()[0] for case_id in chosen(RepresentativeStrategy(), line(places), 2)]
        assert names == ["left", "right"]


class TestInformationDensity:
    def doubtful(self, places, labelled=()):
        """Cases on a line: name to place and the probability of a nodule, 0.5 being the most doubtful."""
        scores = [case_score(name, candidate(p), at=[float(x), 0.0]) for name, (x, p) in places.items()]
        ids = tuple(name for name in places if name not in labelled)
        return Pool(case_ids=ids, scores=ScoreTable.of(scores), labelled=labelled)

    def test_of_two_groups_alike_the_doubtful_one_comes_first(self):
        places = {f"sure {n}": (-5 + 0.1 * n, 0.999) for n in range(6)} | {"done": (0, 0.5)}
        places |= {f"doubtful {n}": (5 + 0.1 * n, 0.5) for n in range(5)}
        pool = self.doubtful(places, labelled=("done",))
        assert chosen(RepresentativeStrategy(), pool, 1)[0].startswith("sure")
        assert chosen(InformationDensityStrategy(), pool, 1)[0].startswith("doubtful")

    def test_a_lone_doubtful_case_does_not_outweigh_a_doubtful_group(self):
        places = {f"group {n}": (5 + 0.1 * n, 0.7) for n in range(8)} | {"alone": (-9, 0.5), "done": (0, 0.5)}
        pool = self.doubtful(places, labelled=("done",))
        assert chosen(InformationDensityStrategy(), pool, 1)[0].startswith("group")

    def test_a_batch_is_spread_out(self):
        places = {f"left {n}": (-5 + 0.1 * n, 0.5) for n in range(6)} | {"done": (0, 0.5)}
        places |= {f"right {n}": (5 + 0.1 * n, 0.5) for n in range(5)}
        names = [
            name.split()[0]
            for name in chosen(InformationDensityStrategy(), self.doubtful(places, labelled=("done",)), 2)
        ]
        assert names == ["left", "right"]

    def test_cases_that_nobody_scored_count_little_but_count(self):
        scores = ScoreTable.of([case_score("a", candidate(), at=[1.0]), case_score("empty")])
        pool = Pool(case_ids=("a", "empty", "new"), scores=scores)
        assert chosen(InformationDensityStrategy(), pool, 3) == ["a", "new", "empty"]


class TestTypical:
    def groups(self, **more):
        rng = np.random.default_rng(5)
        places = {f"left {n}": -10 + rng.normal(0, 0.3) for n in range(12)}
        places |= {f"middle {n}": rng.normal(0, 0.3) for n in range(8)}
        places |= {f"right {n}": 10 + rng.normal(0, 0.3) for n in range(5)}
        return line(places, **more)

    @pytest.mark.parametrize("seed", range(6))
    def test_a_batch_takes_the_groups_in_turn_the_largest_first(self, seed):
        names = [case_id.split()[0] for case_id in chosen(TypicalStrategy(), self.groups(), 3, seed)]
        assert names == ["left", "middle", "right"]

    @pytest.mark.parametrize("seed", range(6))
    def test_a_group_with_a_label_is_passed_over(self, seed):
        pool = self.groups(labelled=("left 0", "right 1"))
        assert chosen(TypicalStrategy(), pool, 1, seed)[0].startswith("middle")

    def test_the_most_typical_has_the_nearest_neighbours(self):
        # Of one group the sums of distances are 14, 11, 10, 11 and 30.
        pool = line({"a": 0, "b": 1, "c": 2, "d": 3, "far": 9})
        assert chosen(TypicalStrategy(), pool, 1) == ["c"]

    def test_it_does_not_tire_of_alike_cases(self):
        pool = line({f"c{n}": 1.0 for n in range(9)})
        assert len(set(chosen(TypicalStrategy(), pool, 9))) == 9


def straightforward(table, labelled):
    rows = [table.row(c) for c in labelled if table.row(c) is not None]
    centres = [table.embedding[row] for row in rows if table.has_embedding[row]]
    found = []
    for row in range(len(table)):
        if not table.has_embedding[row]:
            found.append(np.nan)
        else:
            found.append(min((float(np.linalg.norm(table.embedding[row] - c)) for c in centres), default=np.inf))
    return np.array(found)


PLACE = st.none() | st.lists(st.integers(-3, 3), min_size=2, max_size=2)
STEP = st.tuples(st.dictionaries(st.sampled_from("abcdefgh"), PLACE, max_size=8), st.sets(st.sampled_from("abcdefghx")))


@given(steps=st.lists(STEP, min_size=1, max_size=4))
def test_remembered_distances_are_as_if_worked_out_anew(steps):
    memory = NearestLabelled()
    for places, labelled in steps:
        table = ScoreTable.of(case_score(c, *([candidate()] if at else []), at=at) for c, at in sorted(places.items()))
        for _ in range(2):
            np.testing.assert_allclose(memory.distances(table, labelled), straightforward(table, labelled), atol=1e-3)


def test_one_label_more_is_all_that_is_worked_out(monkeypatch):
    from medai.active_learning import nearest

    asked = []
    original = nearest.nearest_squared

    def counted(points, centres):
        asked.append((len(points), len(centres)))
        return original(points, centres)

    monkeypatch.setattr(nearest, "nearest_squared", counted)
    memory = NearestLabelled()
    table = ScoreTable.of(case_score(f"c{n}", candidate(), at=[float(n)]) for n in range(10))
    memory.distances(table, ["c1", "c2"])
    memory.distances(table, ["c1", "c2", "c3"])
    memory.distances(table, ["c1", "c2", "c3"])
    assert asked == [(10, 2), (10, 1)]
    more = ScoreTable.of(case_score(f"c{n}", candidate(), at=[float(n)]) for n in range(12))
    memory.distances(more, ["c1", "c2", "c3"])
    assert asked[2:] == [(2, 3)]
