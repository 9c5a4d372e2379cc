"""What MLflow and TensorBoard hold after a training was told to them; both are the real libraries."""

import contextlib
import json
import logging
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from medai.evaluation.promotion import OldCases, judge
from medai.workflows import mlflow_store
from medai.workflows.mlflow_tracker import MlflowTracker
from medai.workflows.run_tracking import CarefulTrackers, TrackedRun, tracked, trackers_for
from medai.workflows.tensorboard_tracker import TensorBoardTracker

OLD = OldCases(
    champion_score={"Smith": 0.8}, challenger_score={"Smith": 0.82}, groups_of_case={"Smith": {"size": "<6 mm"}}
)
VERDICT = judge({"Doe": 0.7}, {"Doe": 0.8}, old_cases=OLD, rng=np.random.default_rng(0))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "study" / ".medai" / "training" / "20260102T030405.000000Z"
    folder.mkdir(parents=True)
    parameters = {"epochs": 3, "seed": 1, "device": "cpu"}
    return TrackedRun(run_id=folder.name, task="nodule_click", folder=folder, parameters=parameters)


def tell(tracker, run):
    with tracked(tracker, run):
        for epoch in (1, 2, 3):
            tracker.curves({"train_loss": 1.0 / epoch, "validation": 0.5 + 0.1 * epoch}, epoch=epoch)
        tags = {"verdict": "promoted", "reason": VERDICT.reason}
        tracker.verdict({"gain": 0.1}, VERDICT.to_json(), tags)


def check_run(client, run):
    """The one run of the store, with all it was told."""
    experiment = client.get_experiment_by_name("medai nodule_click")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == run.run_id
    assert found.info.status == "FINISHED"
    assert found.data.params == {"epochs": "3", "seed": "1", "device": "cpu"}
    assert found.data.metrics["gain"] == pytest.approx(0.1)
    curve = client.get_metric_history(found.info.run_id, "validation")
    assert [(point.step, point.value) for point in curve] == [(n, pytest.approx(0.5 + 0.1 * n)) for n in (1, 2, 3)]
    assert found.data.tags["verdict"] == "promoted"
    return found


def test_the_studys_own_store_holds_parameters_curves_and_the_verdict(run, tmp_path):
    from mlflow import MlflowClient

    tell(MlflowTracker(tmp_path / "study"), run)
    state = tmp_path / "study" / ".medai"
    found = check_run(MlflowClient(tracking_uri=f"sqlite:///{state / 'mlflow.db'}"), run)
    (verdict,) = (state / "mlflow").rglob("verdict.json")
    assert found.info.run_id in str(verdict)
    assert json.loads(verdict.read_text()) == VERDICT.to_json()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"
    assert not list(tmp_path.glob("mlruns"))


def test_a_second_training_is_a_second_run_of_the_same_experiment(run, tmp_path):
    from mlflow import MlflowClient

    tell(MlflowTracker(tmp_path / "study"), run)
    tell(MlflowTracker(tmp_path / "study"), run)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'study' / '.medai' / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("medai nodule_click").experiment_id])) == 2


def test_a_database_that_a_kill_left_half_made_is_set_aside(run, tmp_path, caplog):
    from mlflow import MlflowClient

    state = tmp_path / "study" / ".medai"
    with contextlib.closing(sqlite3.connect(state / "mlflow.db")) as half_made, half_made:
        half_made.execute("CREATE TABLE metrics (key TEXT, value FLOAT, step BIGINT)")
    tell(MlflowTracker(tmp_path / "study"), run)
    check_run(MlflowClient(tracking_uri=f"sqlite:///{state / 'mlflow.db'}"), run)
    (kept,) = state.glob("mlflow.db.unreadable-*")
    with contextlib.closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT name FROM sqlite_master").fetchall() == [("metrics",)]
    assert kept.name in caplog.text
    assert not list(state.glob("mlflow-making-*"))


