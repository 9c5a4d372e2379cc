"""Whether another label is worth it, signal by signal."""

import pytest

from medai.active_learning.stopping import Progress, TrainingGain, advise


def training(labels, gain, *, published=True):
    return TrainingGain(
        labels=labels, champion_score=0.75, challenger_score=0.75 + gain, published=published, measure="Dice"
    )


def progress(*trainings, doubtful=50, change=0.3, left=200, scored=100):
    return Progress(
        labelled=40,
        left=left,
        trainings=trainings,
        scored=scored,
        doubtful=doubtful,
        compared=scored,
        mean_change=change,
    )


FLAT = (training(10, 0.05), training(20, 0.0005), training(30, -0.01, published=False), training(40, 0.0005))
STEEP = (training(10, 0.05), training(20, 0.02), training(30, 0.01))


def test_gains_are_carried_on_to_the_next_labels():
    advice = advise(progress(*FLAT))
    # 0.001 over the 30 labels of the last three trainings; the refused one gained nothing.
    assert advice.expected_gain == pytest.approx(0.001 / 30 * 10)
    assert advice.reasons[0] == (
        "Gain: the last 3 trainings (2 published) had 30 labels more and gained +0.001 Dice; 10 more labels should "
        "gain about +0.000 (worth it from 0.002)."
    )


def test_it_stops_where_gain_doubt_and_change_say_so():
    advice = advise(progress(*FLAT, doubtful=3, change=0.02))
    assert not advice.is_worth_it
    assert "hardly worth it" in advice.summary
    assert "3 of 100 scored open cases (3 %)" in advice.reasons[1]
    assert "differ by 0.02 on average over 100 open cases" in advice.reasons[2]


@pytest.mark.parametrize(
    ("trainings", "doubtful", "change", "worth_it"),
    [
        (STEEP, 3, 0.02, True),  # it still gains: the other two do not outweigh it
        (FLAT, 50, 0.3, True),
        (FLAT, 3, 0.3, False),
        (FLAT, 50, 0.02, False),
        (FLAT, 3, None, False),
        (FLAT, 50, None, True),  # one against one: go on
        ((), 3, 0.02, True),  # the gain is not known
        ((training(10, 0.0),), 3, 0.02, True),
    ],
)
def test_most_of_the_known_signals_decide_and_the_gain_is_one_of_them(trainings, doubtful, change, worth_it):
    assert advise(progress(*trainings, doubtful=doubtful, change=change)).is_worth_it is worth_it


def test_what_is_not_known_is_said():
    advice = advise(Progress(labelled=2, left=5))
    assert advice.is_worth_it
    assert "cannot be told yet" in advice.summary
    assert "no training so far" in advice.reasons[0]
    assert "none of the 5 open cases scored" in advice.reasons[1]
    assert "too few open cases" in advice.reasons[2]


def test_trainings_without_new_labels_tell_nothing():
    assert advise(progress(training(10, 0.01), *(training(10, 0.0) for _ in range(3)))).expected_gain is None


def test_where_every_case_is_labelled_nothing_is_left_to_do():
    advice = advise(progress(*STEEP, left=0))
    assert (advice.is_worth_it, advice.summary) == (False, "Every case is labelled.")
