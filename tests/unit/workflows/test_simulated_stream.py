"""Who labels what: shares, shared cases, and labels that depend on nothing but the seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.rated_balls import ball_case

from medai.errors import InputError
from medai.evaluation.dice import dice
from medai.workflows.simulated_stream import (
    READERS,
    READERS_OF_SHARED,
    ReaderKind,
    drawn_label,
    is_bad_round,
    plan_round,
    readers_of,
)


def cases(count):
    return [f"case{n}" for n in range(count)]


def singles(planned):
    """Who labels the cases that one person reads."""
    read = Counter(label.case_id for label in planned)
    return [READERS[label.reader] for label in planned if read[label.case_id] == 1]


@given(count=st.integers(1, 40), number=st.integers(1, 12), seed=st.integers(0, 1000))
def test_every_case_is_labelled_and_nobody_labels_one_twice(count, number, seed):
    planned = plan_round(cases(count), number, np.random.default_rng(seed))
    assert {label.case_id for label in planned} == set(cases(count))
    assert len({(label.case_id, label.reader) for label in planned}) == len(planned)
    assert {label.reader for label in planned} <= set(READERS)
    read = Counter(Counter(label.case_id for label in planned).values())
    assert read == Counter({1: count - round(count / 3), READERS_OF_SHARED: round(count / 3)}) - Counter()


def test_the_same_seed_plans_the_same_round():
    first, second = (plan_round(cases(12), 2, np.random.default_rng([1, 2])) for _ in range(2))
    assert first == second


def test_the_honest_do_most_of_the_work_but_in_every_third_round():
    assert [number for number in range(1, 11) if is_bad_round(number)] == [3, 6, 9]
    usual = Counter(singles(plan_round(cases(600), 1, np.random.default_rng(1))))
    bad = Counter(singles(plan_round(cases(600), 3, np.random.default_rng(1))))
    assert 0.5 < usual[ReaderKind.HONEST] / 400 < 0.7
    assert 0.4 < bad[ReaderKind.HOSTILE] / 400 < 0.6
    assert bad[ReaderKind.HONEST] / 400 < 0.2


def test_a_round_without_cases_is_refused():
    with pytest.raises(InputError, match="Round 4 has no cases"):
        plan_round([], 4, np.random.default_rng(1))


def test_a_readers_label_is_the_same_whoever_else_labels():
    case = ball_case(1, radius_mm=6.0)
    for reader in READERS:
        assert np.array_equal(drawn_label(case, reader, 7), drawn_label(case, reader, 7))
    (ann, ben, _) = readers_of(ReaderKind.HONEST)
    assert not np.array_equal(drawn_label(case, ann, 7), drawn_label(case, ben, 7))
    assert not np.array_equal(drawn_label(case, ann, 7), drawn_label(case, ann, 8))


def test_readers_have_the_faults_that_their_names_say():
    balls = [ball_case(n, radius_mm=5.0 + 0.1 * n) for n in range(12)]
    quality = {name: np.mean([dice(drawn_label(b, name, 1), b.mask) for b in balls]) for name in READERS}
    volume = {
        name: np.mean([drawn_label(b, name, 1).sum() / b.mask.sum() for b in balls])
        for name in (*readers_of(ReaderKind.HONEST), *readers_of(ReaderKind.BIASED))
    }
    honest = [quality[name] for name in readers_of(ReaderKind.HONEST)]
    assert min(honest) > 0.85
    assert quality["careless Carl"] < min(honest) - 0.1
    assert quality["malicious Mal"] < 0.3
    assert volume["biased Bea"] > 1.4
    assert all(0.9 < volume[name] < 1.1 for name in readers_of(ReaderKind.HONEST))