def test_what_is_no_database_is_set_aside(run, tmp_path):
    from mlflow import MlflowClient

    state = tmp_path / "study" / ".medai"
    (state / "mlflow.db").write_bytes(b"no database" * 100)
    tell(MlflowTracker(tmp_path / "study"), run)
    check_run(MlflowClient(tracking_uri=f"sqlite:///{state / 'mlflow.db'}"), run)
    (kept,) = state.glob("mlflow.db.unreadable-*")
    assert kept.read_bytes() == b"no database" * 100


def test_an_older_mlflows_database_is_migrated_with_what_it_holds(run, tmp_path):
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from mlflow import MlflowClient, store
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine, text

    database = tmp_path / "study" / ".medai" / "mlflow.db"
    migrations = str(Path(store.__file__).parent / "db_migrations")
    older = list(ScriptDirectory(migrations).walk_revisions())[5].revision
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    config = Config(str(Path(migrations) / "alembic.ini"))
    config.set_main_option("script_location", migrations)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'of old', 'active')")
        )
    engine.dispose()
    tell(MlflowTracker(tmp_path / "study"), run)
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    check_run(client, run)
    assert client.get_experiment_by_name("of old").experiment_id == "7"


def test_a_failed_making_leaves_what_was_there(run, tmp_path, monkeypatch):
    database = tmp_path / "study" / ".medai" / "mlflow.db"
    database.write_bytes(b"no database")

    def full(_database):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow_store, "_migrate", full)
    with pytest.raises(OSError, match="No space"):
        MlflowTracker(tmp_path / "study").begin(run)
    assert database.read_bytes() == b"no database"
    assert [each.name for each in database.parent.iterdir() if each.is_file()] == ["mlflow.db"]
    assert not list(database.parent.glob("mlflow-making-*"))


def test_a_run_whose_process_was_killed_is_closed_by_the_next_one(run, tmp_path):
    from mlflow import MlflowClient

    MlflowTracker(tmp_path / "study").begin(run)
    tell(MlflowTracker(tmp_path / "study"), run)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'study' / '.medai' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("medai nodule_click").experiment_id])
    assert sorted(found.info.status for found in runs) == ["FINISHED", "KILLED"]


def test_a_store_elsewhere_is_told_no_case(run, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    address = f"sqlite:///{tmp_path / 'elsewhere' / 'm.db'}"
    tell(MlflowTracker(tmp_path / "study", address=address), run)
    check_run(MlflowClient(tracking_uri=address), run)
    (verdict,) = (tmp_path / "elsewhere").rglob("verdict.json")
    said = verdict.read_text()
    assert "Doe" not in said
    assert "Smith" not in said
    assert json.loads(said)["subgroups"][0]["figures"]["difference"] == pytest.approx(0.02)
    assert not (tmp_path / "study" / ".medai" / "mlflow.db").exists()


def test_a_server_that_is_away_is_logged_and_nothing_else(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        tell(trackers_for(tmp_path / "study", "http://127.0.0.1:9"), run)
    assert "MLflow is not told of this training any more" in caplog.text
    assert list((run.folder / "tensorboard").glob("events.*"))


def test_a_store_that_cannot_be_written_is_logged_and_nothing_else(run, tmp_path, caplog):
    (tmp_path / "study" / ".medai" / "mlflow.db").mkdir()
    with caplog.at_level(logging.WARNING):
        tell(CarefulTrackers({"MLflow": lambda: MlflowTracker(tmp_path / "study")}), run)
    assert "MLflow is not told of this training any more" in caplog.text


def test_switched_off_mlflow_leaves_nothing(run, tmp_path):
    tell(trackers_for(tmp_path / "study", "off"), run)
    assert not list((tmp_path / "study" / ".medai").glob("mlflow*"))
    assert list((run.folder / "tensorboard").glob("events.*"))


def test_tensorboard_shows_the_curves_by_the_names_of_monai_label(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(TensorBoardTracker(), run)
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert {"train_loss", "val_mean_dice", "verdict/gain"} <= set(events.Tags()["scalars"])
    assert [(point.step, point.value) for point in events.Scalars("train_loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    assert events.Scalars("verdict/gain")[0].step == 3
