"""``medai simulate active-learning``: strategies against each other on labelled data, many seeds side by side.

One process plays all strategies of a seed, one after the other, so that they share the seed's first model. A process
loads the data once and plays seed after seed. How far all is, is read from what lies on disk: a run that was killed
goes on, and a second one of the same plan only reads.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medai.errors import InputError
from medai.evaluation.learning_curves import StrategyFigures, compare_strategies
from medai.volume_io.atomic import atomic_path
from medai.workflows.simulated_learning import (
    FULL_FILE,
    TRIAL_FILE,
    LearningPlan,
    LearningTask,
    PoolCase,
    Trial,
    WithEmptyPatients,
    check_plan,
    check_strategies,
    full_figure,
    play_seed,
)

SEGMENTATION, CLASSIFICATION = "segmentation", "classification"
TASKS = (SEGMENTATION, CLASSIFICATION)
DEFAULT_PLANS: Mapping[str, LearningPlan] = {
    SEGMENTATION: LearningPlan(rounds=6, budget=2, warm_start=2, most_scored=60),
    CLASSIFICATION: LearningPlan(rounds=20, budget=1, warm_start=2),
}
"""Both end where the curves have flattened; an outline network learns from a few patients what it can learn at all."""
PLAN_FILE = "plan.json"
_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSimulation:
    """What is played.

    Attributes:
        tasks: names of ``TASKS``.
        strategies: names of ``STRATEGIES``.
        seeds: 1 to this one.
        plans: task to how much is labelled.
        empty_share: share of the pool that has no nodule, see ``WithEmptyPatients``.
    """

    tasks: tuple[str, ...] = TASKS
    strategies: tuple[str, ...]
    seeds: int = 5
    plans: Mapping[str, LearningPlan]
    empty_share: float = 0.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown or not self.tasks:
            raise InputError(f"There is no task '{', '.join(unknown)}': choose from {', '.join(TASKS)}.")
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}; it must be 1 or more.")
        check_strategies(self.strategies)

    @property
    def rounds_in_all(self) -> int:
        """Models to be trained: those of the strategies, the warm starts, and those of the whole pool."""
        each = [len(self.strategies) * self.plans[task].rounds + 2 for task in self.tasks]
        return self.seeds * sum(each)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What the strategies are worth in one task.

    Attributes:
        task: its name.
        measure: what its figure is.
        plan: how much was labelled, and when.
        full_figure: mean over seeds of what a model of the whole pool reaches.
        judged_nodules: nodules that figures are taken on.
        trials: every trial that was played.
        figures: by strategy.
        pool: patient to what there was to label.
        places: patient to where it lies on a plane of the two main axes of all embeddings.
    """

    task: str
    measure: str
    plan: LearningPlan
    full_figure: float
    judged_nodules: int
    trials: tuple[Trial, ...]
    figures: Mapping[str, StrategyFigures]
    pool: Mapping[str, PoolCase]
    places: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``strategies`` has the figures, ``trials`` each curve with what was picked."""
        return {
            "measure": self.measure,
            "plan": asdict(self.plan),
            "pool_patients": len(self.pool),
            "judged_nodules": self.judged_nodules,
            "full_figure": self.full_figure,
            "strategies": {name: figures.to_json() for name, figures in self.figures.items()},
            "trials": [
                {"strategy": trial.strategy, "seed": trial.seed, "rounds": [asdict(each) for each in trial.rounds]}
                for trial in self.trials
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningReport:
    """All tasks.

    Attributes:
        results: one a task.
        seeds: how many were played.
        empty_share: share of the pool without a nodule.
        seconds: wall time of this run.
    """

    results: tuple[TaskResult, ...]
    seeds: int
    empty_share: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values by task."""
        return {
            "seeds": self.seeds,
            "empty_share": self.empty_share,
            "tasks": {result.task: result.to_json() for result in self.results},
            "seconds": self.seconds,
        }


OnProgress = Callable[[int, int, str], None]


def simulate_learning(
    data: Path,
    out: Path,
    simulation: LearningSimulation,
    *,
    jobs: int = 1,
    on_progress: OnProgress = lambda done, total, words: None,
) -> LearningReport:
    """Play all seeds of all tasks, or go on with them.

    Args:
        data: folder of outlined nodules.
        out: takes rounds and models.
        simulation: what is played.
        jobs: processes at once.
        on_progress: told how many models are trained, of how many, and what happens.

    Raises:
        InputError: no such data, or ``out`` holds another simulation.
    """
    started_s = time.monotonic()
    results = []
    for name in simulation.tasks:
        folder = _claimed(out / name, data, simulation, name)
        on_progress(_trained(out, simulation), simulation.rounds_in_all, f"reading nodules for {name}")
        task = load_task(name, data, out, simulation.empty_share)
        check_plan(task, simulation.plans[name])
        _play(name, data, out, simulation, jobs, on_progress)
        results.append(_result(task, folder, simulation))
    return LearningReport(
        results=tuple(results),
        seeds=simulation.seeds,
        empty_share=simulation.empty_share,
        seconds=time.monotonic() - started_s,
    )


