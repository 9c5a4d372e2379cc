import json
import logging

import numpy as np
import pytest

from medai.errors import ConflictError, InputError, ModelError, StorageError
from medai.evaluation.promotion import judge
from medai.registry import STARTER, ModelRegistry, version_files

TASK = "nodule_click"


def verdict_of(gain):
    return judge({"a": 0.7}, {"a": 0.7 + gain}, rng=np.random.default_rng(0))


GOOD = verdict_of(0.1)


@pytest.fixture
def starters(tmp_path):
    folder = tmp_path / "starters" / TASK
    folder.mkdir(parents=True)
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"starter weights")
    (folder / "card.json").write_text(json.dumps({"weights_sha256": version_files.sha256_of(weights)}))
    return folder.parent


@pytest.fixture
def registry(tmp_path, starters):
    return ModelRegistry(tmp_path / "models", starter_folder=starters)


@pytest.fixture
def trained(tmp_path):
    """Writes a file of weights with the given content."""

    def write(content):
        path = tmp_path / "trained.safetensors"
        path.write_bytes(content)
        return path

    return write


def fresh(registry):
    """The same folder as another process sees it."""
    return ModelRegistry(registry.folder, starter_folder=registry._starter_folder)


def test_the_starter_serves_until_something_is_published(registry):
    champion = registry.champion(TASK)
    assert champion.version_id == STARTER
    assert champion.weights_path.read_bytes() == b"starter weights"
    assert not registry.folder.exists()


def test_published_version_is_served_with_its_card_and_verdict(registry, trained):
    published = registry.publish(TASK, trained(b"one"), {"epochs": 3}, GOOD)
    champion = fresh(registry).champion(TASK)
    assert champion == published
    assert champion.version_id.startswith("v0001-")
    assert champion.weights_path.read_bytes() == b"one"
    assert champion.card["epochs"] == 3
    assert champion.card["predecessor"] == STARTER
    assert champion.card["weights_sha256"] == version_files.sha256_of(champion.weights_path)
    assert champion.verdict["figures"]["challenger_mean"] == pytest.approx(0.8)


def test_a_running_registry_sees_what_another_process_publishes(registry, trained):
    assert registry.champion(TASK).version_id == STARTER
    published = fresh(registry).publish(TASK, trained(b"one"), {}, GOOD)
    assert registry.champion(TASK).version_id == published.version_id


def test_asking_again_reads_no_file(registry, trained, monkeypatch):
    registry.publish(TASK, trained(b"one"), {}, GOOD)
    champion = registry.champion(TASK)

    def fail(*_args, **_kwargs):
        raise AssertionError("read again")

    monkeypatch.setattr(version_files, "read_version", fail)
    monkeypatch.setattr(version_files, "check_weights", fail)
    assert registry.champion(TASK) is champion


def test_no_weights_is_an_error_that_says_what_to_do(tmp_path):
    registry = ModelRegistry(tmp_path / "models", starter_folder=tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"no weights for task 'nodule_click'.*Install medai again"):
        registry.champion(TASK)


@pytest.mark.parametrize("task", ["", "../evil", "a/b", "Nodule", "nodule click", "a" * 65, "nodule_click\n"])
def test_a_task_name_cannot_leave_the_folder(registry, trained, task):
    with pytest.raises(InputError, match="cannot be a task's name"):
        registry.champion(task)
    with pytest.raises(InputError, match="cannot be a task's name"):
        registry.publish(task, trained(b"one"), {}, GOOD)


@pytest.mark.parametrize("version_id", ["../../evil", "v1", "v0001-xyzxyzxy", "v0001-12345678/..", "v0001-12345678\n"])
def test_a_version_id_cannot_leave_the_folder(version_id):
    assert not version_files.is_version_id(version_id)
    with pytest.raises(InputError, match="is not a model version"):
        version_files.version_number(version_id)


def test_a_pointer_that_names_a_path_is_not_followed(registry, trained, tmp_path, caplog):
    published = registry.publish(TASK, trained(b"one"), {}, GOOD)
    (registry.folder / TASK / "champion.json").write_text('{"version_id": "../../evil", "former": []}')
    assert fresh(registry).champion(TASK).version_id == published.version_id
    assert "is damaged" in caplog.text


