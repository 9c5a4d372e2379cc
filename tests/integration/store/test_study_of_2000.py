"""A study of 2,000 scans answers at once (stock MONAI Label: 10 s a request, Project-MONAI/MONAILabel#1236)."""

import statistics
import time

import numpy as np
import pytest
from tests.support.score_factory import candidate, case_score

from medai.active_learning.strategies import STRATEGIES
from medai.server.strategies import build_strategies
from medai.store.patients import PatientIndex
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore
from medai.workflows.case_queue import CaseQueue

COUNT = 2000
LIMIT_S = 1.0
"""Far above what it takes (tests/benchmarks tells that), far below stock: only another order of growth reaches it."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "labels" / "final").mkdir(parents=True)
    for n in range(COUNT):
        (folder / f"1.2.840.{n:04d}.nii.gz").write_bytes(b"scan")
        if n % 2:
            (folder / "labels" / "final" / f"1.2.840.{n:04d}.nii.gz").write_bytes(b"label")
    store = StudyStore(folder)
    store.refresh()
    rng = np.random.default_rng(1)
    scores = [case_score(case_id, candidate(rng.random()), at=rng.normal(size=16)) for case_id in store.image_ids()]
    ScoreStore(folder).put_all(scores)
    return store


def median_s(call):
    seconds = []
    for n in range(7):
        start = time.perf_counter()
        call(n)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def test_status_and_a_new_scan_are_fast(study):
    def drop_one_and_ask(n):
        (study.folder / f"new_{n}.nii.gz").write_bytes(b"scan")
        assert f"new_{n}" in study.unlabeled()

    assert median_s(lambda _: study.status()) < LIMIT_S
    assert median_s(drop_one_and_ask) < LIMIT_S
    assert study.status()["completed"] == COUNT // 2


def test_every_annotator_gets_another_case(study):
    queue = CaseQueue(
        study=study,
        reservations=Reservations(study.folder),
        scores=ScoreStore(study.folder),
        patients=PatientIndex(study.folder),
    )
    strategies = build_strategies(queue, rng=np.random.default_rng(1))
    given = [strategies[name]({"client_id": name})["id"] for name in STRATEGIES]
    assert len(set(given)) == len(STRATEGIES)
    assert set(given) <= set(study.unlabeled())