def load_task(name: str, data: Path, out: Path, empty_share: float) -> LearningTask:
    """Read the data of a task.

    Args:
        name: one of ``TASKS``.
        data: folder of outlined nodules.
        out: keeps what takes long to measure.
        empty_share: see ``WithEmptyPatients``.
    """
    from medai.workflows.learning_classification import ClassificationLearning
    from medai.workflows.learning_segmentation import SegmentationLearning

    task: LearningTask = (
        ClassificationLearning(data, out / "measurements") if name == CLASSIFICATION else SegmentationLearning(data)
    )
    return WithEmptyPatients(task, empty_share) if empty_share else task


def _play(name: str, data: Path, out: Path, simulation: LearningSimulation, jobs: int, on_progress: OnProgress) -> None:
    """Every seed of a task, in processes of their own."""
    left = [seed for seed in range(1, simulation.seeds + 1) if not _is_done(out / name, seed, simulation, name)]
    if not left:
        return
    # Not forked: the networks' libraries have threads, which a fork leaves behind.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max_workers=min(jobs, len(left)),
        mp_context=context,
        initializer=_begin_process,
        initargs=(name, data, out, simulation.empty_share),
    ) as processes:
        waiting: set[Future[None]] = {
            processes.submit(_play_seed_here, seed, simulation.strategies, simulation.plans[name], out / name)
            for seed in left
        }
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                for finished in done:
                    finished.result()
                on_progress(_trained(out, simulation), simulation.rounds_in_all, f"playing {name}")
        except BaseException:
            for pending in waiting:
                pending.cancel()
            raise


_task_here: LearningTask | None = None
"""The task that this process plays: read once, played with seed after seed."""


def _begin_process(name: str, data: Path, out: Path, empty_share: float) -> None:
    """Read the data, and keep to one thread: the processes share the cores."""
    global _task_here  # noqa: PLW0603  # what a pool's initializer gives its jobs can only be kept here
    os.environ["OMP_NUM_THREADS"] = "1"
    if name == SEGMENTATION:
        import torch

        torch.set_num_threads(1)
    _task_here = load_task(name, data, out, empty_share)


def _play_seed_here(seed: int, strategies: Sequence[str], plan: LearningPlan, folder: Path) -> None:
    """One seed, in a process that has read the data."""
    if _task_here is None:
        raise InputError("The process has no task: start it through simulate_learning.")
    play_seed(_task_here, strategies, seed, plan, folder, should_stop=_is_left_behind)
    full_figure(_task_here, seed, plan, folder)


def _is_left_behind() -> bool:
    """Whether the process that began this one was killed: nobody would see what is played on, or stop it."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _claimed(folder: Path, data: Path, simulation: LearningSimulation, name: str) -> Path:
    """The folder of a task, if it is new or of the same plan: rounds of different plans must not be mixed."""
    plan = {
        "data": str(data.resolve()),
        "plan": asdict(simulation.plans[name]),
        "empty_share": simulation.empty_share,
    }
    path = folder / PLAN_FILE
    if path.is_file():
        if json.loads(path.read_bytes()) != plan:
            raise InputError(
                f"{folder} holds a simulation of another plan or other data: name another folder by --out, or delete "
                "that one."
            )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    return folder


def _rounds_of(folder: Path, seed: int, strategy: str) -> int:
    """Rounds that a strategy has played with a seed, without the warm start."""
    try:
        return len(json.loads((folder / f"seed_{seed}" / strategy / TRIAL_FILE).read_bytes())["rounds"]) - 1
    except FileNotFoundError:
        return 0


def _is_done(folder: Path, seed: int, simulation: LearningSimulation, name: str) -> bool:
    rounds = simulation.plans[name].rounds
    played = all(_rounds_of(folder, seed, strategy) >= rounds for strategy in simulation.strategies)
    return played and (folder / f"seed_{seed}" / "all" / FULL_FILE).is_file()


def _trained(out: Path, simulation: LearningSimulation) -> int:
    """Models that are on disk, of ``rounds_in_all``."""
    count = 0
    for name in simulation.tasks:
        for seed in range(1, simulation.seeds + 1):
            here = out / name / f"seed_{seed}"
            count += sum(_rounds_of(out / name, seed, strategy) for strategy in simulation.strategies)
            count += (here / "warm_start" / TRIAL_FILE).is_file() + (here / "all" / FULL_FILE).is_file()
    return count


def _result(task: LearningTask, folder: Path, simulation: LearningSimulation) -> TaskResult:
    """Read everything that was played."""
    plan = simulation.plans[task.name]
    seeds = range(1, simulation.seeds + 1)
    trials = [trial for seed in seeds for trial in play_seed(task, simulation.strategies, seed, plan, folder)]
    full = float(np.mean([full_figure(task, seed, plan, folder) for seed in seeds]))
    curves = {
        name: {trial.seed: trial.curve for trial in trials if trial.strategy == name} for name in simulation.strategies
    }
    return TaskResult(
        task=task.name,
        measure=task.measure,
        plan=plan,
        full_figure=full,
        judged_nodules=task.judged_nodules,
        trials=tuple(trials),
        figures=compare_strategies(curves, full),
        pool=task.pool,
        places=_places(task),
    )


def _places(task: LearningTask) -> dict[str, tuple[float, float]]:
    """The pool on the plane of the two main axes of its embeddings."""
    names = [name for name, case in task.pool.items() if case.nodule_ids]
    rows = np.stack([task.embedding(name) for name in names]).astype(np.float64)
    moved = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(moved, full_matrices=False)
    plane = moved @ axes[:2].T
    return {name: (float(x), float(y)) for name, (x, y) in zip(names, plane, strict=True)}
