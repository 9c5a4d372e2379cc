"""What an annotator reads, word for word."""

from dataclasses import replace

import pytest
from tests.support.score_factory import candidate, case_score

from medai.active_learning.cost import AnnotationCost
from medai.active_learning.pool import Pool
from medai.active_learning.reasons import explain
from medai.domain.score_table import ScoreTable


def said(score, *others, **more):
    labelled = set(more.get("labelled", ()))
    table = ScoreTable.of([score, *others])
    return explain(Pool(case_ids=tuple(c for c in table.case_ids if c not in labelled), scores=table, **more), "case")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "no candidate nodule; about 4 min"),
        ([candidate(0.1)], "only unlikely candidates; about 4 min"),
        ([candidate(0.5, diameter_mm=4.6)], "1 uncertain nodule, 5 mm; about 4 min"),
        ([candidate(0.95, diameter_mm=8), candidate(0.9, diameter_mm=12)], "2 likely nodules, 8–12 mm; about 4 min"),
        (
            [candidate(0.95, diameter_mm=8), candidate(0.4, diameter_mm=3), candidate(0.1, diameter_mm=30)],
            "1 uncertain nodule, 3 mm and 1 likely nodule, 8 mm; about 4 min",
        ),
        (
            [replace(candidate(0.95, diameter_mm=8), outline_doubt=0.4)],
            "1 likely nodule, 8 mm, outline in doubt; about 4 min",
        ),
    ],
)
def test_what_is_there_is_said(found, words):
    assert said(case_score("case", *found)) == words


def test_a_case_nobody_looked_at_says_so():
    assert explain(Pool(case_ids=("case",)), "case") == "not looked at by the model yet"


def test_a_case_unlike_the_labelled_ones_says_so():
    case = case_score("case", candidate(0.5, diameter_mm=4), candidate(0.6, diameter_mm=6), at=[9.0])
    others = [case_score(f"c{n}", candidate(), at=[1.0]) for n in range(3)]
    labelled = [case_score(f"done {n}", candidate(), at=[0.0]) for n in range(37)]
    assert said(case, *others, *labelled, labelled=tuple(s.case_id for s in labelled)) == (
        "2 uncertain nodules, 4–6 mm, unlike the 37 labelled so far; about 4 min"
    )


def test_a_case_like_a_labelled_one_says_so():
    case = case_score("case", candidate(0.5), at=[0.1])
    others = [case_score(f"c{n}", candidate(), at=[1.0]) for n in range(3)]
    done = case_score("done", candidate(), at=[0.0])
    assert "much like a labelled one" in said(case, *others, done, labelled=("done",))


def test_models_and_readers_that_differ_are_named():
    words = said(case_score("case", candidate(0.5), disagreement=0.5), reader_disagreement={"case": 0.9})
    assert "the last two models differ, its readers differ" in words


def test_the_minutes_are_those_of_the_present_cost():
    cost = AnnotationCost(minutes_a_case=10.0, minutes_a_nodule=4.0, minutes_a_ml=0.0)
    assert said(case_score("case", candidate(0.5)), cost=cost).endswith("about 12 min")
