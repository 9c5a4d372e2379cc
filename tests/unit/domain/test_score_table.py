"""The columns say what the scores say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.score_factory import candidate, case_score

from medai.domain.case_score import version_key
from medai.domain.score_table import ScoreTable
from medai.errors import InputError

probabilities = st.lists(st.floats(0, 1, width=32), max_size=4)


@given(pool=st.lists(probabilities, max_size=6))
def test_sums_and_largest_are_taken_over_each_cases_own_candidates(pool):
    table = ScoreTable.of(case_score(f"c{n}", *map(candidate, found)) for n, found in enumerate(pool))
    probability = table.columns["probability"]
    np.testing.assert_allclose(table.sum_over(probability), [sum(found) for found in pool], rtol=1e-6)
    expected = [max(found, default=np.nan) for found in pool]
    np.testing.assert_array_equal(table.largest(probability), expected)
    assert table.candidate_counts.tolist() == [len(found) for found in pool]


def test_unknown_numbers_are_nan_and_do_not_hide_known_ones():
    table = ScoreTable.of([case_score("a", candidate(), candidate(information=0.25)), case_score("b", candidate())])
    np.testing.assert_array_equal(table.largest(table.columns["mutual_information"]), [0.25, np.nan])


def test_rows_are_found_by_id():
    table = ScoreTable.of([case_score("a"), case_score("b")])
    assert table.rows(["b", "x", "a"]).tolist() == [1, -1, 0]
    assert ("a" in table, "x" in table, table.row("x")) == (True, False, None)


def test_an_embedding_of_another_length_counts_as_none():
    table = ScoreTable.of([case_score("a", at=[1, 2]), case_score("b", at=[3, 4]), case_score("c", at=[1, 2, 3])])
    assert table.has_embedding.tolist() == [True, True, False]
    assert table.case("c").embedding is None


def test_an_empty_table_can_be_asked():
    table = ScoreTable()
    assert table.largest(table.columns["entropy"]).shape == (0,)
    assert table.has_embedding.shape == (0,)


def test_a_case_comes_once():
    with pytest.raises(InputError, match="twice"):
        ScoreTable.of([case_score("a"), case_score("a")])


def test_a_score_names_its_models_in_one_order():
    assert version_key({"b": "2", "a": "1"}) == "a=1 b=2"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_more_than_none(minutes):
    with pytest.raises(InputError, match="Case 'a' is expected to take"):
        case_score("a", minutes=minutes)


def test_a_probability_beyond_one_is_refused():
    with pytest.raises(InputError, match=r"probability is 1\.5"):
        candidate(1.5)
