"""``medai phantom detection``: what reaches the workflow, and what is said of a wrong folder."""

import json

import pytest
from typer.testing import CliRunner

from medai.cli.phantom import app
from medai.errors import InputError
from medai.workflows import detection_cases


def test_options_reach_the_workflow_and_the_result_is_json(tmp_path, monkeypatch):
    asked = {}

    def prepare(folder, *, on_progress, **options):
        asked.update(options, folder=folder)
        on_progress(3, 3)
        return ("held-back-00007", "held-back-00008", "held-back-00009")

    monkeypatch.setattr(detection_cases, "prepare_detection_cases", prepare)
    target = tmp_path / "result.json"
    arguments = ["detection", str(tmp_path / "cases"), "--count", "3", "--seed", "7", "--held-back"]
    done = CliRunner().invoke(app, [*arguments, "--real-data", str(tmp_path), "--json", str(target)])
    assert done.exit_code == 0, done.output
    assert "3 scans" in done.output
    wanted = {"count": 3, "seed": 7, "held_back": True, "real_data": tmp_path, "folder": tmp_path / "cases"}
    assert asked == wanted
    assert json.loads(target.read_text())["cases"][0] == "held-back-00007"


def test_a_folder_without_real_data_is_said_before_any_work(tmp_path):
    done = CliRunner().invoke(app, ["detection", str(tmp_path / "cases"), "--real-data", str(tmp_path)])
    assert isinstance(done.exception, InputError)
    with pytest.raises(InputError, match="lidc_nodules"):
        raise done.exception
    assert not (tmp_path / "cases").exists()
