import json
import logging

import numpy as np
import pytest

from medai.errors import ConflictError, InputError, ModelError, NotFoundError, StorageError
from medai.evaluation.promotion import judge
from medai.registry import STARTER, ModelRegistry, history, version_files
from medai.registry.history import EventKind, HistoryEvent, append_event, read_events

TASK = "nodule_click"


def verdict_of(gain):
    return judge({"a": 0.7}, {"a": 0.7 + gain}, rng=np.random.default_rng(0))


GOOD, BAD = verdict_of(0.1), verdict_of(-0.1)


@pytest.fixture
def registry(tmp_path):
    folder = tmp_path / "starters" / TASK
    folder.mkdir(parents=True)
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"starter weights")
    (folder / "card.json").write_text(json.dumps({"weights_sha256": version_files.sha256_of(weights)}))
    return ModelRegistry(tmp_path / "models", starter_folder=folder.parent)


@pytest.fixture
def publish(registry, tmp_path):
    """Publishes weights of the given content and says their version."""

    def publish_content(content, **named):
        path = tmp_path / "trained.safetensors"
        path.write_bytes(content)
        return registry.publish(TASK, path, {}, GOOD, **named).version_id

    return publish_content


def fresh(registry, **named):
    return ModelRegistry(registry.folder, starter_folder=registry._starter_folder, **named)


def kinds(registry):
    return [(str(event.kind), event.version_id, event.former) for event in registry.history(TASK)]


def test_every_decision_is_kept_in_its_order_with_its_numbers(registry, publish):
    first = publish(b"one", run_id="run 1")
    registry.record_refusal(TASK, BAD, judged_against=first, run_id="run 2")
    second = publish(b"two")
    registry.rollback(TASK, who="Ann", reason="worse on masses")
    registry.promote(TASK, second, who="Ben", reason="it was not")
    events = fresh(registry).history(TASK)
    assert kinds(registry) == [
        ("published", first, STARTER),
        ("refused", "", first),
        ("published", second, first),
        ("rolled back", first, second),
        ("promoted by hand", second, first),
    ]
    assert [event.kind.is_publish for event in events] == [True, False, True, True, True]
    assert events[0].verdict["figures"]["challenger_mean"] == pytest.approx(0.8)
    assert events[0].run_id == "run 1"
    assert events[1].verdict["figures"]["difference"] == pytest.approx(-0.1)
    assert events[1].reason.startswith("Refused: worse")
    assert [(event.who, event.reason) for event in events[3:]] == [("Ann", "worse on masses"), ("Ben", "it was not")]


def test_a_task_without_decisions_has_no_history(registry):
    assert registry.history(TASK) == ()
    assert not registry.folder.exists()


def test_a_good_verdict_is_not_recorded_as_refused(registry):
    with pytest.raises(InputError, match="is published, not recorded as refused"):
        registry.record_refusal(TASK, GOOD, judged_against=STARTER)


def test_an_older_version_and_the_starter_are_promoted_by_hand(registry, publish):
    first, second = publish(b"one"), publish(b"two")
    assert registry.promote(TASK, first, who="Ann", reason="steadier").version_id == first
    assert fresh(registry).champion(TASK).version_id == first
    assert registry.rollback(TASK).version_id == second
    assert registry.promote(TASK, STARTER, who="Ann", reason="begin anew").version_id == STARTER
    assert fresh(registry).champion(TASK).version_id == STARTER


def test_what_answers_already_is_not_promoted_again(registry, publish):
    first = publish(b"one")
    with pytest.raises(ConflictError, match=f"{first} of 'nodule_click' answers already"):
        registry.promote(TASK, first, who="Ann", reason="why not")
    assert len(registry.history(TASK)) == 1


@pytest.mark.parametrize(("who", "reason"), [("", "because"), ("Ann", " ")])
def test_a_promotion_by_hand_says_who_and_why(registry, publish, who, reason):
    publish(b"one")
    with pytest.raises(InputError, match="say who asks for it"):
        registry.promote(TASK, STARTER, who=who, reason=reason)


def test_a_damaged_or_absent_version_is_not_promoted(registry, publish):
    first, second = publish(b"one"), publish(b"two")
    (registry.folder / TASK / "versions" / first / "weights.safetensors").write_bytes(b"?")
    with pytest.raises(ModelError, match="are damaged"):
        registry.promote(TASK, first, who="Ann", reason="steadier")
    with pytest.raises(ModelError, match="has no weights at"):
        registry.promote(TASK, "v0099-00000000", who="Ann", reason="steadier")
    with pytest.raises(InputError, match="is not a model version"):
        registry.promote(TASK, "../evil", who="Ann", reason="steadier")
    assert fresh(registry).champion(TASK).version_id == second


