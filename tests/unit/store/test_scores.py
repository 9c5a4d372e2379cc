"""Scores on disk: kept between processes, told apart by model version."""

import pytest

from medai.errors import InputError
from medai.store.scores import ScoreStore


def test_scores_are_kept_and_replaced(tmp_path):
    ScoreStore(tmp_path).put({"a": 0.25, "1.2.840": 0.5}, model_version="v1")
    ScoreStore(tmp_path).put({"a": 0.75}, model_version="v2")
    scores = ScoreStore(tmp_path).read()
    assert ScoreStore(tmp_path).values() == {"a": 0.75, "1.2.840": 0.5}
    assert (scores["a"].model_version, scores["1.2.840"].model_version) == ("v2", "v1")


def test_what_the_present_model_has_not_scored_is_named_the_unscored_first(tmp_path):
    store = ScoreStore(tmp_path)
    store.put({"a": 0.1, "b": 0.2}, model_version="v1")
    store.put({"b": 0.3}, model_version="v2")
    assert store.outdated(["a", "b", "c"], model_version="v2") == ["c", "a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(InputError, match=r"score of case 'a' is (nan|inf)"):
        ScoreStore(tmp_path).put({"a": value}, model_version="v1")
    assert ScoreStore(tmp_path).values() == {}


def test_a_damaged_file_is_started_anew(tmp_path):
    store = ScoreStore(tmp_path)
    (tmp_path / ".medai/scores/uncertainty.json").write_text('{"cases": {"a"')
    assert store.values() == {}
    store.put({"a": 0.5}, model_version="v1")
    assert store.values() == {"a": 0.5}
