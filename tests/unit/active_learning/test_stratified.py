"""Sharpness, noise and shares of ClaSP PE."""

import collections

import numpy as np
import pytest
from tests.support.score_factory import candidate, case_score

from medai.active_learning.pool import NOTHING, UNKNOWN, Pool
from medai.active_learning.stratified import ClassStratifiedNoisyStrategy, noisy, predicted_class, sharpness
from medai.domain.score_table import ScoreTable

STRATEGY = ClassStratifiedNoisyStrategy()


def pool_of(classes, *, labelled=(), probability=0.5):
    scores = [
        case_score(f"{name} {n:03}", candidate(probability, predicted_class=name))
        for name, count in classes.items()
        for n in range(count)
    ]
    return Pool(case_ids=tuple(s.case_id for s in scores), scores=ScoreTable.of(scores), labelled=labelled)


@pytest.mark.parametrize(("labels", "sharp"), [(0, 1.0), (20, 2.0), (50, 3.5), (1000, 16.0)])
def test_sharpness_rises_with_the_labels(labels, sharp):
    assert sharpness(labels) == sharp


def test_at_sharpness_one_cases_are_drawn_by_their_entropy():
    # P(first) = u / sum u, the Gumbel-max trick.
    worth, rng, drawn = np.array([0.2, 0.3, 0.5]), np.random.default_rng(1), collections.Counter()
    for _ in range(4000):
        drawn[int(np.argmax(noisy(worth, 1.0, rng)))] += 1
    np.testing.assert_allclose([drawn[n] / 4000 for n in range(3)], worth, atol=0.03)


def test_at_sharpness_two_by_its_square():
    worth, rng, drawn = np.array([0.25, 0.5]), np.random.default_rng(1), collections.Counter()
    for _ in range(4000):
        drawn[int(np.argmax(noisy(worth, 2.0, rng)))] += 1
    assert drawn[1] / 4000 == pytest.approx(0.8, abs=0.045)


def test_no_noise_lifts_a_case_above_one_of_worth_that_has_none():
    rng = np.random.default_rng(1)
    for _ in range(200):
        values = noisy(np.array([NOTHING, 0.0, UNKNOWN]), 1.0, rng)
        assert values[1] > values[2] > values[0]


def test_two_thirds_of_a_batch_are_of_every_class_in_equal_shares():
    # 900 solid ones would fill any batch; 30 cases: 20 stratified, 20 / 4 classes = 5 of each, 10 of all.
    pool = pool_of({"solid": 900, "part-solid": 30, "non-solid": 30, "calcified": 30})
    batch = STRATEGY.select_batch(pool, 30, np.random.default_rng(1))
    counts = collections.Counter(case_id.split()[0] for case_id in batch)
    assert all(counts[name] >= 5 for name in ("part-solid", "non-solid", "calcified"))
    first = collections.Counter(case_id.split()[0] for case_id in batch[:20])
    assert set(first.values()) == {5}


def test_what_a_class_lacks_goes_to_the_others():
    pool = pool_of({"solid": 50, "rare": 2})
    batch = STRATEGY.select_batch(pool, 30, np.random.default_rng(1))
    first = collections.Counter(case_id.split()[0] for case_id in batch[:20])
    assert first == {"solid": 18, "rare": 2}


def test_the_share_holds_on_average_when_cases_are_asked_for_one_by_one():
    pool, rng = pool_of({"solid": 990, "rare": 10}), np.random.default_rng(1)
    rare = sum(STRATEGY.select(pool, rng).startswith("rare") for _ in range(1200)) / 1200
    # 2/3 stratified, half of that rare; the rest 1 in 100
    assert rare == pytest.approx(1 / 3 + 0.01 / 3, abs=0.045)


def test_a_case_is_of_the_class_of_its_least_sure_candidate():
    score = case_score("a", candidate(0.9, predicted_class="solid"), candidate(0.5, predicted_class="part-solid"))
    table = ScoreTable.of([score, case_score("b")])
    pool = Pool(case_ids=("a", "b", "new"), scores=table)
    assert [table.class_names[c] if c >= 0 else None for c in predicted_class(pool)] == ["part-solid", None, None]


def test_late_it_takes_the_most_doubtful():
    scores = [case_score(f"c{n:02}", candidate(0.01 + 0.02 * n)) for n in range(25)]
    labelled = tuple(f"done {n}" for n in range(400))
    pool = Pool(case_ids=tuple(s.case_id for s in scores), scores=ScoreTable.of(scores), labelled=labelled)
    rng = np.random.default_rng(1)
    assert np.mean([int(STRATEGY.select(pool, rng)[1:]) for _ in range(200)]) > 18