def test_a_refused_model_is_not_published(registry, trained):
    with pytest.raises(ConflictError, match=r"gate refused is not published. Refused: worse"):
        registry.publish(TASK, trained(b"one"), {}, verdict_of(-0.1))
    assert registry.champion(TASK).version_id == STARTER


def test_missing_weights_are_not_published(registry, tmp_path):
    with pytest.raises(ModelError, match="no weights at"):
        registry.publish(TASK, tmp_path / "absent.safetensors", {}, GOOD)


def test_a_verdict_over_another_champion_is_refused(registry, trained):
    registry.publish(TASK, trained(b"one"), {}, GOOD, judged_against=STARTER)
    with pytest.raises(ConflictError, match="was judged against starter, but v0001-"):
        registry.publish(TASK, trained(b"two"), {}, GOOD, judged_against=STARTER)
    assert registry.champion(TASK).weights_path.read_bytes() == b"one"


@pytest.mark.parametrize(
    "damage", ["flip a byte", "cut", "remove weights", "remove card", "remove all", "card is a list"]
)
def test_a_damaged_champion_is_passed_over_for_its_predecessor(registry, trained, damage, caplog):
    first = registry.publish(TASK, trained(b"first weights"), {}, GOOD)
    second = registry.publish(TASK, trained(b"second weights"), {}, GOOD)
    folder = second.weights_path.parent
    if damage == "flip a byte":
        second.weights_path.write_bytes(b"Second weights")
    elif damage == "cut":
        second.weights_path.write_bytes(b"second")
    elif damage == "remove weights":
        second.weights_path.unlink()
    elif damage == "remove card":
        (folder / "card.json").unlink()
    elif damage == "card is a list":
        (folder / "card.json").write_text("[1]")
    else:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with caplog.at_level(logging.WARNING):
        champion = fresh(registry).champion(TASK)
    assert champion.version_id == first.version_id
    assert f"Serving {first.version_id} of 'nodule_click' in place of {second.version_id}" in caplog.text


def test_where_all_versions_are_damaged_the_starter_serves(registry, trained):
    for content in (b"one", b"two"):
        registry.publish(TASK, trained(content), {}, GOOD).weights_path.write_bytes(b"?")
    assert fresh(registry).champion(TASK).version_id == STARTER


def test_a_damaged_starter_is_not_served(registry, starters):
    (starters / TASK / "weights.safetensors").write_bytes(b"Starter weights")
    with pytest.raises(ModelError, match="no weights for task"):
        registry.champion(TASK)


def test_a_published_card_without_sha256_is_not_trusted(registry, trained):
    published = registry.publish(TASK, trained(b"one"), {}, GOOD)
    (published.weights_path.parent / "card.json").write_text("{}")
    assert fresh(registry).champion(TASK).version_id == STARTER


def test_a_starter_card_may_leave_the_sha256_to_the_installer(registry, starters):
    (starters / TASK / "card.json").write_text('{"note": "packaged"}')
    assert registry.champion(TASK).card == {"note": "packaged"}


def test_rollback_goes_back_step_by_step_to_the_starter(registry, trained):
    first = registry.publish(TASK, trained(b"one"), {}, GOOD)
    second = registry.publish(TASK, trained(b"two"), {}, GOOD)
    assert registry.rollback(TASK).version_id == first.version_id
    assert registry.champion(TASK).version_id == first.version_id
    assert registry.rollback(TASK).version_id == STARTER
    with pytest.raises(ConflictError, match="nothing to go back to"):
        registry.rollback(TASK)
    assert [v.version_id for v in registry.versions(TASK)] == [STARTER, first.version_id, second.version_id]


def test_publishing_after_a_rollback_takes_a_new_number_and_the_right_predecessor(registry, trained):
    first = registry.publish(TASK, trained(b"one"), {}, GOOD)
    registry.publish(TASK, trained(b"two"), {}, GOOD)
    registry.rollback(TASK)
    third = registry.publish(TASK, trained(b"three"), {}, GOOD)
    assert third.version_id.startswith("v0003-")
    assert third.card["predecessor"] == first.version_id
    assert registry.rollback(TASK).version_id == first.version_id


