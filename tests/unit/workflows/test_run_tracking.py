import pytest
from tests.support.fake_tracker import FakeTracker

from medai.errors import CancelledByUserError, InputError
from medai.workflows.run_tracking import CarefulTrackers, TrackedRun, check_tracking, finite, resolve_tracking, tracked


@pytest.fixture
def run(tmp_path):
    return TrackedRun(run_id="run 1", task="nodule_click", folder=tmp_path, parameters={"epochs": 3})


def tell_all(trackers, run):
    with tracked(trackers, run):
        trackers.curves({"train_loss": 0.5}, epoch=1)
        trackers.verdict({"gain": 0.1}, {"reason": "Better."}, {"verdict": "promoted"})


def test_every_tracker_is_told_everything(run):
    one, other = FakeTracker(), FakeTracker()
    tell_all(CarefulTrackers({"one": lambda: one, "other": lambda: other}), run)
    assert one.told == other.told == ["begin", "curves", "verdict", "end finished"]
    assert one.run == run
    assert one.points == [(1, {"train_loss": 0.5})]


@pytest.mark.parametrize("fails_at", ["begin", "curves", "verdict", "end finished"])
def test_one_that_fails_is_left_out_and_the_others_go_on(run, fails_at, caplog):
    failing, other = FakeTracker(fails_at=fails_at), FakeTracker()
    tell_all(CarefulTrackers({"failing": lambda: failing, "other": lambda: other}), run)
    assert failing.told[-1] == fails_at
    assert failing.told.count(fails_at) == 1
    assert other.told == ["begin", "curves", "verdict", "end finished"]
    assert "failing is not told of this training any more" in caplog.text
    assert "does not work today" in caplog.text


def test_one_that_cannot_be_made_is_left_out(run, caplog):
    def missing():
        raise ImportError("no module named mlflow")

    other = FakeTracker()
    tell_all(CarefulTrackers({"missing": missing, "other": lambda: other}), run)
    assert other.told[-1] == "end finished"
    assert "no module named mlflow" in caplog.text


def test_the_next_training_is_told_again(run):
    made = []

    def make():
        made.append(FakeTracker(fails_at="curves"))
        return made[-1]

    trackers = CarefulTrackers({"one": make})
    tell_all(trackers, run)
    tell_all(trackers, run)
    assert [tracker.told for tracker in made] == [["begin", "curves"], ["begin", "curves"]]


@pytest.mark.parametrize(
    ("error", "how"), [(CancelledByUserError("stop"), "end stopped"), (InputError("no label"), "end failed")]
)
def test_the_record_says_how_a_training_ended(run, error, how):
    tracker = FakeTracker()
    with pytest.raises(type(error)), tracked(tracker, run):
        raise error
    assert tracker.told == ["begin", how]


@pytest.mark.parametrize(
    "setting", ["local", "off", "http://127.0.0.1:5000", "sqlite:////tmp/m.db", "postgresql+psycopg://u@h/d"]
)
def test_a_setting_is_local_off_or_an_address(setting):
    assert check_tracking(setting) == setting


@pytest.mark.parametrize("setting", ["", "on", "here", "ftp://h"])
def test_another_setting_is_refused_with_the_valid_ones(setting):
    with pytest.raises(InputError, match=f"'tracking' is '{setting}'; it takes local"):
        check_tracking(setting)


def test_mlflows_own_variable_takes_the_place_of_local_alone():
    named = {"MLFLOW_TRACKING_URI": "http://tracking:5000"}
    assert resolve_tracking("local", named) == "http://tracking:5000"
    assert resolve_tracking("off", named) == "off"
    assert resolve_tracking("http://other:5000", named) == "http://other:5000"
    assert resolve_tracking("local", {}) == "local"


def test_what_is_no_number_is_no_point():
    assert finite({"a": 1.0, "b": None, "c": float("nan"), "d": float("inf")}) == {"a": 1.0}
