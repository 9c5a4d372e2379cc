"""Starts a training in several processes on this machine and waits for it: what ``--processes N`` does.

The data set is written once into the training's folder, and ``torchrun`` (``torch.distributed.run``) starts N times
``medai.training.process_worker`` on it. The first of them tells how far it is in a file; a stop is another file. The
workers look for the process that started them and stop where it is gone, so that none is left behind when it is killed.

On several machines ``torchrun --nnodes … -m medai.training.process_worker JOB`` does the same by hand, with the folder
on a disk that all of them see.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from medai.errors import CancelledByUserError, InputError, MedaiError, ModelError
from medai.training.case_files import load_cases, save_cases
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig, EpochReport, FurtherDescents, TrainingResult
from medai.training.dataset import ClickDataset
from medai.volume_io.atomic import atomic_path

JOB_FILE, RESULT_FILE, TOLD_FILE, STOP_FILE, LOG_FILE = "job.json", "result.json", "told.jsonl", "stop", "workers.log"
PARTS = ("training", "validation", "replay")
_POLL_S = 0.2
_PATIENCE_S = 60.0
"""After a stop was asked for: a batch takes a second or two, writing the state another."""
_LAST_LINES = 12


def train_in_processes(
    dataset: ClickDataset,
    config: ClickTrainingConfig,
    processes: int,
    *,
    start_from: Path | None,
    output_folder: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_iteration: Callable[[float], None] = lambda fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    threads: int | None = None,
) -> TrainingResult:
    """``train_click_network`` in processes of their own; the result is that of one, within rounding.

    Args:
        dataset: training, validation and replay cases.
        config: how; the batch is shared evenly.
        processes: one a GPU with CUDA.
        start_from: weights to fine-tune; None starts from random ones.
        output_folder: takes ``best.safetensors``, the state to resume from and, below ``processes/``, the data set.
        on_epoch: called after each validation.
        on_iteration: called with the fraction that is done, 0–1.
        should_stop: asked a few times a second.
        resume: go on from the state in ``output_folder`` where there is one.
        threads: of each process; by default the cores are shared evenly.

    Raises:
        InputError: the batch cannot be shared, or what ``train_click_network`` refuses.
        ModelError: a worker failed; its last words are in the message, all of them in ``processes/workers.log``.
        CancelledByUserError: stopped before the first validation.
    """
    if processes < 1 or config.batch_size % processes:
        raise InputError(
            f"A batch of {config.batch_size} cannot be shared by {processes} processes: choose a number that divides "
            "it."
        )
    folder = output_folder / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESULT_FILE, TOLD_FILE, STOP_FILE):
        (folder / name).unlink(missing_ok=True)
    for part in PARTS:
        save_cases(folder / f"{part}.npz", getattr(dataset, part))
    job = {
        "config": asdict(config),
        "start_from": str(start_from.resolve()) if start_from else None,
        "output_folder": str(output_folder.resolve()),
        "resume": resume,
        "started_by": os.getpid(),
    }
    _write(folder / JOB_FILE, job)
    was_asked, failure = _run(folder, processes, threads, on_epoch, on_iteration, should_stop)
    try:
        outcome = json.loads((folder / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        if was_asked:
            raise CancelledByUserError(
                "The training was stopped before its first validation: no weights were saved."
            ) from None
        raise ModelError(f"The training in {processes} processes failed. {failure}") from None
    if "error" in outcome:
        raise _error(outcome)
    return result_of(outcome)


def read_job(path: Path) -> tuple[ClickDataset, ClickTrainingConfig, dict[str, Any]]:
    """What a worker is to do.

    Args:
        path: ``job.json``, beside the data set.
    """
    job = json.loads(path.read_bytes())
    cases = {part: tuple(load_cases(path.with_name(f"{part}.npz"))) for part in PARTS}
    return ClickDataset(**cases), config_of(job["config"]), job


def config_of(plain: dict[str, Any]) -> ClickTrainingConfig:
    """A configuration from what JSON made of it: lists become tuples again."""
    others = {name: value for name, value in plain.items() if name not in ("sampling", "further")}
    return ClickTrainingConfig(
        **_tuples(others),
        sampling=SamplingConfig(**_tuples(plain["sampling"])),
        further=tuple(_descents_of(descents) for descents in plain["further"]),
    )


def _descents_of(plain: dict[str, Any]) -> FurtherDescents:
    """Further descents from what JSON made of them."""
    sampling = plain["sampling"]
    others = {name: value for name, value in plain.items() if name != "sampling"}
    return FurtherDescents(
        **_tuples(others), sampling=None if sampling is None else SamplingConfig(**_tuples(sampling))
    )


def outcome_of(result: TrainingResult) -> dict[str, Any]:
    """A result as plain values."""
    plain = {each.name: getattr(result, each.name) for each in fields(result)}
    reports = [plain_report(report) for report in result.epochs]
    return {**plain, "checkpoint_path": str(result.checkpoint_path), "epochs": reports}


def result_of(outcome: dict[str, Any]) -> TrainingResult:
    """The result that ``outcome_of`` wrote."""
    reports = tuple(_report(plain) for plain in outcome["epochs"])
    return TrainingResult(**{**outcome, "checkpoint_path": Path(outcome["checkpoint_path"]), "epochs": reports})


def plain_report(report: EpochReport) -> dict[str, Any]:
    """A report as plain values; no loss is None."""
    plain = asdict(report)
    return {**plain, "train_loss": report.train_loss if math.isfinite(report.train_loss) else None}


def _run(
    folder: Path,
    processes: int,
    threads: int | None,
    on_epoch: Callable[[EpochReport], None],
    on_iteration: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> tuple[bool, str]:
    """Start the workers, pass on what they tell, wait for their end.

    Returns:
        Whether they were asked to stop, and their last words where they failed.
    """
    threads = threads or max(1, len(os.sched_getaffinity(0)) // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*torchrun, "-m", "medai.training.process_worker", str(folder / JOB_FILE)]
    told = _Told(folder / TOLD_FILE, on_epoch, on_iteration)
    with (folder / LOG_FILE).open("wb") as log:
        workers = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        asked_s: float | None = None
        try:
            while workers.poll() is None:
                told.pass_on()
                if asked_s is None and should_stop():
                    (folder / STOP_FILE).touch()
                    asked_s = time.monotonic()
                if asked_s is not None and time.monotonic() - asked_s > _PATIENCE_S:
                    break
                time.sleep(_POLL_S)
        finally:
            _end(workers)
    told.pass_on()
    if workers.returncode == 0:
        return asked_s is not None, ""
    lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    return asked_s is not None, "Its last words:\n" + "\n".join(lines[-_LAST_LINES:])


class _Told:
    """What the first worker tells, passed on as it comes."""

    def __init__(
        self, path: Path, on_epoch: Callable[[EpochReport], None], on_iteration: Callable[[float], None]
    ) -> None:
        self._path = path
        self._on_epoch, self._on_iteration = on_epoch, on_iteration
        self._position = 0

    def pass_on(self) -> None:
        """Read the lines that are new and whole."""
        try:
            with self._path.open("rb") as lines:
                lines.seek(self._position)
                new = lines.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            told = json.loads(line)
            if "fraction" in told:
                self._on_iteration(float(told["fraction"]))
            else:
                self._on_epoch(_report(told))


def _end(workers: subprocess.Popen[bytes]) -> None:
    """End the workers where they have not ended by themselves."""
    if workers.poll() is None:
        # torchrun passes it on to its workers.
        workers.terminate()
        try:
            workers.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            workers.kill()
            workers.wait()


def _error(outcome: dict[str, Any]) -> MedaiError:
    """What a worker refused, as the error that it was."""
    kinds = {kind.__name__: kind for kind in _kinds(MedaiError)}
    return kinds.get(str(outcome["error"]), ModelError)(str(outcome["message"]))


def _kinds(kind: type[MedaiError]) -> list[type[MedaiError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


def _report(plain: dict[str, Any]) -> EpochReport:
    loss = plain["train_loss"]
    return EpochReport(**{**plain, "train_loss": math.nan if loss is None else loss})


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}


def _write(path: Path, record: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")
