"""``medai train``: a study or a task, and a clear word where it may be either or neither."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medai.cli.main import app
from medai.cli.train import is_task
from medai.errors import InputError, MedaiError, NotFoundError

runner = CliRunner()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str) -> str:
    done = runner.invoke(app, ["train", *arguments])
    assert isinstance(done.exception, MedaiError), done.output
    return str(done.exception)


def test_a_folder_is_a_study_and_a_name_with_data_is_a_task(here: Path):
    (here / "study").mkdir()
    assert not is_task("study", None)
    assert is_task("nodule_detection", here)
    assert is_task("classification", here)


def test_a_folder_with_a_tasks_name_is_told_apart(here: Path):
    (here / "nodule_click").mkdir()
    with pytest.raises(InputError, match=r"write \./nodule_click for the study, or add --data DIR"):
        is_task("nodule_click", None)
    assert not is_task("./nodule_click", None)
    assert is_task("nodule_click", here)


def test_neither_is_said_with_what_there_is(here: Path):
    with pytest.raises(NotFoundError, match=r"neither a study folder nor a task \(nodule_click, nodule_detection"):
        is_task("nope", None)
    with pytest.raises(NotFoundError, match="There is no task 'nope'"):
        is_task("nope", here)
    with pytest.raises(InputError, match="add --data DIR"):
        is_task("nodule_click", None)
    with pytest.raises(InputError, match="--data belongs to a task"):
        is_task(str(here), here)


@pytest.mark.parametrize(
    "option", [("--out", "x"), ("--from", "starter"), ("--members", "2"), ("--anew",), ("--card-only",)]
)
def test_a_tasks_options_are_refused_for_a_study(here: Path, option: tuple[str, ...]):
    (here / "study").mkdir()
    assert "belongs to 'medai train TASK --data DIR'" in refused("study", *option)


def test_a_studys_option_is_refused_for_a_task(here: Path):
    assert "--task belongs to a study" in refused("nodule_click", "--data", ".", "--task", "nodule_detection")


def test_an_unknown_family_and_a_study_without_labels_are_said(here: Path):
    (here / "study").mkdir()
    assert "There is no task 'lungs'" in refused("study", "--task", "lungs")
    assert "No case of this study" in refused("study")
    assert "all their nodules labelled" in refused("study", "--task", "nodule_detection")


def test_data_and_weights_that_are_not_there_are_said(here: Path):
    assert "holds no nodules to train on" in refused("segmentation", "--data", ".")
    assert "there is no file 'w.safetensors'" in refused("segmentation", "--data", ".", "--from", "w.safetensors")
    assert not (here / "medai-models").exists()
