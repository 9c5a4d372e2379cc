"""Dice and its interval, against values worked by hand."""

import numpy as np
import pytest

from medai.errors import GeometryError, InputError
from medai.evaluation.dice import dice, mean_by_patient_bootstrap


def masks():
    one = np.zeros((10, 11, 12), dtype=bool)
    other = one.copy()
    one[2:6, 3:5, 4:6] = True  # 16 voxels
    other[4:8, 3:5, 4:6] = True  # 16 voxels, 8 shared
    return one, other


def test_half_overlap_is_one_half():
    assert dice(*masks()) == 0.5


def test_equal_disjoint_and_empty_masks():
    one, _ = masks()
    empty = np.zeros_like(one)
    assert dice(one, one) == 1.0
    assert dice(one, np.roll(one, 5, axis=1)) == 0.0
    assert dice(empty, empty) == 1.0
    assert dice(one, empty) == 0.0


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"\(10, 11, 12\) and \(10, 11, 13\)"):
        dice(np.zeros((10, 11, 12), dtype=bool), np.zeros((10, 11, 13), dtype=bool))


def test_interval_holds_the_mean_and_counts_patients(rng):
    values = rng.uniform(0.6, 0.9, 60)
    found = mean_by_patient_bootstrap(values, [f"p{n // 3}" for n in range(60)], rng)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(values.mean())
    assert (found.cases, found.patients) == (60, 20)


def test_nodules_of_one_patient_do_not_narrow_the_interval(rng):
    by_patient = np.repeat(rng.uniform(0.5, 0.9, 15), 8)
    together = mean_by_patient_bootstrap(by_patient, [str(n // 8) for n in range(120)], rng)
    apart = mean_by_patient_bootstrap(by_patient, [str(n) for n in range(120)], rng)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_no_values_are_refused(rng):
    with pytest.raises(InputError, match="0 values of 0 patients"):
        mean_by_patient_bootstrap([], [], rng)


def test_the_expanded_interval_of_five_patients_holds_the_truth_as_often_as_it_says(rng):
    names = list("abcde")
    hits = {True: 0, False: 0}
    for _ in range(400):
        values = rng.normal(size=5)
        for expanded in hits:
            found = mean_by_patient_bootstrap(values, names, rng, expanded=expanded)
            hits[expanded] += found.low <= 0.0 <= found.high
    assert hits[True] > 0.9 * 400 > hits[False]


def test_the_expanded_interval_of_one_patient_is_that_one_and_of_many_the_plain_one(rng):
    assert mean_by_patient_bootstrap([0.5, 0.7], ["a", "a"], rng, expanded=True).low == pytest.approx(0.6)
    values, names = rng.normal(size=300), [str(n) for n in range(300)]
    plain, expanded = (mean_by_patient_bootstrap(values, names, rng, draws=20000, expanded=e) for e in (False, True))
    assert expanded.high - expanded.low == pytest.approx(plain.high - plain.low, rel=0.03)
