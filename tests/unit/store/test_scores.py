"""Scores on disk: kept between processes, whole after a kill, told apart by model version."""

import logging
import sqlite3
import threading

import numpy as np
import pytest
from tests.support.score_factory import VERSIONS, candidate, case_score

from medai.errors import InputError, StorageError
from medai.store.scores import ScoreStore

NEWER = {**VERSIONS, "nodule_click": "v2"}


def test_a_score_comes_back_as_it_was_put(tmp_path):
    found = (candidate(0.75, information=0.25, predicted_class="part-solid"), candidate(0.125, variation=0.5))
    ScoreStore(tmp_path).put(case_score("1.2.840", *found, at=[1.0, -2.0], minutes=3.5, disagreement=0.25))
    score = ScoreStore(tmp_path).get("1.2.840")
    assert [c.predicted_class for c in score.candidates] == ["part-solid", "solid"]
    assert [c.probability for c in score.candidates] == [0.75, 0.125]
    assert [c.mutual_information for c in score.candidates] == [0.25, None]
    assert [c.test_time_variation for c in score.candidates] == [None, 0.5]
    assert [c.outline_doubt for c in score.candidates] == [None, None]
    assert score.candidates[0].centre_ras_mm == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(score.embedding, np.array([1.0, -2.0], np.float32))
    assert (score.model_versions, score.expected_minutes, score.disagreement) == (VERSIONS, 3.5, 0.25)


def test_a_case_without_candidates_is_a_score_too(tmp_path):
    store = ScoreStore(tmp_path)
    store.put(case_score("air"))
    score = store.get("air")
    assert (score.candidates, score.embedding, score.disagreement) == ((), None, None)
    assert store.get("other") is None


def test_a_store_sees_what_another_has_put_and_nothing_is_read_twice(tmp_path):
    first, second = ScoreStore(tmp_path), ScoreStore(tmp_path)
    first.put_all([case_score("a", candidate(0.25)), case_score("b")])
    table = second.table()
    assert second.table() is table
    first.put(case_score("a", candidate(0.5), candidate(0.75), versions=NEWER))
    assert [c.probability for c in second.get("a").candidates] == [0.5, 0.75]
    assert sorted(second.table().case_ids) == ["a", "b"]


def test_what_the_present_models_have_not_scored_is_named_the_unscored_first_then_the_oldest(tmp_path):
    store = ScoreStore(tmp_path)
    store.put(case_score("a", scored_at_s=50.0))
    store.put(case_score("b", scored_at_s=20.0))
    store.put(case_score("c", versions=NEWER))
    assert store.outdated(["a", "b", "c", "e", "d"], NEWER) == ["d", "e", "b", "a"]
    assert store.outdated(["c"], NEWER) == []


def test_all_or_none_of_several_are_put(tmp_path):
    store = ScoreStore(tmp_path)
    with pytest.raises(InputError, match=r"\.\./evil"):
        store.put_all([case_score("a"), case_score("../evil")])
    assert len(store.table()) == 0


def test_threads_share_a_store(tmp_path):
    store = ScoreStore(tmp_path)
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        for count in range(20):
            store.put(case_score(f"{number}-{count}", candidate(0.5)))
            assert store.get(f"{number}-{count}") is not None

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ScoreStore(tmp_path).table()) == 80


def test_a_damaged_file_is_put_aside(tmp_path, caplog):
    (tmp_path / ".medai").mkdir()
    (tmp_path / ".medai/scores.db").write_bytes(b"no database at all, but long enough to have a header" * 20)
    with caplog.at_level(logging.WARNING):
        store = ScoreStore(tmp_path)
    assert "put aside" in caplog.text
    store.put(case_score("a"))
    assert store.get("a") is not None


def test_a_file_of_another_form_is_put_aside(tmp_path, caplog):
    ScoreStore(tmp_path).close()
    with sqlite3.connect(tmp_path / ".medai/scores.db") as connection:
        connection.execute("PRAGMA user_version = 77")
    with caplog.at_level(logging.WARNING):
        assert len(ScoreStore(tmp_path).table()) == 0
    assert "its form is 77" in caplog.text


def test_the_scores_of_an_older_medai_are_discarded(tmp_path, caplog):
    (tmp_path / ".medai/scores").mkdir(parents=True)
    (tmp_path / ".medai/scores/uncertainty.json").write_text('{"cases": {"a": {"value": 0.5}}}')
    with caplog.at_level(logging.INFO):
        assert ScoreStore(tmp_path).get("a") is None
    assert "older medai" in caplog.text
    assert not (tmp_path / ".medai/scores").exists()


def test_a_disk_that_refuses_is_named(tmp_path):
    store = ScoreStore(tmp_path)
    store.close()
    with pytest.raises(StorageError, match=r"scores\.db cannot be written"):
        store.put(case_score("a"))
