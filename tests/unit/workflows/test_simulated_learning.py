"""Trials with a task that costs nothing: what is shared, what is resumed, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medai.domain.case_score import CandidateScore, CaseScore
from medai.errors import CancelledByUserError, InputError
from medai.workflows.simulated_learning import (
    LearningPlan,
    PoolCase,
    Trial,
    WithEmptyPatients,
    check_strategies,
    full_figure,
    play_seed,
)

PLAN = LearningPlan(rounds=3, budget=2, warm_start=2)


class CountingTask:
    """Its model is the list of the labelled patients, its figure their mean worth; a patient's doubt is its worth."""

    name, measure, judged_nodules = "counting", "worth", 5

    def __init__(self, patients: int = 20) -> None:
        self.pool: Mapping[str, PoolCase] = {
            f"p{n:02d}": PoolCase(
                case_id=f"p{n:02d}", nodule_ids=(f"n{n}",), millilitres=float(n), diameters_mm=(5.0,), kinds=("solid",)
            )
            for n in range(patients)
        }
        self.trained: list[tuple[str, ...]] = []
        self.scored: list[tuple[str, ...]] = []

    def train(self, labelled: Sequence[str], *, before: Path | None, folder: Path, seed: int) -> None:
        assert folder.is_dir()
        assert before is None or (before / "model.json").is_file()
        self.trained.append(tuple(labelled))
        (folder / "model.json").write_text(json.dumps(list(labelled)))

    def judge(self, model: Path) -> float:
        labelled = json.loads((model / "model.json").read_text())
        return float(np.mean([self.pool[name].millilitres for name in labelled])) / len(self.pool)

    def score(self, model: Path, before: Path | None, cases: Sequence[str]) -> list[CaseScore]:
        self.scored.append(tuple(cases))
        return [
            CaseScore(
                case_id=name,
                model_versions={},
                scored_at_s=0.0,
                candidates=(
                    CandidateScore(
                        centre_ras_mm=(0.0, 0.0, 0.0),
                        diameter_mm=5.0,
                        volume_ml=1.0,
                        probability=1.0,
                        entropy=self.pool[name].millilitres / 100,
                    ),
                ),
                embedding=self.embedding(name),
                expected_minutes=1.0,
            )
            for name in cases
        ]

    def embedding(self, case_id: str) -> NDArray[np.float32]:
        return np.array([self.pool[case_id].millilitres, 0.0], dtype=np.float32)


def test_the_warm_start_is_shared_and_nobody_is_labelled_twice(tmp_path: Path) -> None:
    task = CountingTask()
    trials = play_seed(task, ["random", "entropy"], 1, PLAN, tmp_path)
    assert len({trial.rounds[0] for trial in trials}) == 1
    for trial in trials:
        assert len(trial.labelled) == len(set(trial.labelled)) == PLAN.labelled_at_end
        assert [each.cases for each in trial.rounds] == [2, 4, 6, 8]
    # One warm start, three rounds of each.
    assert len(task.trained) == 7


def test_a_strategy_that_goes_by_doubt_takes_the_most_doubtful(tmp_path: Path) -> None:
    task = CountingTask()
    (trial,) = play_seed(task, ["entropy"], 1, PLAN, tmp_path)
    left = sorted(set(task.pool) - set(trial.rounds[0].picked))
    assert set(trial.rounds[1].picked) == set(left[-2:])
    assert trial.rounds[1].figure > trial.rounds[0].figure


def test_random_asks_no_model(tmp_path: Path) -> None:
    task = CountingTask()
    play_seed(task, ["random"], 1, PLAN, tmp_path)
    assert task.scored == []


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = play_seed(CountingTask(), ["random", "entropy"], 1, PLAN, tmp_path / "whole")
    asked = iter([False, False, True])
    with pytest.raises(CancelledByUserError, match="goes on with it"):
        play_seed(CountingTask(), ["random", "entropy"], 1, PLAN, tmp_path / "cut", should_stop=lambda: next(asked))
    task = CountingTask()
    rest = play_seed(task, ["random", "entropy"], 1, PLAN, tmp_path / "cut")
    assert [_without_time(trial) for trial in rest] == [_without_time(trial) for trial in whole]
    assert len(task.trained) == 4  # two rounds had been played


def test_a_round_that_was_cut_off_is_trained_anew(tmp_path: Path) -> None:
    class Dying(CountingTask):
        def judge(self, model: Path) -> float:
            if "round_2" in str(model):
                raise KeyboardInterrupt
            return super().judge(model)

    with pytest.raises(KeyboardInterrupt):
        play_seed(Dying(), ["random"], 1, PLAN, tmp_path)
    (trial,) = play_seed(CountingTask(), ["random"], 1, PLAN, tmp_path)
    assert len(trial.rounds) == 4


def test_the_whole_pool_is_learned_in_as_many_rounds(tmp_path: Path) -> None:
    task = CountingTask()
    figure = full_figure(task, 1, PLAN, tmp_path)
    assert figure == pytest.approx(np.mean(np.arange(20)) / 20)
    assert len(task.trained) == 4
    assert full_figure(CountingTask(), 1, PLAN, tmp_path) == figure


def test_patients_without_a_nodule_cost_a_case_and_teach_nothing(tmp_path: Path) -> None:
    task = CountingTask()
    with_empty = WithEmptyPatients(task, 0.5)
    assert len(with_empty.pool) == 40
    (trial,) = play_seed(with_empty, ["random"], 3, LearningPlan(rounds=5, budget=4, warm_start=2), tmp_path)
    empty = [name for name in trial.labelled if name.startswith("no-nodule")]
    assert empty
    assert not any(name.startswith("no-nodule") for name in task.trained[-1])
    assert not any(name.startswith("no-nodule") for name in trial.rounds[0].picked)


def test_only_some_of_a_large_pool_are_looked_at(tmp_path: Path) -> None:
    task = CountingTask()
    play_seed(task, ["entropy"], 1, LearningPlan(rounds=1, budget=2, warm_start=2, most_scored=5), tmp_path)
    assert len(task.scored[0]) == 5 + 2  # and those labelled, for strategies that keep away from them


def test_too_long_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels 8 patients, the pool of counting has 5"):
        play_seed(CountingTask(5), ["random"], 1, PLAN, tmp_path)
    assert not list(tmp_path.iterdir())


def test_strategies_are_named_once_and_exist() -> None:
    with pytest.raises(InputError, match="no strategy 'best'"):
        check_strategies(["random", "best"])
    with pytest.raises(InputError, match="once"):
        check_strategies(["random", "random"])
    with pytest.raises(InputError, match="these are none"):
        check_strategies([])


def test_a_damaged_round_is_named(tmp_path: Path) -> None:
    play_seed(CountingTask(), ["random"], 1, PLAN, tmp_path)
    (tmp_path / "seed_1" / "random" / "trial.json").write_text("{")
    with pytest.raises(InputError, match="delete the folder"):
        play_seed(CountingTask(), ["random"], 1, PLAN, tmp_path)


def _without_time(trial: Trial) -> list[tuple[object, ...]]:
    return [(each.number, each.picked, each.cases, each.millilitres, each.figure) for each in trial.rounds]
