"""The strategies as MONAI Label calls them: on a study folder, with reservations and scores."""

import threading

import numpy as np
import pytest
from tests.support.score_factory import candidate, case_score

from medai.active_learning.strategies import STRATEGIES
from medai.server.strategies import build_strategies
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore


@pytest.fixture
def study(tmp_path):
    for name in ("1.2.840.113.nii.gz", "b.nrrd", "c.nii.gz"):
        (tmp_path / name).write_bytes(b"scan")
    return StudyStore(tmp_path)


@pytest.fixture
def strategies(study):
    return build_strategies(study, Reservations(study.folder), ScoreStore(study.folder), rng=np.random.default_rng(1))


def finish(study, tmp_path, case_id):
    (tmp_path / "upload.nii").write_bytes(b"label")
    study.save_label(case_id, tmp_path / "upload.nii", "final")
    (tmp_path / "upload.nii").unlink()


@pytest.mark.parametrize("name", STRATEGIES)
class TestEveryStrategy:
    def test_annotators_get_distinct_unlabelled_cases_and_then_nothing(self, strategies, study, tmp_path, name):
        finish(study, tmp_path, "c")
        given = [strategies[name]({"strategy": name, "client_id": client}) for client in ("ann", "ben", "cleo")]
        assert sorted(reply["id"] for reply in given[:2]) == ["1.2.840.113", "b"]
        assert given[2] is None

    def test_asking_on_and_on_never_fails(self, strategies, name):
        """Stock ``Random`` answers 500 when every image was served within one second."""
        served = [strategies[name]({"client_id": "ann"})["id"] for _ in range(9)]
        assert sorted(served[:3]) == ["1.2.840.113", "b", "c"]
        assert served[3:6] == served[:3]

    def test_an_empty_study_gives_nothing(self, strategies, study, name):
        for path in study.folder.glob("*.n*"):
            path.unlink()
        assert strategies[name]({}) is None

    def test_threads_at_once_get_different_cases(self, strategies, name):
        given, barrier = [], threading.Barrier(3)

        def work(client):
            barrier.wait()
            given.append(strategies[name]({"client_id": client})["id"])

        threads = [threading.Thread(target=work, args=(f"client {n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(given) == ["1.2.840.113", "b", "c"]


def test_the_reply_is_what_the_plugin_reads(strategies, study):
    reply = strategies["first"]({"client_id": "ann"})
    assert reply["id"] == "1.2.840.113"
    assert reply["name"] == "1.2.840.113.nii.gz"
    assert reply["path"] == str(study.folder / "1.2.840.113.nii.gz")
    assert isinstance(reply["ts"], int)


def test_paths_can_be_kept_from_clients(study):
    strategies = build_strategies(
        study,
        Reservations(study.folder),
        ScoreStore(study.folder),
        rng=np.random.default_rng(1),
        share_paths=False,
    )
    assert sorted(strategies["first"]({})) == ["id", "name", "ts"]


def test_uncertainty_goes_by_the_scores(strategies, study):
    ScoreStore(study.folder).put_all([case_score("c", candidate(0.1)), case_score("b", candidate(0.5))])
    assert [strategies["uncertainty"]({"client_id": c})["id"] for c in "xyz"] == ["b", "c", "1.2.840.113"]


def test_a_strategy_tells_what_it_does(strategies):
    assert {name: strategy.info() for name, strategy in strategies.items()} == {
        name: {"description": choice.description} for name, choice in STRATEGIES.items()
    }
