from medai.registry.history import EventKind, HistoryEvent
from medai.workflows.former_champions import former_champions

TRUTH = {"a": "1", "b": "2"}


def published(version_id, former, before, after, *, truth=TRUTH):
    old = {
        "champion_score": {"a": before, "b": before},
        "challenger_score": {"a": after, "b": after},
        "truth_of_case": truth,
    }
    verdict = {"old_cases": old} if truth is not None else {}
    return HistoryEvent(kind=EventKind.PUBLISHED, version_id=version_id, former=former, reason="", verdict=verdict)


def told(found):
    return [(each.version_id, each.score.get("a")) for each in found]


HISTORY = [
    published("v1", "starter", 0.7, 0.8),
    HistoryEvent(kind=EventKind.REFUSED, version_id="", former="v1", reason=""),
    published("v2", "v1", 0.8, 0.81),
    HistoryEvent(kind=EventKind.ROLLED_BACK, version_id="v1", former="v2", reason=""),
    published("v3", "v1", 0.8, 0.82),
]


def scored(value):
    return {"a": value, "b": value}


def test_the_line_of_the_champion_begins_with_what_the_first_one_replaced():
    found = former_champions(HISTORY, "v3", champion_score=scored(0.82), truth_of_case=TRUTH)
    assert told(found) == [("starter", 0.7), ("v1", 0.8), ("v3", 0.82)]


def test_a_model_that_was_rolled_back_does_not_count():
    found = former_champions(HISTORY[:4], "v1", champion_score=scored(0.8), truth_of_case=TRUTH)
    assert told(found) == [("starter", 0.7), ("v1", 0.8)]


def test_a_case_whose_outline_was_corrected_is_left_out():
    found = former_champions(HISTORY, "v3", champion_score=scored(0.82), truth_of_case={"a": "1", "b": "other"})
    assert all(set(each.score) == {"a"} for each in found)


def test_verdicts_of_earlier_releases_kept_no_scores():
    history = [published("v1", "starter", 0.7, 0.8, truth=None), published("v2", "v1", 0.8, 0.81)]
    found = former_champions(history, "v2", champion_score=scored(0.81), truth_of_case=TRUTH)
    assert told(found) == [("v2", 0.81)]


def test_scores_of_another_judge_do_not_compare(caplog):
    assert former_champions(HISTORY, "v3", champion_score=scored(0.86), truth_of_case=TRUTH) == ()
    assert "scores otherwise" in caplog.text


def test_a_champion_that_no_gate_has_published_has_no_line():
    assert former_champions(HISTORY, "starter", champion_score=scored(0.7), truth_of_case=TRUTH) == ()
    assert former_champions([], "starter", champion_score={}, truth_of_case={}) == ()
