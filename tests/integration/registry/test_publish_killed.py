"""A process killed at every step of a change, and at random moments: the last good champion answers afterwards."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from medai.errors import ConflictError
from medai.evaluation.promotion import judge
from medai.registry import STARTER, ModelRegistry, version_files
from medai.registry.history import EventKind

TASK = "nodule_click"
GOOD = judge({"a": 0.7}, {"a": 0.8}, rng=np.random.default_rng(0))
BAD = judge({"a": 0.7}, {"a": 0.6}, rng=np.random.default_rng(0))
WEIGHTS_BYTES = 3_000_000
RANDOM_KILLS = 30
MANY_RANDOM_KILLS = 400
KILLED_BY_ITSELF = 77

context = multiprocessing.get_context("fork")


@pytest.fixture
def registry(tmp_path):
    starter = tmp_path / "starters" / TASK
    starter.mkdir(parents=True)
    (starter / "weights.safetensors").write_bytes(b"starter")
    digest = version_files.sha256_of(starter / "weights.safetensors")
    (starter / "card.json").write_text(json.dumps({"weights_sha256": digest}))
    return ModelRegistry(tmp_path / "models", starter_folder=starter.parent, keep=3)


def as_another_process(registry):
    return ModelRegistry(registry.folder, starter_folder=registry._starter_folder, keep=3)


def publish_without_end(registry, weights_path):
    while True:
        with weights_path.open("r+b") as file:
            file.write(os.urandom(16))
        as_another_process(registry).publish(TASK, weights_path, {}, GOOD)


def change_without_end(registry, weights_path, seed):
    """Publish (and so prune), promote, roll back, pin and refuse in a random order."""
    rng = np.random.default_rng(seed)
    while True:
        own = as_another_process(registry)
        on_disk = [version.version_id for version in own.versions(TASK)]
        chosen = on_disk[int(rng.integers(len(on_disk)))]
        try:
            match int(rng.integers(5)):
                case 0 | 1:
                    with weights_path.open("r+b") as file:
                        file.write(os.urandom(16))
                    own.publish(TASK, weights_path, {}, GOOD)
                case 2:
                    own.promote(TASK, chosen, who="Ann", reason="steadier")
                case 3:
                    own.rollback(TASK)
                case _:
                    own.record_refusal(TASK, BAD, judged_against=own.champion(TASK).version_id)
        except ConflictError:
            continue


def change_and_die_at_step(change, step):
    """Make a change, but leave without any clean-up at the n-th operation that changes the disk for good."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1
        if steps == step:
            os._exit(KILLED_BY_ITSELF)

    def dying(operation):
        def run(*args, **kwargs):
            count()
            return operation(*args, **kwargs)

        return run

    os.fsync = dying(os.fsync)
    os.unlink = dying(os.unlink)
    os.rmdir = dying(os.rmdir)
    Path.rename = dying(Path.rename)
    Path.replace = dying(Path.replace)
    Path.mkdir = dying(Path.mkdir)
    change()


def check_served(registry, allowed_numbers):
    champion = as_another_process(registry).champion(TASK)
    assert version_files.version_number(champion.version_id) in allowed_numbers
    assert version_files.sha256_of(champion.weights_path) == champion.card["weights_sha256"]
    return champion


def test_killed_at_every_step_of_a_publish(registry, tmp_path, caplog):
    weights_path = tmp_path / "trained.safetensors"
    weights_path.write_bytes(b"before")
    registry.publish(TASK, weights_path, {}, GOOD)
    exit_codes = []
    for step in range(1, 40):
        number = version_files.version_number(as_another_process(registry).champion(TASK).version_id)
        weights_path.write_bytes(b"weights %d" % step)
        own = as_another_process(registry)
        child = context.Process(
            target=change_and_die_at_step, args=(lambda own=own: own.publish(TASK, weights_path, {}, GOOD), step)
        )
        child.start()
        child.join(30)
        exit_codes.append(child.exitcode)
        on_disk = [version_files.version_number(v.version_id) for v in registry.versions(TASK)]
        check_served(registry, {number, max(on_disk)})
        if child.exitcode == 0:
            break
    assert exit_codes[:-1] == [KILLED_BY_ITSELF] * (len(exit_codes) - 1)
    assert exit_codes[-1] == 0
    assert len(exit_codes) > 8
    assert "passed over" not in caplog.text
    assert not list((registry.folder / TASK / "versions").glob(".incoming-*"))


def test_killed_at_random_moments(registry, tmp_path, rng, caplog):
    weights_path = tmp_path / "trained.safetensors"
    weights_path.write_bytes(os.urandom(WEIGHTS_BYTES))
    number, seen, kills = 0, set(), 0
    while kills < RANDOM_KILLS or len(seen - {STARTER}) <= 3:
        kills += 1
        assert kills < 10 * RANDOM_KILLS, "nothing is ever published before the kill"
        child = context.Process(target=publish_without_end, args=(registry, weights_path))
        child.start()
        # A busy machine takes longer to publish: wait longer as kills go by.
        time.sleep(float(rng.uniform(0.0, 0.08 * max(1.0, kills / RANDOM_KILLS))))
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        champion = check_served(registry, range(number, 100_000))
        number = version_files.version_number(champion.version_id)
        seen.add(champion.version_id)
    assert "passed over" not in caplog.text
    weights_path.write_bytes(b"after")
    last = registry.publish(TASK, weights_path, {}, GOOD)
    assert check_served(registry, [version_files.version_number(last.version_id)]) == last
    assert len(registry.versions(TASK)) <= 1 + 3
    left = [path.name for path in (registry.folder / TASK).rglob(".*") if path.name != ".lock"]
    assert left == []


