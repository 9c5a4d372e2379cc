"""Ctrl+C in a command that takes long: what is kept, and how to go on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medai.cli.main import EXIT_INTERRUPTED, main
from medai.cli.output import stoppable
from medai.errors import CancelledByUserError


def stop(*_args: object, **_named: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "work", "words"),
    [
        (["phantom", "study", "OUT"], "medai.phantom.study.make_demo_study", "The scans made so far are in OUT"),
        (
            ["phantom", "detection", "OUT"],
            "medai.workflows.detection_cases.prepare_detection_cases",
            "The scans made so far are in OUT",
        ),
        (["score", "OUT"], "medai.workflows.score_pool.score_pool", "The scores so far are kept"),
        (["train", "OUT"], "medai.workflows.retrain.retrain", "The model in use stays"),
        (
            ["train", "nodule_click", "--data", "DATA", "--out", "OUT"],
            "medai.workflows.make_starter.make_starter",
            "What was reached is in OUT",
        ),
        (
            ["simulate", "retrain", "--data", "DATA", "--out", "OUT"],
            "medai.workflows.simulate_retraining.simulate_retraining",
            "The rounds played so far are in OUT: the same command goes on.",
        ),
        (
            ["simulate", "active-learning", "--data", "DATA", "--out", "OUT"],
            "medai.workflows.simulate_learning.simulate_learning",
            "The rounds played so far are in OUT",
        ),
        (["demo", "OUT"], "medai.phantom.study.make_demo_study", "The study with its labels so far is in OUT."),
        (["demo"], "medai.phantom.study.make_demo_study", "The temporary study was removed."),
        (
            ["evaluate", "segmentation", "--data", "DATA"],
            "medai.workflows.evaluate_segmentation.evaluate_segmentation",
            "Nothing is kept",
        ),
        (
            ["evaluate", "detection", "--data", "DATA", "--marks", "OUT/marks.csv"],
            "medai.workflows.evaluate_detection.evaluate_detection",
            "The marks so far are in OUT/marks.csv: the same command goes on.",
        ),
        (
            ["infer", "scan", "--image", "DATA", "--out", "OUT"],
            "medai.workflows.infer_folder.infer_folder",
            "The answers so far are in OUT: the same command goes on.",
        ),
    ],
)
def test_it_says_what_was_kept(
    arguments: list[str],
    work: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    Path("OUT").mkdir()
    Path("DATA").mkdir()
    Path("DATA/scan.nii.gz").touch()
    monkeypatch.setattr(work, stop)
    monkeypatch.setattr(sys, "argv", ["medai", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == EXIT_INTERRUPTED
    said = capsys.readouterr().err.strip()
    assert said.startswith("medai: stopped. ")
    assert words in said


def test_the_innermost_words_count():
    with pytest.raises(CancelledByUserError, match="3 of 5"), stoppable("outer"), stoppable(lambda: "3 of 5"):
        raise KeyboardInterrupt


def test_errors_pass_through():
    with pytest.raises(ValueError, match="else"), stoppable("kept"):
        raise ValueError("else")
