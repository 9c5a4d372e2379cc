import numpy as np
import pytest

from medai.errors import InputError
from medai.evaluation.paired import paired_difference


def test_each_patient_counts_once_however_many_scans_it_has(rng):
    champion = {"a1": 0.5, "a2": 0.5, "a3": 0.5, "b": 0.8}
    challenger = {"a1": 0.7, "a2": 0.7, "a3": 0.7, "b": 0.7}
    patients = {"a1": "a", "a2": "a", "a3": "a", "b": "b"}
    result = paired_difference(champion, challenger, patient_of_case=patients, rng=rng)
    assert result.case_count == 4
    assert result.patient_count == 2
    assert result.difference == pytest.approx((0.2 - 0.1) / 2)
    assert result.champion_mean == pytest.approx(0.65)
    assert (result.worst_case, result.worst_difference) == ("b", pytest.approx(-0.1))


def test_interval_of_a_constant_gain_is_the_gain_itself(rng):
    champion = {f"c{n}": 0.1 * n for n in range(7)}
    challenger = {case: dice + 0.05 for case, dice in champion.items()}
    result = paired_difference(champion, challenger, rng=rng)
    assert result.low == pytest.approx(0.05)
    assert result.high == pytest.approx(0.05)
    assert result.probability_worse == 0.0


def test_interval_agrees_with_the_normal_approximation(rng):
    differences = rng.normal(0.02, 0.1, 200)
    champion = {f"c{n:03}": 0.5 for n in range(200)}
    challenger = {f"c{n:03}": 0.5 + d for n, d in enumerate(differences)}
    result = paired_difference(champion, challenger, rng=rng)
    half_width = 1.645 * differences.std() / np.sqrt(200)
    assert result.low == pytest.approx(differences.mean() - half_width, abs=0.002)
    assert result.high == pytest.approx(differences.mean() + half_width, abs=0.002)


def test_same_seed_same_answer():
    champion = {f"c{n}": 0.5 for n in range(6)}
    challenger = {f"c{n}": 0.45 + 0.03 * n for n in range(6)}
    first, second = (paired_difference(champion, challenger, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert 0 < first.probability_worse < 1


@pytest.mark.parametrize(
    ("champion", "challenger", "message"),
    [
        ({}, {}, "No case to compare"),
        ({"a": 0.5}, {"a": 0.5, "b": 0.6}, "only one was on b"),
        ({"a": 0.5, "b": 0.1}, {"a": 0.5, "b": float("nan")}, "challenger has no finite score for b"),
        ({"a": float("inf")}, {"a": 0.5}, "champion has no finite score for a"),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(champion, challenger, message, rng):
    with pytest.raises(InputError, match=message):
        paired_difference(champion, challenger, rng=rng)
