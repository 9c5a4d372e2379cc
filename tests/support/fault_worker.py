"""A program whose children do one thing to a study again and again until they are killed.

``python fault_worker.py`` loads the libraries once (torch takes many seconds), then reads one JSON line a child from
its standard input: ``{"operation": …, "arguments": {…}}``. For each it forks, so that a child begins at once and is a
process of its own. Standard output has a JSON line for the child's pid, what it says (``said``), and how it ended.

It is started as a file, not as a module: the monailabel wheel brings a package called ``tests`` of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS: dict[str, Callable[..., None]] = {}


def operation(run: Callable[..., None]) -> Callable[..., None]:
    """List a function by its name."""
    OPERATIONS[run.__name__] = run
    return run


def say(**what: Any) -> None:
    """Tell the parent; one write, so that lines of two processes never mix."""
    os.write(1, (json.dumps({"said": what}) + "\n").encode())


class PlainScans:
    """Decodes a scan each time."""

    def get(self, path: Path, case_id: str = "") -> Any:
        from medai.volume_io.readers import read_volume

        return read_volume(path)

    def find_open(self, path: Path, case_id: str = "") -> None:
        return None


@operation
def submit(study: str, folder: str, case_id: str, first: int, count: int = 100_000) -> None:
    """Submit labels: the n-th is a nodule of n + 1 voxels."""
    import numpy as np

    from medai.domain import LabelMap, Segment
    from medai.server.annotation_recorder import AnnotationRecorder
    from medai.server.uploads import CheckedLabel
    from medai.store.reservations import Reservations
    from medai.store.study import StudyStore
    from medai.volume_io.readers import read_geometry
    from medai.volume_io.writers import write_label_map

    store = StudyStore(Path(study))
    recorder = AnnotationRecorder(store, Reservations(store.folder), PlainScans())
    recorder.resume()
    geometry = read_geometry(store.image_path(case_id))
    say(begun=True)
    for number in range(first, first + count):
        labels = np.zeros(geometry.shape_ijk, dtype=np.uint8)
        labels.reshape(-1)[2000 : 2001 + number] = 1
        label_map = LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),))
        path = Path(folder) / f"checked-{os.getpid()}.nii.gz"
        write_label_map(label_map, path)
        info = {"label_info": [{"name": "nodule", "idx": 1}], "number": number}
        checked = CheckedLabel(path=path, tag="final", info=info, label_map=label_map)
        recorder.submit(case_id, checked, annotator=f"ann {first}", client_id=f"ann {first}")
        say(number=number)


@operation
def publish(models: str, starters: str, task: str, folder: str, size: int) -> None:
    """Publish versions, each of other weights; every publish prunes."""
    registry, verdict = _registry(models, starters), _promoted()
    weights = Path(folder) / "trained.safetensors"
    say(begun=True)
    while True:
        weights.write_bytes(os.urandom(size))
        say(version_id=registry.publish(task, weights, {}, verdict).version_id)


@operation
def rollback(models: str, starters: str, task: str) -> None:
    """Go back and forth between the versions on disk."""
    from medai.errors import ConflictError

    registry = _registry(models, starters)
    say(begun=True)
    while True:
        try:
            version = registry.rollback(task, who="Ann")
        except ConflictError:
            newest = registry.versions(task)[-1].version_id
            version = registry.promote(task, newest, who="Ann", reason="back again")
        say(version_id=version.version_id)


@operation
def convert(weights: str, cache: str) -> None:
    """Convert a network for this machine, and forget it again."""
    import shutil

    from medai.workflows.models import convert_ahead

    say(begun=True)
    while True:
        convert_ahead(Path(weights), device="cpu", cache_folder=Path(cache))
        say(converted=[path.name for path in Path(cache).iterdir()])
        for path in Path(cache).glob("[!.]*"):
            shutil.rmtree(path)


@operation
def measure(data: str, target: str, first: int) -> None:
    """Run ``medai evaluate segmentation`` again and again, each time with another seed, to the same files."""
    import contextlib
    import io
    import itertools

    from medai.cli.evaluate import app

    say(begun=True)
    for seed in itertools.count(first):
        with contextlib.redirect_stdout(io.StringIO()):
            app(["segmentation", "--data", data, "--json", target, "--seed", str(seed)], standalone_mode=False)
        say(seed=seed)


@operation
def retrain(study: str, models: str, starters: str, epochs: int, seed: int, once: bool = False) -> None:
    """Train, judge and publish with the real trainer and judge on a small network; the next seed after each."""
    _small_replay_and_regression()
    from medai.errors import MedaiError
    from medai.store.study import StudyStore
    from medai.workflows.retrain import RetrainConfig
    from medai.workflows.retrain import retrain as run
    from medai.workflows.run_tracking import trackers_for

    store = StudyStore(Path(study))
    while True:
        config = RetrainConfig(epochs=epochs, device="cpu", seed=seed)
        say(begun=True, seed=seed)
        try:
            report = run(
                store,
                _registry(models, starters),
                config,
                on_progress=lambda progress: say(stage=progress.stage, epoch=progress.epoch, at_s=time.monotonic()),
                should_stop=lambda: False,
                tracker=trackers_for(store.folder, "off"),
                wait_s=30.0,
            )
        except MedaiError as error:
            say(error=str(error))
            return
        say(published=report.published, resumed=report.resumed, version_id=report.version, reason=report.reason)
        if once:
            return
        seed += 1


@operation
def track(study: str) -> None:
    """Write a training into the study's own MLflow store, which the first one makes."""
    from medai.workflows.mlflow_tracker import MlflowTracker
    from medai.workflows.run_tracking import TrackedRun

    say(begun=True)
    tracker = MlflowTracker(Path(study))
    tracker.begin(TrackedRun(run_id=f"run {time.time_ns()}", task="nodule_click", folder=Path(study), parameters={}))
    tracker.curves({"train_loss": 0.5}, epoch=1)
    tracker.end("finished")
    say(tracked=True)


