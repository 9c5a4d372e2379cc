"""``medai models``: the list, a card, and the way back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.card_factory import make_starter
from typer.testing import CliRunner

from medai.cli import models as command
from medai.cli.main import app
from medai.errors import ConflictError, NotFoundError
from medai.evaluation.promotion import judge
from medai.networks.mean_weights import KEPT_SHARE
from medai.registry.model_registry import ModelRegistry

runner = CliRunner()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    make_starter(tmp_path / "starters")
    found = ModelRegistry(tmp_path / "models", starter_folder=tmp_path / "starters")
    monkeypatch.setattr(command, "_registry", lambda _: found)
    monkeypatch.setenv("COLUMNS", "200")
    return found


def publish(registry: ModelRegistry, tmp_path: Path) -> str:
    weights = tmp_path / "w.safetensors"
    weights.write_text("better")
    verdict = judge({"a": 0.7}, {"a": 0.9}, rng=np.random.default_rng(0))
    card: dict[str, Any] = {
        "trained_from": "starter",
        "trained_on": ["one"],
        "judged_on": ["two"],
        "epochs": 2,
        "seed": 1,
    }
    card["training_config"] = {KEPT_SHARE: 0.5}
    return registry.publish("nodule_click", weights, card, verdict).version_id


def run(*arguments: str) -> str:
    done = runner.invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_names_every_task_and_its_figure(registry, tmp_path):
    shown = run("list", "--json", str(tmp_path / "list.json"))
    assert "0.812 (0.790–0.830)" in shown
    assert "none" in shown
    tasks = [model["task"] for model in json.loads((tmp_path / "list.json").read_text())["models"]]
    assert tasks == ["nodule_click", "nodule_detection", "nodule_classification"]


def test_a_card_shows_everything_it_holds(registry, tmp_path):
    shown = run("card", "segmentation", "--json", str(tmp_path / "card.json"))
    for words in (
        "A model <of tests>",
        "CC BY 3.0",
        "Nobody et al.",
        "by patient",
        "epochs=2, seed=7",
        "0.812 (0.790–0.830)",
        "Dice by size",
        "<6 mm",
        "Diameter: median 4 mm",
        "LIDC-1",
        "pictures/worst_01.png",
        "Nodules of 3–30 mm.",
    ):
        assert words in shown
    written = json.loads((tmp_path / "card.json").read_text())
    assert written["card"]["task"] == written["task"] == "nodule_click"
    assert Path(written["pictures"]["pictures/worst.png"]).is_file()


def test_a_studys_model_shows_its_verdict_and_goes_back(registry, tmp_path):
    version = publish(registry, tmp_path)
    shown = run("card", "nodule_click")
    assert "0.700 → 0.900" in shown
    assert "50% of it kept" in shown
    assert "A model <of tests>" in run("card", "nodule_click", "--version", "starter")
    assert "trained from starter on 1 cases" in run("list")
    said = run("rollback", "nodule_click", "--studies", str(tmp_path))
    assert f"starter answers again, {version} stays" in said
    assert registry.champion("nodule_click").version_id == "starter"
    again = runner.invoke(app, ["models", "rollback", "nodule_click", "--studies", str(tmp_path)])
    assert isinstance(again.exception, ConflictError)


def test_the_history_tells_every_decision_and_why(registry, tmp_path):
    study = ("--studies", str(tmp_path))
    assert "Nothing has been decided yet" in run("history", "nodule_click", *study)
    version = publish(registry, tmp_path)
    refused = judge({"a": 0.9}, {"a": 0.8}, rng=np.random.default_rng(0))
    registry.record_refusal("nodule_click", refused, judged_against=version)
    run("rollback", "nodule_click", *study, "--who", "Ann", "--why", "it leaks")
    said = run("promote", "segmentation", version, *study, "--who", "Ben", "--why", "it does not")
    assert f"{version} answers now, in place of starter" in said
    shown = run("history", "segmentation", *study, "--json", str(tmp_path / "history.json"))
    for words in ("published", "refused", "rolled back", "promoted by hand", "0.900 → 0.800", "it leaks", "Ben"):
        assert words in shown
    events = json.loads((tmp_path / "history.json").read_text())["events"]
    assert [event["kind"] for event in events] == ["published", "refused", "rolled back", "promoted by hand"]
    assert events[1]["verdict"]["figures"]["difference"] == pytest.approx(-0.1)
    assert registry.champion("nodule_click").version_id == version


def test_a_version_is_pinned_and_let_go(registry, tmp_path):
    version = publish(registry, tmp_path)
    run("pin", "nodule_click", version, "--studies", str(tmp_path))
    assert registry.pinned("nodule_click") == (version,)
    assert "2, 1 pinned" in run("list")
    run("unpin", "nodule_click", version, "--studies", str(tmp_path))
    assert registry.pinned("nodule_click") == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("card", "lungs"), "There is no task 'lungs'"),
        (("card", "nodule_click", "--version", "v0001-00000000"), "There are: starter"),
    ],
)
def test_what_is_not_there_is_said(registry, arguments, words):
    done = runner.invoke(app, ["models", *arguments])
    assert isinstance(done.exception, NotFoundError)
    assert words in str(done.exception)


def test_a_study_that_is_not_there_is_said():
    done = runner.invoke(app, ["models", "list", "--studies", "/no/such/study"])
    assert isinstance(done.exception, NotFoundError)
