"""What of a study is to be scored next."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.score_factory import candidate, case_score

from medai.domain.case_score import CaseScore
from medai.errors import ConflictError
from medai.store.scores import ScoreStore
from medai.store.scoring_turn import ScoringTurn
from medai.store.study import StudyStore
from medai.workflows.executors import CaseOutcome, InProcessExecutor
from medai.workflows.score_pool import ScoringPool, compared

V1 = {"nodule_click": "v1", "nodule_detection": "v1"}
V2 = {**V1, "nodule_click": "v2"}


class Bench:
    """A study of four cases, its scores, and champions that a test publishes."""

    def __init__(self, folder: Path) -> None:
        for name in "abcd":
            (folder / f"{name}.nii.gz").write_bytes(b"scan")
        self.folder = folder
        self.study = StudyStore(folder)
        self.scores = ScoreStore(folder)
        self.versions = dict(V1)
        self.clock = 0.0
        self.pool = ScoringPool(self.study, self.scores, lambda: self.versions, now=lambda: self.clock)

    def scored(self, case_id: str, versions: dict[str, str] = V1, at_s: float = 1000.0) -> CaseScore:
        return case_score(case_id, candidate(0.5), versions=versions, scored_at_s=at_s)

    def keep(self, case_id: str, versions: dict[str, str] = V1) -> None:
        self.clock += 10
        self.pool.keep(CaseOutcome(case_id=case_id, result=self.scored(case_id, versions, self.clock)))

    def label(self, case_id: str) -> None:
        label = self.folder.parent / "label.nii.gz"
        label.write_bytes(b"label")
        self.study.save_label(case_id, label)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "study"
    folder.mkdir()
    return Bench(folder)


def test_never_scored_ones_come_first_then_the_oldest_scores(bench: Bench):
    bench.scores.put(bench.scored("a", V2, at_s=300.0))
    bench.scores.put(bench.scored("b", V2, at_s=200.0))
    bench.scores.put(bench.scored("c"))
    assert bench.pool.due() == ["d", "b", "a"]


def test_labelled_cases_are_scored_where_they_never_were_and_last(bench: Bench):
    bench.scores.put(bench.scored("c", V2))
    for case_id in "ac":
        bench.label(case_id)
    assert bench.pool.due() == ["b", "d", "a"], "c has a score of other models: good enough to compare with"


def test_a_case_that_came_meanwhile_is_next_and_a_labelled_one_is_left_out(bench: Bench):
    cases = bench.pool.cases()
    bench.scores.put(bench.scored("b", V2, at_s=5.0))
    assert next(cases) == "a"
    bench.keep("a")
    (bench.folder / "aa.nii.gz").write_bytes(b"scan")
    bench.label("c")
    assert next(cases) == "aa"
    bench.keep("aa")
    assert [next(cases), next(cases)] == ["d", "b"]


def test_a_champion_published_meanwhile_makes_all_due_again_oldest_first(bench: Bench):
    cases = bench.pool.cases()
    for case_id in "ab":
        assert next(cases) == case_id
        bench.keep(case_id)
    bench.versions = dict(V2)
    rest = []
    for case_id in cases:
        bench.keep(case_id, V2)
        rest.append(case_id)
    assert rest == ["c", "d", "a", "b"]
    assert bench.pool.scored == 6


def test_what_is_at_hand_is_not_given_away_again(bench: Bench):
    cases = bench.pool.cases()
    assert [next(cases), next(cases)] == ["a", "b"]
    bench.versions = dict(V2)
    assert bench.pool.due() == ["c", "d"]
    assert bench.pool.left == 4
    bench.pool.let_go()
    assert bench.pool.due() == ["a", "b", "c", "d"], "stopped work is due again"


def test_a_failed_case_waits_for_another_file_another_champion_or_somebody_who_asks(bench: Bench):
    def fail() -> None:
        bench.clock += 10
        assert next(bench.pool.cases()) == "a"
        bench.pool.keep(CaseOutcome(case_id="a", error="no scan"))
        assert bench.pool.failed == {"a": "no scan"}
        assert "a" not in bench.pool.due()

    fail()
    import os

    os.utime(bench.folder / "a.nii.gz", (1, 1))
    fail()
    bench.versions = dict(V2)
    fail()
    bench.pool.try_failed_again()
    assert "a" in bench.pool.due()


def test_everything_is_scored_once_by_an_executor(bench: Bench):
    stored = []
    for outcome in InProcessExecutor().run(bench.pool.cases(), lambda: bench.scored):
        bench.pool.keep(outcome)
        stored.append(outcome.case_id)
    assert stored == ["a", "b", "c", "d"]
    assert bench.pool.due() == []
    assert bench.pool.left == 0


def test_how_much_two_models_differ_is_added_where_the_earlier_score_is_known(bench: Bench):
    score = bench.scored("a", V2)
    assert compared(score, None).disagreement is None
    other = case_score("a", candidate(0.9), versions=V1)
    assert compared(score, other).disagreement == pytest.approx(0.4)
    same = case_score("a", candidate(0.9), versions=V2, disagreement=0.25)
    assert compared(score, same).disagreement == 0.25


def test_one_scores_a_study_at_a_time(bench: Bench):
    first, second = ScoringTurn(bench.folder), ScoringTurn(bench.folder)
    waited = []
    with (
        first.taken(wait_s=0),
        pytest.raises(ConflictError, match="medai score"),
        second.taken(wait_s=0.3, on_wait=lambda: waited.append(1)),
    ):
        pass
    assert waited == [1]
    assert second.take()
    assert not first.take()
    second.give_back()
    assert first.take()
