"""Every scan of a folder from file to label map, by any executor.

A scan is a volume file in the folder, or a folder in it that holds a DICOM series. Its answer is ``<name><ending>`` and
beside it ``<name>.json``, which says what was found, by which models, in which file: where both are there and still
fit, the scan is passed over, so that a run that was stopped or killed goes on, and one with better models begins anew.
The workers write the answers themselves (a label map is megabytes); both files appear whole or not at all.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medai.errors import InputError, StorageError
from medai.store.atomic import write_json
from medai.workflows.executors import CaseExecutor, CaseOutcome
from medai.workflows.import_sources import VOLUME_ENDINGS
from medai.workflows.infer_case import Registry, load_pipeline, write_outcome
from medai.workflows.models import open_registry
from medai.workflows.score_case import scored_versions

ENDINGS = (".seg.nrrd", ".nrrd", ".nii.gz")
"""What answers may be written as; the first keeps the names that 3D Slicer shows."""

CHECKED = "chest CT in HU"
"""Said in each answer: one without it is of a version that answered whatever it could read."""

_log = logging.getLogger(__name__)


def scans_in(folder: Path) -> dict[str, Path]:
    """The scans of a folder by name, sorted; empty where the folder itself is one DICOM series, or holds none.

    Raises:
        InputError: two scans have the same name.
    """
    from medai.volume_io.dicom_headers import looks_like_dicom

    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        ending = next((ending for ending in VOLUME_ENDINGS if path.name.lower().endswith(ending)), "")
        is_volume = ending and path.is_file()
        if not is_volume and not (path.is_dir() and any(looks_like_dicom(file) for file in sorted(path.iterdir()))):
            continue
        name = path.name[: len(path.name) - len(ending)]
        if name in found:
            raise InputError(f"'{found[name].name}' and '{path.name}' would be answered under one name: rename one.")
        found[name] = path
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderTask:
    """Which scans are answered, and where to. Picklable; calling it makes a worker ready.

    Attributes:
        folder: the scans.
        out: takes the answers.
        studies: whose models answer; None: the starter models.
        ending: of the answers, one of ``ENDINGS``.
        device: see ``medai.networks.engine.load_engine``.
    """

    folder: Path
    out: Path
    studies: Path | None = None
    ending: str = ENDINGS[0]
    device: str = "auto"

    def __call__(self) -> Callable[[str], dict[str, Any]]:
        """Load the present champions."""
        from medai.store.layout import engines_folder
        from medai.volume_io.plausibility import read_chest_ct

        scans = scans_in(self.folder)
        pipeline = load_pipeline(open_registry(self.studies), device=self.device, cache_folder=engines_folder())

        def answer(name: str) -> dict[str, Any]:
            path = scans[name]
            changed_ns = path.stat().st_mtime_ns
            outcome = write_outcome(pipeline.predict(read_chest_ct(path)), self.out / f"{name}{self.ending}")
            found = {"scan": path.name, "changed_ns": changed_ns, "checked": CHECKED, **outcome.to_json()}
            write_json(self.out / f"{name}.json", found)
            return found

        return answer

    def answered(self, name: str, path: Path, versions: Mapping[str, str]) -> dict[str, Any] | None:
        """What an earlier run has written for a scan, where it is by these models and of this file."""
        try:
            found: dict[str, Any] = json.loads((self.out / f"{name}.json").read_bytes())
            fits = (
                found["model_versions"] == dict(versions)
                and found["changed_ns"] == path.stat().st_mtime_ns
                and found["checked"] == CHECKED
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if fits and (self.out / f"{name}{self.ending}").is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """What became of the scans of a folder.

    Attributes:
        scans: name to what was found, those passed over included.
        passed_over: names of scans that an earlier run had answered.
        failed: name to the reason.
        seconds: wall time.
        executor: who worked, in words.
        workers: who worked to how many scans.
    """

    scans: dict[str, dict[str, Any]]
    passed_over: tuple[str, ...]
    failed: dict[str, str]
    seconds: float
    executor: str
    workers: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "scans": self.scans,
            "passed_over": list(self.passed_over),
            "failed": self.failed,
            "seconds": round(self.seconds, 2),
            "executor": self.executor,
            "workers": self.workers,
        }


def infer_folder(
    task: FolderTask,
    executor: CaseExecutor,
    *,
    registry: Registry | None = None,
    again: bool = False,
    on_step: Callable[[int, int, CaseOutcome[dict[str, Any]] | None], None] = lambda done, all_of_them, outcome: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FolderReport:
    """Answer every scan of a folder.

    Args:
        task: what to do.
        executor: who works.
        registry: says which versions answer now; None: that of ``task.studies``.
        again: answer those anew that an earlier run has answered.
        on_step: told how many scans are done, of how many, and the last one's outcome; at the beginning without one.
        should_stop: asked before each scan.

    Raises:
        InputError: the folder or the ending cannot be used.
        ModelError: there are no models.
        StorageError: the answers cannot be written.
    """
    begun = time.perf_counter()
    if task.ending not in ENDINGS:
        raise InputError(f"Answers are written as {', '.join(ENDINGS)}, not '{task.ending}'.")
    scans = scans_in(task.folder)
    if not scans:
        raise InputError(f"The folder {task.folder} holds no scans ({', '.join(VOLUME_ENDINGS)}, DICOM folders).")
    try:
        task.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {task.out} cannot be made: {error.strerror}.") from error
    versions = scored_versions(registry or open_registry(task.studies))
    done = {} if again else {name: task.answered(name, path, versions) for name, path in scans.items()}
    found = {name: answer for name, answer in done.items() if answer is not None}
    passed_over, failed, workers = tuple(found), {}, dict[str, int]()
    on_step(len(found), len(scans), None)
    todo = [name for name in scans if name not in found]
    for outcome in executor.run(todo, task, should_stop=should_stop):
        if outcome.result is None:
            failed[outcome.case_id] = outcome.error
            _log.warning("%s: %s", outcome.case_id, outcome.error)
        else:
            found[outcome.case_id] = outcome.result
        workers[outcome.worker] = workers.get(outcome.worker, 0) + 1
        on_step(len(found) + len(failed), len(scans), outcome)
    return FolderReport(
        scans={name: found[name] for name in scans if name in found},
        passed_over=passed_over,
        failed=failed,
        seconds=time.perf_counter() - begun,
        executor=executor.description,
        workers=workers,
    )
