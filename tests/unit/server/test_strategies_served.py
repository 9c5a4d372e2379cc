"""The strategies as MONAI Label calls them: on a study folder, with reservations and scores."""

import threading

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


@pytest.fixture
def study(tmp_path):
    for name in ("1.2.840.113.nii.gz", "b.nrrd", "c.nii.gz"):
        (tmp_path / name).write_bytes(b"scan")
    return StudyStore(tmp_path)


def queue_of(study):
    return CaseQueue(
        study=study,
        reservations=Reservations(study.folder),
        scores=ScoreStore(study.folder),
        patients=PatientIndex(study.folder),
    )


@pytest.fixture
def strategies(study):
    return build_strategies(queue_of(study), rng=np.random.default_rng(1))


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
    strategies = build_strategies(queue_of(study), rng=np.random.default_rng(1), share_paths=False)
    assert "path" not in strategies["first"]({})


def test_uncertainty_goes_by_the_scores(strategies, study):
    ScoreStore(study.folder).put_all([case_score("c", candidate(0.1)), case_score("b", candidate(0.5))])
    assert [strategies["uncertainty"]({"client_id": c})["id"] for c in "xyz"] == ["b", "c", "1.2.840.113"]


def test_a_strategy_tells_what_it_does(strategies):
    assert {name: strategy.info() for name, strategy in strategies.items()} == {
        name: {"description": choice.description} for name, choice in STRATEGIES.items()
    }


def test_the_reply_says_why(strategies, study):
    found = [candidate(0.5, diameter_mm=4.2), candidate(0.3, diameter_mm=6.4), candidate(0.05)]
    ScoreStore(study.folder).put(case_score("c", *found, minutes=5.2))
    reply = strategies["entropy"]({"client_id": "ann"})
    assert reply["reason"] == "2 uncertain nodules, 4–6 mm; about 5 min"
    assert reply["PatientID"] == "c (2 uncertain nodules, 4-6 mm)"
    assert (reply["strategy"], reply["expected_minutes"], reply["skipped_before"]) == ("entropy", 5.2, False)
    assert strategies["entropy"]({"client_id": "ben"})["reason"] == "not looked at by the model yet"


def test_a_skipped_case_says_so_when_it_comes_back(strategies):
    replies = [strategies["first"]({"client_id": "ann"}) for _ in range(4)]
    assert [reply["skipped_before"] for reply in replies] == [False, False, False, True]
    assert replies[3]["reason"].startswith("you have skipped it before: ")


def test_the_other_study_of_a_patient_comes_next_for_the_same_annotator_alone(tmp_path):
    for name in ("LIDC-IDRI-0007_R_1", "LIDC-IDRI-0007_R_2", "a", "b"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"scan")
    study = StudyStore(tmp_path)
    queue = queue_of(study)
    strategies = build_strategies(queue, rng=np.random.default_rng(1))
    assert strategies["first"]({"client_id": "ann"})["id"] == "LIDC-IDRI-0007_R_1"
    # ben is not sent to ann's patient, though that case is the next by name.
    assert strategies["first"]({"client_id": "ben"})["id"] == "a"
    finish(study, tmp_path, "LIDC-IDRI-0007_R_1")
    queue.reservations.submitted("LIDC-IDRI-0007_R_1")
    reply = strategies["random"]({"client_id": "ann"})
    assert reply["id"] == "LIDC-IDRI-0007_R_2"
    assert reply["reason"] == "the other study of the patient you have just finished: not looked at by the model yet"


def test_scores_that_cannot_be_read_stop_nobody(study, caplog):
    queue = queue_of(study)
    queue.scores.close()
    strategies = build_strategies(queue, rng=np.random.default_rng(1))
    assert strategies["entropy"]({"client_id": "ann"})["id"] == "1.2.840.113"
    assert "without scores" in caplog.text