def test_what_is_pinned_is_never_removed(registry, publish):
    registry = fresh(registry, keep=2)
    first = publish(b"one")
    registry.pin(TASK, first)
    small = fresh(registry, keep=2)
    path = registry.folder.parent / "trained.safetensors"
    for n in range(4):
        path.write_bytes(b"next %d" % n)
        small.publish(TASK, path, {}, GOOD)
    assert [version_files.version_number(v.version_id) for v in small.versions(TASK)] == [0, 1, 4, 5]
    small.unpin(TASK, first)
    path.write_bytes(b"last")
    small.publish(TASK, path, {}, GOOD)
    assert [version_files.version_number(v.version_id) for v in small.versions(TASK)] == [0, 5, 6]
    with pytest.raises(NotFoundError, match=r"is not pinned. Pinned: none"):
        small.unpin(TASK, first)
    with pytest.raises(ModelError, match="has no weights"):
        small.pin(TASK, first)


def test_with_a_damaged_list_of_pins_nothing_is_removed(registry, publish, caplog):
    publish(b"one")
    (registry.folder / TASK / "pinned.json").write_text("[1]")
    with pytest.raises(StorageError, match="remove it and pin again"):
        registry.pinned(TASK)
    small, path = fresh(registry, keep=2), registry.folder.parent / "trained.safetensors"
    for n in range(3):
        path.write_bytes(b"next %d" % n)
        small.publish(TASK, path, {}, GOOD)
    assert len(small.versions(TASK)) == 1 + 4
    assert "No version of 'nodule_click' is removed" in caplog.text


def test_megabytes_bound_the_disk_and_champion_and_predecessor_stay(registry):
    small, path = fresh(registry, keep_mb=0.5), registry.folder.parent / "trained.safetensors"
    for n in range(4):
        path.write_bytes(bytes([n]) * 200_000)
        small.publish(TASK, path, {}, GOOD)
    assert [version_files.version_number(v.version_id) for v in small.versions(TASK)] == [0, 3, 4]
    tiny = fresh(registry, keep_mb=0.001)
    path.write_bytes(b"x" * 200_000)
    tiny.publish(TASK, path, {}, GOOD)
    assert [version_files.version_number(v.version_id) for v in tiny.versions(TASK)] == [0, 4, 5]
    with pytest.raises(InputError, match="within 0 MB"):
        fresh(registry, keep_mb=0)


def test_an_event_that_was_not_appended_is_not_lost(registry, publish, monkeypatch):
    first = publish(b"one")

    def no_space(*_args):
        raise StorageError("No space left on device")

    monkeypatch.setattr("medai.registry.model_registry.append_event", no_space)
    second = publish(b"two")
    monkeypatch.undo()
    assert len(read_events(registry.folder / TASK / history.HISTORY_FILE)) == 1
    assert fresh(registry).history(TASK)[-1].version_id == second
    assert fresh(registry).history(TASK)[-1].verdict == GOOD.to_json()
    registry.rollback(TASK)
    assert [event.version_id for event in read_events(registry.folder / TASK / history.HISTORY_FILE)] == [
        first,
        second,
        first,
    ]


def test_a_line_cut_off_by_a_kill_costs_no_other_line(tmp_path, caplog):
    path = tmp_path / "history.jsonl"
    events = [
        HistoryEvent(kind=EventKind.REFUSED, version_id="", former=STARTER, reason=f"Refused: {n}") for n in range(3)
    ]
    append_event(path, events[0])
    whole = path.read_bytes()
    append_event(path, events[1])
    path.write_bytes(path.read_bytes()[: len(whole) + 40])
    append_event(path, events[2])
    with caplog.at_level(logging.WARNING):
        assert read_events(path) == (events[0], events[2])
    assert "Line 2 of" in caplog.text


def test_a_damaged_event_in_the_pointer_costs_no_champion(registry, publish, caplog):
    first = publish(b"one")
    path = registry.folder / TASK / "champion.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "event": {"kind": "?"}}))
    assert fresh(registry).champion(TASK).version_id == first
    assert "is damaged" in caplog.text


def test_a_history_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    event = HistoryEvent(kind=EventKind.REFUSED, version_id="", former=STARTER, reason="Refused.")
    with pytest.raises(StorageError, match=r"could not be written: File exists\. Check the disk"):
        append_event(tmp_path / "file" / "history.jsonl", event)


def test_a_full_disk_during_a_promotion_leaves_the_champion(registry, publish, monkeypatch):
    first, second = publish(b"one"), publish(b"two")

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(version_files.os, "fsync", no_space)
    for change in (
        lambda: registry.promote(TASK, first, who="Ann", reason="steadier"),
        lambda: registry.rollback(TASK),
        lambda: registry.pin(TASK, first),
        lambda: registry.record_refusal(TASK, BAD, judged_against=second),
    ):
        with pytest.raises(StorageError, match="No space left"):
            change()
    monkeypatch.undo()
    assert fresh(registry).champion(TASK).version_id == second
    assert registry.pinned(TASK) == ()
    assert not list((registry.folder / TASK).glob(".champion.json.*"))
