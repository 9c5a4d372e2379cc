"""Annotation replayed on real files: both tasks learn, are scored and judged; the command reports and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.rated_balls import rated_balls, write_folder
from typer.testing import CliRunner

from medai.cli.main import app
from medai.errors import InputError
from medai.workflows.learning_segmentation import LearningSteps, SegmentationLearning
from medai.workflows.simulate_learning import LearningSimulation, simulate_learning
from medai.workflows.simulated_learning import LearningPlan, play_seed

BALLS = 30


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    return write_folder(folder, rated_balls(BALLS))


def test_the_command_reports_draws_and_goes_on(balls: Path, tmp_path: Path) -> None:
    words = ["simulate", "active-learning", "--data", str(balls), "--tasks", "classification", "--seeds", "2"]
    words += ["--strategies", "random,default,core_set", "--rounds", "3", "--jobs", "1", "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "first.json")])
    assert first.exit_code == 0, first.output
    report = json.loads((tmp_path / "first.json").read_text())["tasks"]["classification"]
    # The larger a ball, the more suspicious: a few ratings teach all of it.
    assert report["full_figure"] > 0.9
    assert set(report["strategies"]) == {"random", "default", "core_set"}
    assert report["strategies"]["default"]["gain_vs_random"] is not None
    assert len(report["trials"]) == 6
    assert all(len(trial["rounds"]) == 4 for trial in report["trials"])
    assert (tmp_path / "out" / "active-learning.html").read_text().count("data:image/png") == 2
    assert "| default |" in (tmp_path / "out" / "active-learning.md").read_text()
    again = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "again.json")])
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "again.json").read_text())["tasks"]["classification"] == report


def test_outlines_are_learned_scored_and_judged(balls: Path, tmp_path: Path) -> None:
    task = SegmentationLearning(balls, steps=LearningSteps(first=4, further=2, batch_size=2), most_judged=2)
    plan = LearningPlan(rounds=2, budget=1, warm_start=1, most_scored=3)
    (trial,) = play_seed(task, ["bald"], 1, plan, tmp_path)
    assert [each.cases for each in trial.rounds] == [1, 2, 3]
    assert all(0 <= each.figure <= 1 for each in trial.rounds)
    model, before = (tmp_path / "seed_1" / "bald" / f"round_{number}" for number in (2, 1))
    (score,) = task.score(model, before, [trial.labelled[0]])
    assert score.disagreement is not None
    assert score.candidates[0].mutual_information is not None
    assert score.embedding is not None


def test_another_plan_is_not_mixed_in(balls: Path, tmp_path: Path) -> None:
    plan = LearningPlan(rounds=1, budget=1, warm_start=4)
    simulation = LearningSimulation(
        tasks=("classification",), strategies=("random",), seeds=1, plans={"classification": plan}
    )
    simulate_learning(balls, tmp_path, simulation)
    other = LearningSimulation(
        tasks=("classification",),
        strategies=("random",),
        seeds=1,
        plans={"classification": LearningPlan(rounds=2, budget=1, warm_start=4)},
    )
    with pytest.raises(InputError, match="another plan"):
        simulate_learning(balls, tmp_path, other)
