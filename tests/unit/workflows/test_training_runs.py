import json
import os
import threading

import pytest

from medai.errors import ConflictError, StorageError
from medai.workflows.training_runs import (
    RESUME_WITHIN_S,
    RetrainProgress,
    latest_report,
    latest_stats,
    train_stats,
    training_run,
)


def test_a_study_that_never_trained_has_no_stats(tmp_path):
    assert latest_stats(tmp_path) == {}
    assert latest_report(tmp_path) == {}


def test_stats_and_report_are_there_after_the_run(tmp_path):
    with training_run(tmp_path) as run:
        run.write_stats(RetrainProgress(stage="train", epoch=2, total_epochs=5, loss=0.25, score=0.75, eta_s=12.0))
        run.work_folder.mkdir(parents=True)
        run.write_report({"published": False, "champion_score": float("nan")})
    stats = latest_stats(tmp_path)
    assert (stats["epoch"], stats["current_epoch"], stats["total_epochs"]) == (2, 2, 5)
    assert stats["best_metric"] == 0.75
    assert stats["train"] == {"loss": 0.25}
    assert stats["start_ts"] == int(run.started_s)
    assert latest_report(tmp_path) == {"published": False, "champion_score": None}
    assert not run.work_folder.exists()


def test_the_latest_run_counts(tmp_path):
    for epoch in range(1, 4):
        with training_run(tmp_path) as run:
            run.write_stats(RetrainProgress(stage="train", epoch=epoch, total_epochs=5))
    assert latest_stats(tmp_path)["epoch"] == 3


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_stats_never_hold_what_json_readers_refuse(value):
    stats = train_stats(
        RetrainProgress(stage="train", epoch=0, total_epochs=5, loss=value, score=value, eta_s=value), started_s=0.0
    )
    text = json.dumps(stats, allow_nan=False)
    assert "null" not in text
    assert stats["best_metric"] == 0.0


def test_a_second_run_at_the_same_time_is_refused(tmp_path):
    refused = []

    def start_another():
        try:
            with training_run(tmp_path):
                pass
        except ConflictError as error:
            refused.append(str(error))

    with training_run(tmp_path):
        thread = threading.Thread(target=start_another)
        thread.start()
        thread.join(10)
    assert refused == ["A training of this study runs already: wait for it, or stop it first."]
    with training_run(tmp_path):
        pass


def test_work_of_a_killed_run_is_removed_by_the_next_one(tmp_path):
    left = tmp_path / ".medai" / "training" / "20260101T000000.000000Z" / "work"
    left.mkdir(parents=True)
    (left / "challenger.safetensors").write_bytes(b"x")
    with training_run(tmp_path):
        assert not left.exists()


def leave_work(tmp_path, job):
    with training_run(tmp_path) as run:
        assert not run.claim_work(job)
        (run.work_folder / "state").write_text("epoch 3")
        run.keeps_work = True
    return run.work_folder


def test_an_interrupted_run_is_taken_over_by_the_same_training(tmp_path):
    left = leave_work(tmp_path, {"task": "a", "examples": [("x", 1.0)]})
    with training_run(tmp_path) as run:
        assert run.claim_work({"task": "a", "examples": [("x", 1.0)]})
        assert (run.work_folder / "state").read_text() == "epoch 3"
        assert not left.exists()
    assert not run.work_folder.exists()


def test_another_training_removes_it(tmp_path):
    left = leave_work(tmp_path, {"task": "a"})
    with training_run(tmp_path) as run:
        assert not run.claim_work({"task": "b"})
        assert not left.exists()
        assert not (run.work_folder / "state").exists()


def test_work_of_the_day_before_yesterday_is_removed(tmp_path):
    left = leave_work(tmp_path, {"task": "a"})
    os.utime(left, (0, left.stat().st_mtime - 2 * RESUME_WITHIN_S))
    with training_run(tmp_path) as run:
        assert not left.exists()
        assert not run.claim_work({"task": "a"})


def test_a_damaged_report_is_named(tmp_path):
    folder = tmp_path / ".medai" / "training" / "20260101T000000.000000Z"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("{")
    with pytest.raises(StorageError, match=r"report\.json is damaged"):
        latest_report(tmp_path)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (RetrainProgress(stage="collect", epoch=0, total_epochs=5), "Reading the submitted labels"),
        (RetrainProgress(stage="train", epoch=2, total_epochs=5, loss=0.5), "Training, epoch 2 of 5, loss 0.500"),
        (RetrainProgress(stage="done", epoch=5, total_epochs=5), "Done"),
    ],
)
def test_progress_in_words(progress, words):
    assert progress.describe() == words