def test_rollback_passes_over_a_damaged_predecessor(registry, trained):
    first = registry.publish(TASK, trained(b"one"), {}, GOOD)
    registry.publish(TASK, trained(b"two"), {}, GOOD).weights_path.write_bytes(b"?")
    registry = fresh(registry)
    registry.publish(TASK, trained(b"three"), {}, GOOD)
    assert registry.rollback(TASK).version_id == first.version_id


def test_disk_use_is_bounded_and_the_predecessor_stays(tmp_path, starters, trained):
    registry = ModelRegistry(tmp_path / "models", starter_folder=starters, keep=3)
    ids = [registry.publish(TASK, trained(bytes([n])), {}, GOOD).version_id for n in range(6)]
    assert [v.version_id for v in registry.versions(TASK)] == [STARTER, *ids[-3:]]
    assert [registry.rollback(TASK).version_id for _ in range(3)] == [ids[4], ids[3], STARTER]
    newest = registry.publish(TASK, trained(b"new"), {}, GOOD).version_id
    assert registry.champion(TASK).version_id == newest
    assert len(registry.versions(TASK)) == 1 + 3


def test_the_predecessor_stays_however_old_it_is(tmp_path, starters, trained):
    registry = ModelRegistry(tmp_path / "models", starter_folder=starters, keep=2)
    first = registry.publish(TASK, trained(b"1"), {}, GOOD)
    registry.publish(TASK, trained(b"2"), {}, GOOD)
    registry.rollback(TASK)
    third = registry.publish(TASK, trained(b"3"), {}, GOOD)
    assert [v.version_id for v in registry.versions(TASK)] == [STARTER, first.version_id, third.version_id]


def test_publishes_that_are_killed_one_after_the_other_leave_one_version_more_at_most(
    tmp_path, starters, trained, monkeypatch
):
    registry = ModelRegistry(tmp_path / "models", starter_folder=starters, keep=2)
    ids = [registry.publish(TASK, trained(bytes([n])), {}, GOOD).version_id for n in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "_make_champion", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        for n in range(4):
            with pytest.raises(KeyboardInterrupt):
                registry.publish(TASK, trained(b"killed %d" % n), {}, GOOD)
            left = [v.version_id for v in fresh(registry).versions(TASK)]
            assert len(left) == 1 + 2 + 1
            assert {ids[1], ids[2]} <= set(left)
    assert registry.champion(TASK).version_id == ids[2]
    newest = registry.publish(TASK, trained(b"new"), {}, GOOD).version_id
    assert [v.version_id for v in registry.versions(TASK)] == [STARTER, ids[2], newest]


def test_keep_below_two_is_refused(tmp_path):
    with pytest.raises(InputError, match="'keep' is 1"):
        ModelRegistry(tmp_path, keep=1)


def test_a_full_disk_leaves_nothing_and_the_champion_in_place(registry, trained, monkeypatch):
    first = registry.publish(TASK, trained(b"one"), {}, GOOD)

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(version_files.os, "fsync", no_space)
    with pytest.raises(StorageError, match=r"No space left.*Free space"):
        registry.publish(TASK, trained(b"two"), {}, GOOD)
    monkeypatch.undo()
    assert [entry.name for entry in (registry.folder / TASK / "versions").iterdir()] == [first.version_id]
    assert fresh(registry).champion(TASK).version_id == first.version_id


def test_what_a_killed_process_left_is_removed_at_the_next_publish(registry, trained):
    leftover = registry.folder / TASK / "versions" / ".incoming-1-deadbeef"
    leftover.mkdir(parents=True)
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert [v.version_id for v in registry.versions(TASK)] == [STARTER]
    registry.publish(TASK, trained(b"one"), {}, GOOD)
    assert not leftover.exists()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path, starters, trained):
    (tmp_path / "models").write_text("a file")
    registry = ModelRegistry(tmp_path / "models", starter_folder=starters)
    with pytest.raises(StorageError, match="cannot be made"):
        registry.publish(TASK, trained(b"one"), {}, GOOD)


def test_packaged_starters_agree_with_their_cards():
    from medai.registry.model_registry import PACKAGED_STARTERS

    tasks = sorted(path.parent.name for path in PACKAGED_STARTERS.glob("*/weights.safetensors"))
    if not tasks:
        pytest.skip("no starter is packaged yet")
    for task in tasks:
        assert ModelRegistry(PACKAGED_STARTERS / "none").champion(task).version_id == STARTER