@operation
def reserve(study: str, client_id: str, cases: list[str], count: int) -> None:
    """Ask for a case for one annotator after the other: nobody gives one back."""
    from medai.store.reservations import Reservations

    reservations = Reservations(Path(study))
    say(begun=True)
    for number in range(count):
        annotator = f"{client_id}, {number}"
        chosen = reservations.choose(annotator, open_cases=lambda: cases, select=lambda offer: offer.free[0])
        say(case_id=chosen)


@operation
def queue(study: str, name: str, count: int) -> None:
    """Ask for trainings, count labels, and end every second training."""
    from medai.workflows.training_queue import TrainingQueue

    own = TrainingQueue(Path(study))
    say(begun=True)
    for number in range(count):
        own.add(f"{name} {number}", {"number": number}, {})
        own.begun(f"{name} {number}")
        if number % 2:
            own.ended(f"{name} {number}")
        own.label_submitted()
        say(added=f"{name} {number}")


@operation
def delete(study: str, scan: str, label: str, first: int, count: int = 100_000) -> None:
    """Add cases with a label each, and delete them again."""
    from medai.store.study import StudyStore

    store = StudyStore(Path(study))
    say(begun=True)
    for number in range(first, first + count):
        case_id = f"case{number:06d}"
        store.add_image(Path(scan), case_id=case_id, info={})
        store.save_label(case_id, Path(label), "final", {"label_info": [{"name": "nodule", "idx": 1}]})
        say(added=case_id)
        store.remove_image(case_id)
        say(removed=case_id)


@operation
def bring(source: str, study: str) -> None:
    """Import a folder of scans."""
    from medai.workflows.import_study import import_scans

    say(begun=True)
    report = import_scans([Path(source)], Path(study), on_imported=lambda case: say(imported=case.case_id))
    say(refused=len(report.refused), done=len(report.imported) + len(report.skipped))


@operation
def challenge(models: str, starters: str, task: str, folder: str, name: str, count: int) -> None:
    """Publish against the champion of the moment; one that was overtaken is refused and judged anew."""
    from medai.errors import ConflictError

    registry, verdict = _registry(models, starters, keep=100), _promoted()
    weights = Path(folder) / f"{name}.safetensors"
    say(begun=True)
    done = 0
    while done < count:
        judged_against = registry.champion(task).version_id
        weights.write_bytes(os.urandom(1000))
        time.sleep(0.005)
        try:
            version = registry.publish(task, weights, {}, verdict, judged_against=judged_against)
        except ConflictError:
            say(overtaken=True)
            continue
        done += 1
        say(version_id=version.version_id, judged_against=judged_against)


def _registry(models: str, starters: str, keep: int = 3) -> Any:
    from medai.registry import ModelRegistry

    return ModelRegistry(Path(models), starter_folder=Path(starters), keep=keep)


def _promoted() -> Any:
    import numpy as np

    from medai.evaluation.promotion import judge

    return judge({"a": 0.7}, {"a": 0.8}, rng=np.random.default_rng(0))


def _small_replay_and_regression() -> None:
    """Both without the half minute that phantoms take to make; what is done with their nodules stays."""
    import numpy as np

    from medai.domain import NoduleKind, Volume
    from medai.domain.click_case import ClickCase
    from medai.geometry import VolumeGeometry
    from medai.workflows import click_regression, click_replay

    def nodules(seed: int) -> list[ClickCase]:
        mask = np.zeros((40, 44, 30), dtype=bool)
        mask[15:25, 17:27, 11:19] = True
        geometry = VolumeGeometry(shape_ijk=mask.shape, affine_ijk_to_ras_mm=np.diag([-0.8, 0.9, 1.5, 1.0]))
        name = f"phantom-{seed}"
        volume = Volume(geometry=geometry, image_hu=np.where(mask, 30, -850).astype(np.int16), case_id=name)
        return [ClickCase(case_id=f"{name}#1", patient_id=name, volume=volume, mask=mask)]

    click_replay._make_phantom_nodules = nodules
    click_regression.phantom_nodules = lambda seed: [(case, NoduleKind.SOLID, 8.0) for case in nodules(seed)]


def main(modules: list[str]) -> None:
    """Load the libraries, then fork a child for each line."""
    for module in modules:
        __import__(module)
    os.write(1, (json.dumps({"ready": True}) + "\n").encode())
    for line in sys.stdin:
        asked = json.loads(line)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            # Not before the parent has told its number.
            os.read(told, 1)
            try:
                OPERATIONS[asked["operation"]](**asked["arguments"])
            except BaseException:  # noqa: BLE001  # whatever it is, the child must not go on as the worker
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.write(1, (json.dumps({"pid": pid}) + "\n").encode())
        os.write(tell, b".")
        os.close(told)
        os.close(tell)
        _, status = os.waitpid(pid, 0)
        os.write(1, (json.dumps({"ended": os.waitstatus_to_exitcode(status)}) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
