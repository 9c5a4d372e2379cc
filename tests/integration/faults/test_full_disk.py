"""A disk that is really full at each write: one sentence that says what to do, and everything of before is there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.faults.test_killed_processes import check_served, check_submitted, make_starter
from tests.integration.server.conftest import affines, make_study, serve
from tests.integration.server.test_submit_killed import CASE, PlainScans, label_of, recorder_of, submit
from tests.integration.workflows.test_retrain import FakeNetwork, add_case, run
from tests.support.score_factory import case_score
from tests.support.small_disk import SmallDisk, small_disk

from medai.errors import StorageError
from medai.evaluation.promotion import judge
from medai.networks.engine import load_engine
from medai.registry import STARTER, ModelRegistry
from medai.server.served_scans import ServedScans
from medai.store.proposals import ProposalPart, ProposalStore
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.split import FrozenSplit
from medai.store.study import StudyStore
from medai.training.training_state import save_state
from medai.volume_io.readers import read_volume
from medai.volume_io.scan_cache import ScanCache
from medai.volume_io.writers import write_volume
from medai.workflows.run_tracking import TrackedRun, trackers_for
from medai.workflows.training_queue import TrainingQueue

TASK = "nodule_click"
FULL = r"No space left on device|database or disk is full|disk I/O error"
ADVICE = r"Free space on that disk|its disk has space left"
LEFT_BYTES = [*range(0, 65536, 4096), *range(65536, 262144, 32768)]
GOOD = judge({"a": 0.7}, {"a": 0.8}, rng=np.random.default_rng(0))
BAD = judge({"a": 0.7}, {"a": 0.6}, rng=np.random.default_rng(0))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=6) as disk:
        yield disk


def refused(attempt: Callable[[], Any]) -> bool:
    """Whether a full disk refused it, in words; anything else is a failure."""
    try:
        attempt()
    except StorageError as error:
        assert re.search(FULL, str(error)), error
        assert re.search(ADVICE, str(error)), error
        return True
    return False


def test_a_label_is_kept_or_refused_in_words_wherever_the_space_ends(disk, tmp_path):
    study, answered, refusals = make_study(disk.folder / "study"), [0], 0
    recorder = recorder_of(study)
    submit(recorder, tmp_path, 0)
    recorder.wait()
    for number, left in enumerate(LEFT_BYTES, start=1):
        disk.fill(leave_bytes=left)
        if refused(lambda number=number: submit(recorder, tmp_path, number)):
            refusals += 1
        else:
            answered.append(number)
        recorder.wait()
        # While the disk is full: what was answered is read by this server, and by one that starts now.
        shown = StudyStore(study)
        assert shown.label_info(CASE, "final")["number"] >= answered[-1]
        assert len(recorder.log.all()) >= len(answered)
        fresh = recorder_of(study)
        assert len(fresh.log.of_case(CASE)) >= len(answered)
        fresh.close()
        disk.free()
    recorder.close()
    assert refusals > 3
    assert len(answered) > 3
    check_submitted(study, set(answered))


def _study_of(disk: SmallDisk) -> Path:
    folder = disk.folder / "study"
    folder.mkdir(exist_ok=True)
    return folder


def _reservations(disk: SmallDisk, _: Path) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    def write(number: int) -> None:
        Reservations(_study_of(disk)).reserve(f"case{number}", "ann")

    return write, lambda: {each.case_id for each in Reservations(_study_of(disk)).active()}


def _scores(disk: SmallDisk, _: Path) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    store = ScoreStore(_study_of(disk))

    def write(number: int) -> None:
        # More of them than the log has room for in its last block.
        store.put_all(case_score(f"case{number}" if n == 0 else f"more{number}-{n}") for n in range(200))

    return write, lambda: {case_id for case_id in store.table().case_ids if case_id.startswith("case")}


def _split(disk: SmallDisk, _: Path) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    def write(number: int) -> None:
        FrozenSplit(_study_of(disk)).place(f"case{number}")

    return write, lambda: set(FrozenSplit(_study_of(disk)).known(f"case{n}" for n in range(9)))


def _queue(disk: SmallDisk, _: Path) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    def write(number: int) -> None:
        TrainingQueue(_study_of(disk)).add(f"case{number}", {}, {})

    return write, lambda: {entry.task_id for entry in TrainingQueue(_study_of(disk)).adopt()[0]}


def _index(disk: SmallDisk, _: Path) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    for number in range(2):
        (_study_of(disk) / f"case{number}.nii.gz").write_bytes(b"scan")

    def write(number: int) -> None:
        StudyStore(_study_of(disk)).update_image_info(f"case{number}", {"seen": True})

    def read() -> set[str]:
        store = StudyStore(_study_of(disk))
        return {case_id for case_id in store.image_ids() if store.image_info(case_id).get("seen")}

    return write, read


def _proposals(disk: SmallDisk, _: Path) -> tuple[Callable[[int], Any], Callable[[], Any]]:
    store = ProposalStore(_study_of(disk))

    def write(number: int) -> None:
        part = ProposalPart(model="m", version="v", payload=b"label", extension=".nrrd", label_names={"nodule": 1})
        store.remember(f"case{number}", "ann", part)

    return write, lambda: {f"case{n}" for n in range(9) if store.find(f"case{n}", "ann")}


@pytest.mark.parametrize("kind", [_reservations, _scores, _split, _queue, _index, _proposals])
def test_what_a_study_remembers_stays_and_grows_again_when_there_is_space(disk, tmp_path, kind):
    write, read = kind(disk, tmp_path)
    write(0)
    disk.fill()
    assert refused(lambda: write(1))
    if kind is not _queue:
        assert read() == {"case0"}
    disk.free()
    write(1)
    assert read() == {"case0", "case1"}


def test_a_publish_that_finds_no_space_leaves_the_champion_and_no_rest(disk, tmp_path):
    registry = ModelRegistry(disk.folder / "models", starter_folder=make_starter(tmp_path / "starters"), keep=3)
    weights = tmp_path / "trained.safetensors"
    refusals = published = 0
    for number, left in enumerate([0, 4096, 8192, 65536, 1 << 20, 3 << 20]):
        weights.write_bytes(bytes([number]) * 400_000)
        before = registry.champion(TASK).version_id
        disk.fill(leave_bytes=left)
        if refused(lambda: registry.publish(TASK, weights, {}, GOOD)):
            refusals += 1
            assert check_served(registry) == before
        else:
            published += 1
        disk.free()
        assert [path.name for path in (registry.folder / TASK).rglob(".incoming*")] == []
    assert refusals >= 4
    assert published >= 1
    disk.fill()
    before = check_served(registry)
    for change in (
        lambda: registry.rollback(TASK),
        lambda: registry.promote(TASK, STARTER, who="Ann", reason="steadier"),
        lambda: registry.pin(TASK, before),
        lambda: registry.record_refusal(TASK, BAD, judged_against=before),
    ):
        # The folder's own blocks may hold one more small file; then it is done, and done whole.
        refused(change)
        check_served(registry)
    disk.free()


def test_a_model_that_finds_no_space_is_published_by_the_next_training_without_training_again(
    disk, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = disk.folder / "study"
    folder.mkdir()
    study = StudyStore(folder)
    for n in range(6):
        add_case(study, tmp_path, f"case{n}")
    registry = ModelRegistry(folder / ".medai" / "models", starter_folder=_number_as_weights(tmp_path))

    class FillsTheDisk(FakeNetwork):
        def train(self, examples, **named):
            path = super().train(examples, **named)
            disk.fill()
            return path

    with pytest.raises(StorageError, match=ADVICE):
        run(study, registry, FillsTheDisk(0.8))
    assert registry.champion(TASK).version_id == STARTER
    disk.free()
    report = run(study, registry, FakeNetwork(0.8))
    assert (report.resumed, report.published) == (True, True)


def test_a_training_whose_progress_cannot_be_written_goes_on(disk, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = disk.folder / "study"
    folder.mkdir()
    study = StudyStore(folder)
    for n in range(6):
        add_case(study, tmp_path, f"case{n}")
    registry = ModelRegistry(tmp_path / "models", starter_folder=_number_as_weights(tmp_path))

    class FillsTheDisk(FakeNetwork):
        def train(self, examples, **named):
            path = super().train(examples, **named)
            disk.fill()
            return path

    assert run(study, registry, FillsTheDisk(0.8)).published
    assert "is not told of on disk" in caplog.text
    assert [str(event.kind) for event in registry.history(TASK)] == ["published"]


def _number_as_weights(tmp_path: Path) -> Path:
    starter = tmp_path / "numbers" / TASK
    starter.mkdir(parents=True)
    (starter / "weights.safetensors").write_text("0.7")
    (starter / "card.json").write_text("{}")
    return starter.parent


def test_the_state_of_a_training_stays_the_last_whole_one(disk):
    import torch

    path = disk.folder / "work" / "training_state.pt"
    save_state(path, {"epoch": 1, "weights": torch.zeros(200_000)})
    for left in (0, 4096, 400_000):
        disk.fill(leave_bytes=left)
        assert refused(lambda: save_state(path, {"epoch": 2, "weights": torch.ones(200_000)}))
        disk.free()
        assert torch.load(path, weights_only=True)["epoch"] == 1
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_network_answers_where_its_converted_form_cannot_be_kept(disk, tmp_path, caplog):
    weights = make_starter(tmp_path / "starters") / TASK / "weights.safetensors"
    batch = np.random.default_rng(0).uniform(-1, 1, (1, 5, 16, 16, 16)).astype(np.float32)
    cache = disk.folder / "engines"
    cache.mkdir()
    answers = []
    for left in (0, 4096, 32768):
        disk.fill(leave_bytes=left)
        engine = load_engine(weights, device="cpu", cache_folder=cache)
        assert engine.description.startswith("OpenVINO")
        answers.append(engine.run(batch))
        if left == 0:
            assert list(cache.iterdir()) == []
            assert "could not be kept" in caplog.text
        disk.free()
    answers.append(load_engine(weights, device="cpu", cache_folder=cache).run(batch))
    assert all(np.allclose(answers[0], answer, atol=1e-5) for answer in answers)
    assert len(list(cache.glob("*/model.xml"))) == 1


def test_a_scan_is_read_where_its_copies_cannot_be_kept(disk, tmp_path):
    study = StudyStore(make_study(disk.folder / "study"))
    volume = read_volume(study.image_path("case_flipped"))
    mirrored = volume.geometry.with_axis_reversed(2)
    left_handed = type(volume)(geometry=mirrored, image_hu=np.flip(volume.image_hu, 2))
    write_volume(left_handed, study.folder / "left.nii.gz")
    served = ServedScans(study, PlainScans(), disk.folder / "served")
    disk.fill()
    cache = ScanCache(disk.folder / "scans", memory_bytes=1 << 20, disk_bytes=1 << 30)
    try:
        assert cache.get(study.image_path(CASE), CASE).image_hu.shape == volume.image_hu.shape
    finally:
        cache.close()
    assert list((disk.folder / "scans").glob("*.json")) == []
    assert refused(lambda: served.path("left"))
    disk.free()
    assert read_volume(served.path("left")).geometry.is_left_handed is False
    assert [path.suffix for path in (disk.folder / "served").iterdir()] == [".gz"]


def test_what_a_killed_server_left_of_a_copy_goes_with_the_next_copy(tmp_path):
    study = StudyStore(make_study(tmp_path / "study"))
    volume = read_volume(study.image_path("case_flipped"))
    mirrored = type(volume)(geometry=volume.geometry.with_axis_reversed(2), image_hu=np.flip(volume.image_hu, 2))
    write_volume(mirrored, study.folder / "left.nii.gz")
    folder = tmp_path / "served"
    folder.mkdir()
    old, young = folder / ".old.part", folder / ".young.part"
    for leftover in (old, young):
        leftover.write_bytes(b"half")
    os.utime(old, (0, 0))
    ServedScans(study, PlainScans(), folder).path("left")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("when", ["from the start", "on the way"])
def test_a_training_is_tracked_no_further_but_goes_on(disk, caplog, when):
    study = _study_of(disk)
    tracker = trackers_for(study, "local")
    caplog.set_level(logging.WARNING)
    run_folder = study / ".medai" / "training" / "run"
    run_folder.mkdir(parents=True)
    if when == "from the start":
        disk.fill()
    tracker.begin(TrackedRun(run_id="run", task=TASK, folder=run_folder, parameters={"epochs": 1}))
    disk.fill()
    for epoch in range(1, 400):
        tracker.curves({"train_loss": 0.5}, epoch=epoch)
    tracker.verdict({"gain": 0.1}, {"reason": "x" * 100_000}, {"verdict": "promoted"})
    tracker.end("finished")
    assert "MLflow is not told of this training any more; the training goes on" in caplog.text
    disk.free()
    again = trackers_for(study, "local")
    caplog.clear()
    again.begin(TrackedRun(run_id="next", task=TASK, folder=run_folder, parameters={"epochs": 1}))
    again.end("finished")
    assert "is not told" not in caplog.text


def test_a_server_on_a_full_disk_answers_clicks_and_says_what_to_do_about_labels(disk, tmp_path):
    study = make_study(disk.folder / "study")
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(label_of(3).labels, affines()[CASE]), path)
    params = {"params": json.dumps({"label_info": [{"name": "nodule", "idx": 1}], "client_id": "ann"})}

    def send(served: Any) -> Any:
        with path.open("rb") as file:
            return served.client.put(f"/datastore/label?image={CASE}", data=params, files={"label": (path.name, file)})

    with contextlib.contextmanager(serve)(study) as served:
        assert served.client.post("/activelearning/first", json={"client_id": "ann"}).json()["id"] == CASE
        disk.fill()
        refusal = send(served)
        assert refusal.status_code == HTTPStatus.INSUFFICIENT_STORAGE
        assert "No space left on device. Free space on that disk and try again" in refusal.json()["detail"]
        assert served.click(client_id="ann").status_code == HTTPStatus.OK
        assert served.client.post(f"/infer/nodule_segmentation?image={CASE}").status_code == HTTPStatus.OK
        assert served.client.get("/datastore/").json()["total"] == 3
        assert served.client.get("/info/").status_code == HTTPStatus.OK
        refused_next = served.client.post("/activelearning/first", json={"client_id": "ann"})
        assert refused_next.status_code == HTTPStatus.INSUFFICIENT_STORAGE
        disk.free()
        assert send(served).status_code == HTTPStatus.OK
        assert served.client.get("/datastore/").json()["completed"] == 1


def test_a_server_starts_on_a_full_disk_and_shows_what_there_is(disk, tmp_path):
    study = make_study(disk.folder / "study")
    recorder = recorder_of(study)
    submit(recorder, tmp_path, 3)
    recorder.wait()
    recorder.close()
    with contextlib.contextmanager(serve)(study):
        pass
    disk.fill()
    with contextlib.contextmanager(serve)(study) as served:
        assert served.client.get("/datastore/").json()["completed"] == 1
        assert len(served.client.get("/medai/annotations").json()["annotations"]) == 1
        assert served.click(client_id="ann").status_code == HTTPStatus.OK
        label = served.client.get(f"/datastore/label?label={CASE}&tag=final")
        assert label.status_code == HTTPStatus.OK


def test_a_history_is_read_on_a_full_disk_and_written_again_when_there_is_space(disk, tmp_path, caplog):
    study = make_study(disk.folder / "study")
    recorder = recorder_of(study)
    submit(recorder, tmp_path, 0)
    recorder.wait()
    recorder.close()
    disk.fill()
    recorder = recorder_of(study)
    assert "is read without its log" in caplog.text
    assert len(recorder.log.all()) == 1
    assert refused(lambda: submit(recorder, tmp_path, 1))
    disk.free()
    submit(recorder, tmp_path, 2)
    assert len(recorder.log.all()) == 2
    recorder.close()
    check_submitted(study, {0, 2})


def test_a_history_whose_last_rows_are_in_the_log_is_not_read_without_it(disk, tmp_path):
    study = make_study(disk.folder / "study")
    recorder = recorder_of(study)
    submit(recorder, tmp_path, 0)
    recorder.wait()
    state = study / ".medai"
    # As a kill leaves it: rows in the log, and nobody who has it open.
    saved = {name: (state / name).read_bytes() for name in ("annotations.db", "annotations.db-wal")}
    assert saved["annotations.db-wal"]
    recorder.close()
    for name, content in saved.items():
        (state / name).write_bytes(content)
    disk.fill()
    with pytest.raises(StorageError, match=f"({FULL}).*its disk has space left"):
        recorder_of(study)
    disk.free()
    check_submitted(study, {0})


def test_scores_are_read_on_a_full_disk(disk, caplog):
    store = ScoreStore(_study_of(disk))
    store.put(case_score("case0"))
    store.close()
    disk.fill()
    store = ScoreStore(_study_of(disk))
    assert "its disk is full" in caplog.text
    store.put(case_score("case1"))
    assert set(store.table().case_ids) == {"case0", "case1"}
    store.close()
    disk.free()
    store = ScoreStore(_study_of(disk))
    assert set(store.table().case_ids) == {"case0"}
    store.close()


def test_uploads_that_find_no_room_for_a_moment_are_told_so(tmp_path):
    """The folder of temporary files is often a disk of its own."""
    with (
        small_disk(tmp_path / "temporary", megabytes=1) as temporary,
        contextlib.contextmanager(serve)(make_study(tmp_path / "study")) as served,
    ):
        path = tmp_path / "label.nii.gz"
        nib.save(nib.Nifti1Image(label_of(3).labels, affines()[CASE]), path)
        temporary.fill()
        # Taken back before the server ends, which puts back the folder that was there before it.
        with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
            patch.setattr("tempfile.tempdir", str(temporary.folder))
            reply = served.client.put(f"/datastore/label?image={CASE}", files={"label": (path.name, file)})
        assert reply.status_code == HTTPStatus.INSUFFICIENT_STORAGE
        assert "disk is full" in reply.json()["detail"]
        assert "Free space" in reply.json()["detail"]