@pytest.mark.parametrize("change", ["promote", "roll back", "prune", "pin", "refuse"])
def test_killed_at_every_step_of_another_change(registry, tmp_path, change, caplog):
    weights_path = tmp_path / "trained.safetensors"
    ids = []
    for n in range(3):
        weights_path.write_bytes(b"weights %d" % n)
        ids.append(registry.publish(TASK, weights_path, {}, GOOD).version_id)
    saved = tmp_path / "saved"
    shutil.copytree(registry.folder, saved)
    weights_path.write_bytes(b"a fourth")
    changes = {
        "promote": lambda own: own.promote(TASK, ids[0], who="Ann", reason="steadier"),
        "roll back": lambda own: own.rollback(TASK),
        "prune": lambda own: own.publish(TASK, weights_path, {}, GOOD),
        "pin": lambda own: own.pin(TASK, ids[0]),
        "refuse": lambda own: own.record_refusal(TASK, BAD, judged_against=ids[2]),
    }
    answers_after = {"promote": {1}, "roll back": {2}, "prune": {4}, "pin": {3}, "refuse": {3}}[change]
    exit_codes = []
    for step in range(1, 60):
        shutil.rmtree(registry.folder)
        shutil.copytree(saved, registry.folder)
        own = as_another_process(registry)
        child = context.Process(target=change_and_die_at_step, args=(lambda own=own: changes[change](own), step))
        child.start()
        child.join(30)
        exit_codes.append(child.exitcode)
        champion = check_served(registry, {3} | answers_after)
        decided = [event for event in as_another_process(registry).history(TASK) if event.kind.is_publish]
        assert decided[-1].version_id == champion.version_id
        # Whatever was left half done, the next change goes through and cleans up.
        weights_path.with_name("next.safetensors").write_bytes(b"the next one")
        registry.publish(TASK, weights_path.with_name("next.safetensors"), {}, GOOD)
        assert [path.name for path in (registry.folder / TASK).rglob(".*") if path.name != ".lock"] == []
        if child.exitcode == 0:
            break
    assert exit_codes[:-1] == [KILLED_BY_ITSELF] * (len(exit_codes) - 1)
    assert exit_codes[-1] == 0
    assert len(exit_codes) > 1
    assert "passed over" not in caplog.text


def kill_changes_at_random_moments(registry, tmp_path, rng, kills):
    """Kill a process that changes something all the time, until every kind of change was made."""
    weights_path = tmp_path / "trained.safetensors"
    weights_path.write_bytes(os.urandom(WEIGHTS_BYTES))
    events, kill = (), 0
    while kill < kills or {event.kind for event in events} != set(EventKind):
        kill += 1
        assert kill < 10 * kills, "not every kind of change is made before the kill"
        child = context.Process(target=change_without_end, args=(registry, weights_path, kill))
        child.start()
        # A busy machine takes longer: wait longer as kills go by.
        time.sleep(float(rng.uniform(0.0, 0.12 * max(1.0, kill / kills))))
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        champion = check_served(registry, range(100_000))
        former, events = events, as_another_process(registry).history(TASK)
        # No decision is lost or changed, and what answers is what was decided last.
        assert events[: len(former)] == former
        published = [event.version_id for event in events if event.kind.is_publish]
        assert champion.version_id == (published[-1] if published else STARTER)
        if published and events[-1].kind is EventKind.PUBLISHED:
            on_disk = [version.version_id for version in as_another_process(registry).versions(TASK)]
            assert events[-1].former in on_disk
    weights_path.write_bytes(b"after")
    registry.publish(TASK, weights_path, {}, GOOD)
    assert [path.name for path in (registry.folder / TASK).rglob(".*") if path.name != ".lock"] == []
    assert len(registry.versions(TASK)) <= 1 + 3


def test_any_change_killed_at_random_moments(registry, tmp_path, rng, caplog):
    kill_changes_at_random_moments(registry, tmp_path, rng, RANDOM_KILLS)
    assert "passed over" not in caplog.text


@pytest.mark.slow
def test_any_change_killed_at_many_random_moments(registry, tmp_path, rng, caplog):
    kill_changes_at_random_moments(registry, tmp_path, rng, MANY_RANDOM_KILLS)
    assert "passed over" not in caplog.text


def test_two_processes_that_publish_take_turns(registry, tmp_path):
    def publish_some(name):
        own = ModelRegistry(registry.folder, starter_folder=registry._starter_folder, keep=50)
        for n in range(8):
            path = tmp_path / f"{name}.safetensors"
            path.write_bytes(f"{name} {n}".encode())
            own.publish(TASK, path, {}, GOOD)

    children = [context.Process(target=publish_some, args=(name,)) for name in ("left", "right")]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    versions = registry.versions(TASK)
    assert [version_files.version_number(v.version_id) for v in versions] == list(range(17))
    # Each one replaced the one before it: no publish was lost.
    assert [v.card["predecessor"] for v in versions[1:]] == [v.version_id for v in versions[:-1]]
