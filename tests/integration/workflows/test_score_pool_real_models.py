"""The packaged models score the same in this process and on Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import make_scan, named_geometry

from medai.domain.case_score import CaseScore
from medai.store.scores import ScoreStore
from medai.volume_io.writers import write_volume
from medai.workflows.executors import CaseExecutor, InProcessExecutor
from medai.workflows.ray_executor import RayExecutor
from medai.workflows.score_pool import score_pool


def scores_by(executor: CaseExecutor, study: Path) -> dict[str, CaseScore]:
    study.mkdir()
    for number, grid in enumerate(("axial", "oblique", "mirrored")):
        volume = make_scan(named_geometry(grid), np.random.default_rng(number)).volume
        write_volume(volume, study / f"{grid}.nii.gz")
    report = score_pool(study, executor)
    assert (report.scored, report.failed, report.left) == (3, {}, 0)
    store = ScoreStore(study)
    scores = {case_id: store.get(case_id) for case_id in store.table().case_ids}
    store.close()
    return {case_id: score for case_id, score in scores.items() if score is not None}


@pytest.mark.slow
def test_scores_do_not_depend_on_who_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    here = scores_by(InProcessExecutor(), tmp_path / "here")
    there = scores_by(RayExecutor(workers=2), tmp_path / "there")
    assert here.keys() == there.keys() == {"axial", "oblique", "mirrored"}
    assert any(score.candidates for score in here.values())
    for case_id, score in here.items():
        other = there[case_id]
        assert score.version_key == other.version_key
        assert [c.predicted_class for c in score.candidates] == [c.predicted_class for c in other.candidates]
        # One thread a worker against all cores: sums are taken in another order.
        for one, two in zip(score.candidates, other.candidates, strict=True):
            assert one.probability == pytest.approx(two.probability, abs=1e-3)
            assert one.volume_ml == pytest.approx(two.volume_ml, rel=1e-2)
