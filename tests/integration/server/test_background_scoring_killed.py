"""A real server scores by itself with the packaged models, is killed, and the next one goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import make_scan, named_geometry
from tests.support.server_process import ServerProcess

from medai.store.scores import ScoreStore
from medai.volume_io.writers import write_volume

CASES = ("a", "b", "c")
PATIENCE_S = 400.0


def scored_at_s(study: Path) -> dict[str, float]:
    store = ScoreStore(study)
    table = store.table()
    found = dict(zip(table.case_ids, table.scored_at_s.tolist(), strict=True))
    store.close()
    return found


def wait_for(study: Path, cases: int, server: ServerProcess) -> dict[str, float]:
    until = time.monotonic() + PATIENCE_S
    while len(found := scored_at_s(study)) < cases:
        assert server.is_running, server.log[-2000:]
        assert time.monotonic() < until, server.get_json("/info/")["scoring"]
        time.sleep(0.2)
    return found


def python_children(process: int) -> list[str]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1200)
def test_a_killed_server_is_followed_by_one_that_scores_the_rest(tmp_path: Path):
    study = tmp_path / "study"
    study.mkdir()
    for number, case_id in enumerate(CASES):
        write_volume(
            make_scan(named_geometry("axial"), np.random.default_rng(number)).volume, study / f"{case_id}.nii.gz"
        )
    conf = {"score_in_background": "on"}
    with ServerProcess(study, conf=conf) as server:
        first = wait_for(study, 1, server)
        assert server.get_json("/scoring/")["request"]["by_itself"] is True
        assert python_children(server.pid) == [], "no process was started for it"
        os.kill(server.pid, 9)
        server.kill()
    kept = scored_at_s(study)
    assert kept.keys() >= first.keys()
    with ServerProcess(study, conf=conf) as server:
        found = wait_for(study, len(CASES), server)
        status = server.get_json("/info/")["scoring"]["uncertainty"]["status"]
        assert status["scored"] <= len(CASES) - len(kept)
        assert status["trouble"] == ""
    assert found.keys() == set(CASES)
    assert {case_id: found[case_id] for case_id in kept} == kept, "what was scored is not scored again"
