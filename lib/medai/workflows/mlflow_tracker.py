"""MLflow is told of a training; it is imported only when one begins, here and in ``mlflow_store``.

Without an address the store is the study's own: ``<study>/.medai/mlflow.db`` (SQLite) with files below
``<study>/.medai/mlflow``; look at it with ``mlflow ui --backend-store-uri sqlite:///<study>/.medai/mlflow.db``. Nothing
leaves the machine: MLflow's own telemetry is off. A server elsewhere is told no case's name: scores by case stay in the
study.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medai.store.layout import state_folder
from medai.workflows.mlflow_store import make_ready
from medai.workflows.run_tracking import RunEnd, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE_FILE = "mlflow.db"
ARTIFACT_FOLDER = "mlflow"
EXPERIMENT_PREFIX = "medai "
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Five retries of two minutes each, MLflow's own defaults, would hold a training up for an unreachable server.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_BY_CASE = ("champion_score", "challenger_score", "old_cases")


class MlflowTracker:
    """One MLflow run a training, in an experiment a task.

    Args:
        study_folder: the study.
        address: of an MLflow server or database; None: the study's own database.
    """

    def __init__(self, study_folder: Path, *, address: str | None = None) -> None:
        self._state_folder = state_folder(Path(study_folder).resolve())
        self._address = address
        self._client: MlflowClient | None = None
        self._run_id = ""

    def begin(self, run: TrackedRun) -> None:
        """Open the store and begin a run with its parameters."""
        client = self._open()
        name = f"{EXPERIMENT_PREFIX}{run.task}"
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, self._artifacts())
        if self._address is None:
            # One training at a time writes to a study's own store: a run that is still open there was killed.
            for left in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'"):
                client.set_terminated(left.info.run_id, status=_STATUS["stopped"])
        self._run_id = client.create_run(experiment_id, run_name=run.run_id).info.run_id
        for key, value in run.parameters.items():
            client.log_param(self._run_id, key, value)

    def curves(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Log an epoch's figures."""
        client = self._open()
        for name, value in values.items():
            client.log_metric(self._run_id, name, value, step=epoch)

    def verdict(self, figures: Mapping[str, float], verdict: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Log the gate's figures, its words as tags, and the verdict as ``verdict.json``."""
        client = self._open()
        for name, figure in figures.items():
            client.log_metric(self._run_id, name, figure)
        for name, words in tags.items():
            client.set_tag(self._run_id, name, words)
        shown = dict(verdict) if self._address is None else _without_cases(verdict)
        client.log_dict(self._run_id, shown, "verdict.json")

    def end(self, how: RunEnd) -> None:
        """Close the run."""
        self._open().set_terminated(self._run_id, status=_STATUS[how])

    def _open(self) -> MlflowClient:
        if self._client is None:
            for name, value in _QUIET.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            # What a new database is made of, migration by migration, is nobody's news.
            for name in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self._state_folder.mkdir(parents=True, exist_ok=True)
            if self._address is None:
                make_ready(self._state_folder / DATABASE_FILE)
                self._client = MlflowClient(tracking_uri=f"sqlite:///{self._state_folder / DATABASE_FILE}")
            else:
                _check_database(self._address)
                self._client = MlflowClient(tracking_uri=self._address)
        return self._client

    def _artifacts(self) -> str | None:
        """Where files go: into the study for its own store, else where the server says."""
        return (self._state_folder / ARTIFACT_FOLDER).as_uri() if self._address is None else None


def _check_database(address: str) -> None:
    """Connect once where the address is a database's: MLflow itself tries for a hundred seconds before it gives up."""
    if urlsplit(address).scheme.partition("+")[0] not in _DATABASES:
        return
    from sqlalchemy import create_engine

    engine = create_engine(address)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _without_cases(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict without anything that names a case."""
    return {name: _without_worst(value) for name, value in verdict.items() if name not in _BY_CASE}


def _without_worst(value: Any) -> Any:
    """The same without "worst_case", which each comparison in a verdict names."""
    if isinstance(value, Mapping):
        return {name: _without_worst(inner) for name, inner in value.items() if name != "worst_case"}
    return [_without_worst(inner) for inner in value] if isinstance(value, list | tuple) else value
