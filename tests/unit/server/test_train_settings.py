"""Settings of the server that reach the process that trains."""

import pytest

from medai.server.background import Trainings
from medai.server.settings import ServerSettings
from medai.server.train_task import TRAINERS, NoduleTrainTask


@pytest.fixture
def job_of(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(**conf):
        return NoduleTrainTask(TRAINERS[0], tmp_path, ServerSettings.from_conf(conf), Trainings()).job({})

    return make


def test_a_training_is_told_what_stays_on_disk_and_where_it_is_tracked(job_of):
    job = job_of(keep_models="9", keep_models_mb="300", tracking="off")
    assert (job.keep_models, job.keep_models_mb, job.tracking) == (9, 300, "off")
    assert job_of().tracking == "local"


def test_mlflows_own_variable_is_honoured_unless_tracking_is_off(job_of, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert job_of().tracking == "http://tracking:5000"
    assert job_of(tracking="off").tracking == "off"
