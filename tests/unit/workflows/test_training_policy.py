import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError
from medai.workflows.training_policy import TrainingFacts, TrainingPolicy, training_due

counts = st.integers(0, 100)
minutes = st.floats(0, 10_000)


@given(counts, minutes, counts)
def test_by_hand_nothing_starts_by_itself(labels, passed, waiting):
    facts = TrainingFacts(labels_since=labels, minutes_since=passed, waiting=waiting)
    assert TrainingPolicy().by_hand_only
    assert training_due(TrainingPolicy(), facts) == ""


@given(counts, minutes, st.integers(0, 50), minutes)
def test_without_a_new_label_or_with_one_waiting_nothing_is_due(after, every, labels, passed):
    policy = TrainingPolicy(after_labels=after, every_minutes=every)
    assert training_due(policy, TrainingFacts(labels_since=0, minutes_since=passed)) == ""
    assert training_due(policy, TrainingFacts(labels_since=labels, minutes_since=passed, waiting=1)) == ""


@pytest.mark.parametrize(("labels", "due"), [(4, False), (5, True), (6, True)])
def test_after_so_many_labels(labels, due):
    why = training_due(TrainingPolicy(after_labels=5), TrainingFacts(labels_since=labels, minutes_since=0.0))
    assert bool(why) == due
    assert not due or f"{labels} labels submitted" in why


@pytest.mark.parametrize(("passed", "due"), [(29.9, False), (30.0, True), (31.0, True)])
def test_by_the_clock(passed, due):
    why = training_due(TrainingPolicy(every_minutes=30), TrainingFacts(labels_since=1, minutes_since=passed))
    assert bool(why) == due
    assert not due or "minutes and 1 label submitted" in why


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (TrainingPolicy(), "Trains when asked to"),
        (TrainingPolicy(after_labels=1), "Trains after 1 submitted label"),
        (
            TrainingPolicy(after_labels=5, every_minutes=30),
            "Trains after 5 submitted labels or every 30 minutes with a new label",
        ),
    ],
)
def test_the_policy_in_words(policy, words):
    assert policy.describe() == words


@pytest.mark.parametrize("named", [{"after_labels": -1}, {"every_minutes": -0.5}, {"every_minutes": float("nan")}])
def test_a_rule_below_zero_is_refused(named):
    with pytest.raises(InputError, match=r"it must be 0 \(off\) or more"):
        TrainingPolicy(**named)
