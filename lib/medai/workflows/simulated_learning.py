"""Replays annotation on labelled data: a strategy picks cases, their labels train a model, the model picks on.

``medai simulate active-learning`` plays it. A trial is one strategy with one seed:

1. A few patients are labelled to begin with: drawn at random, the same for every strategy of a seed.
2. A model is trained on what is labelled, and judged on patients that are never in the pool.
3. The model scores the pool, the strategy picks the next patients, their labels are revealed; again from 2.

Each finished round is on disk, so that a trial that was killed goes on where it was. What is trained and judged is a
``LearningTask`` (``learning_segmentation``, ``learning_classification``).

A model goes on from the one of the round before, as a champion does in use; so does the model that learns from the
whole pool, by as many rounds. Otherwise a curve would rise with the training it gets, not with its labels.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medai.active_learning.strategies import STRATEGIES, Pool
from medai.domain.case_score import CaseScore
from medai.domain.score_table import ScoreTable
from medai.errors import CancelledByUserError, InputError
from medai.evaluation.learning_curves import LearningCurve
from medai.volume_io.atomic import atomic_path

EMPTY_MINUTES = 1.0
"""What it takes to see that a scan has no nodule."""
WARM = "warm_start"
TRIAL_FILE, FULL_FILE, TRAINED_FILE = "trial.json", "full.json", "trained.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCase:
    """One patient of the pool: what an annotator outlines and rates at a time.

    Attributes:
        case_id: the patient.
        nodule_ids: its nodules; empty where there is nothing to outline.
        millilitres: volume of its nodules.
        diameters_mm: of each nodule.
        kinds: of each nodule, as rated; "" where unknown.
    """

    case_id: str
    nodule_ids: tuple[str, ...]
    millilitres: float
    diameters_mm: tuple[float, ...]
    kinds: tuple[str, ...]


class LearningTask(Protocol):
    """What is learned, and by what figure it is judged. A model is a folder."""

    @property
    def name(self) -> str:
        """``segmentation`` or ``classification``."""
        ...

    @property
    def measure(self) -> str:
        """What the figure is, such as "Dice"."""
        ...

    @property
    def pool(self) -> Mapping[str, PoolCase]:
        """The patients that may be labelled."""
        ...

    @property
    def judged_nodules(self) -> int:
        """Nodules that the figure is taken on."""
        ...

    def train(self, labelled: Sequence[str], *, before: Path | None, folder: Path, seed: int) -> None:
        """Train on the nodules of some patients.

        Args:
            labelled: patients, in the order in which they were labelled.
            before: the model to go on from; None trains from scratch.
            folder: takes the model.
            seed: of everything random.
        """
        ...

    def judge(self, model: Path) -> float:
        """The figure of a model on the held-back patients; larger is better."""
        ...

    def score(self, model: Path, before: Path | None, cases: Sequence[str]) -> list[CaseScore]:
        """What a model, and the one before it, make of patients whose labels are not known yet."""
        ...

    def embedding(self, case_id: str) -> NDArray[np.float32]:
        """Where a patient with nodules lies among the others, by what is known in the end; for pictures."""
        ...


class WithEmptyPatients:
    """A task whose pool also has patients without a nodule, as a screening study has.

    A label of theirs teaches these tasks nothing, and costs a case. Which they are no strategy is told: it sees a case
    without candidates.

    Args:
        task: what is learned.
        share: of the pool, 0 or more and below 1.
    """

    def __init__(self, task: LearningTask, share: float) -> None:
        if not 0.0 <= share < 1.0:
            raise InputError(f"The share of patients without a nodule is {share}; it must be 0 or more and below 1.")
        self._task = task
        self.name, self.measure = task.name, task.measure
        self.judged_nodules = task.judged_nodules
        count = round(len(task.pool) * share / (1.0 - share))
        empty = [f"no-nodule-{number:04d}" for number in range(count)]
        self.pool: Mapping[str, PoolCase] = dict(task.pool) | {
            name: PoolCase(case_id=name, nodule_ids=(), millilitres=0.0, diameters_mm=(), kinds=()) for name in empty
        }

    def train(self, labelled: Sequence[str], *, before: Path | None, folder: Path, seed: int) -> None:
        """Train on those who have nodules."""
        self._task.train(self._with_nodules(labelled), before=before, folder=folder, seed=seed)

    def judge(self, model: Path) -> float:
        """The task's own figure."""
        return self._task.judge(model)

    def score(self, model: Path, before: Path | None, cases: Sequence[str]) -> list[CaseScore]:
        """The others have no candidate."""
        empty = [
            CaseScore(case_id=name, model_versions={}, scored_at_s=0.0, expected_minutes=EMPTY_MINUTES)
            for name in cases
            if not self.pool[name].nodule_ids
        ]
        return [*self._task.score(model, before, self._with_nodules(cases)), *empty]

    def embedding(self, case_id: str) -> NDArray[np.float32]:
        """The task's own."""
        return self._task.embedding(case_id)

    def _with_nodules(self, cases: Sequence[str]) -> list[str]:
        return [name for name in cases if self.pool[name].nodule_ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPlan:
    """How much is labelled, and when.

    Attributes:
        rounds: queries after the warm start.
        budget: patients labelled in each.
        warm_start: patients labelled to begin with.
        most_scored: patients of the pool that the model looks at in a round, drawn at random; 0: all.
    """

    rounds: int = 8
    budget: int = 8
    warm_start: int = 8
    most_scored: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "budget", "warm_start"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.most_scored and self.most_scored < self.budget:
            raise InputError(f"{self.most_scored} patients are looked at, but {self.budget} are to be picked of them.")

    @property
    def labelled_at_end(self) -> int:
        """Patients labelled after the last round."""
        return self.warm_start + self.rounds * self.budget


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRound:
    """One model of a trial.

    Attributes:
        number: 0 for the warm start's.
        picked: patients whose labels came in for it.
        cases: patients labelled by then.
        millilitres: volume outlined by then.
        figure: what the model reached.
        seconds: scoring, training and judging.
    """

    number: int
    picked: tuple[str, ...]
    cases: int
    millilitres: float
    figure: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One strategy with one seed.

    Attributes:
        task: name of the ``LearningTask``.
        strategy: name of a strategy.
        seed: draws the warm start and everything the strategy leaves to chance.
        rounds: what has been played, in order.
    """

    task: str
    strategy: str
    seed: int
    rounds: tuple[LearningRound, ...] = ()

    @property
    def curve(self) -> LearningCurve:
        """The trial as a learning curve."""
        return LearningCurve(
            cases=tuple(float(each.cases) for each in self.rounds),
            millilitres=tuple(each.millilitres for each in self.rounds),
            figures=tuple(each.figure for each in self.rounds),
        )

    @property
    def labelled(self) -> list[str]:
        """Patients labelled so far, in order."""
        return [case_id for each in self.rounds for case_id in each.picked]


OnRound = Callable[[Trial], None]
Stop = Callable[[], bool]


def check_strategies(names: Sequence[str]) -> None:
    """Refuse names that are no strategies.

    Raises:
        InputError: with those there are.
    """
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise InputError(f"There is no strategy '{', '.join(unknown)}': choose from {', '.join(STRATEGIES)}.")
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"Name each strategy once, of {', '.join(STRATEGIES)}; these are {', '.join(names) or 'none'}."
        )


def check_plan(task: LearningTask, plan: LearningPlan) -> None:
    """Refuse a plan that labels more patients than there are.

    Raises:
        InputError: with both numbers.
    """
    if plan.labelled_at_end > len(task.pool):
        raise InputError(
            f"The plan labels {plan.labelled_at_end} patients, the pool of {task.name} has {len(task.pool)}: take "
            "fewer rounds or a smaller budget."
        )


def play_seed(
    task: LearningTask,
    strategies: Sequence[str],
    seed: int,
    plan: LearningPlan,
    folder: Path,
    *,
    on_round: OnRound = lambda trial: None,
    should_stop: Stop = lambda: False,
) -> list[Trial]:
    """Play several strategies with one seed, from where a former run of the same plan left off.

    Args:
        task: what is learned.
        strategies: names of ``STRATEGIES``.
        seed: draws the warm start, which all share, and what strategies leave to chance.
        plan: how much is labelled, and when.
        folder: takes rounds and models; one folder a task and plan.
        on_round: told after each round, of former runs' trials too.
        should_stop: asked before each round.

    Raises:
        InputError: no such strategy, or the plan does not fit the pool.
        CancelledByUserError: ``should_stop`` said so.
    """
    check_strategies(strategies)
    check_plan(task, plan)
    here = folder / f"seed_{seed}"
    warm = _warm_round(task, seed, plan, here)
    trials = []
    for strategy in strategies:
        trial = _restored(here / strategy, task.name, strategy, seed) or Trial(
            task=task.name, strategy=strategy, seed=seed, rounds=(warm,)
        )
        on_round(trial)
        while len(trial.rounds) <= plan.rounds:
            if should_stop():
                raise CancelledByUserError("The simulation was stopped; the same command goes on with it.")
            trial = _next_round(task, trial, plan, here)
            _write(here / strategy / TRIAL_FILE, _as_json(trial))
            _forget_models(here / strategy, trial)
            on_round(trial)
        trials.append(trial)
    return trials


def full_figure(task: LearningTask, seed: int, plan: LearningPlan, folder: Path) -> float:
    """What a model reaches that learned from every patient of the pool, by as many rounds; kept once it is known."""
    here = folder / f"seed_{seed}" / "all"
    known = _read(here / FULL_FILE)
    if known is not None:
        return float(known["figure"])
    before: Path | None = None
    for number in range(plan.rounds + 1):
        model = here / f"round_{number}"
        if not (model / TRAINED_FILE).is_file():
            task.train(sorted(task.pool), before=before, folder=_emptied(model), seed=_seed_of(seed, number))
            _write(model / TRAINED_FILE, {})
        before = model
    figure = task.judge(here / f"round_{plan.rounds}")
    _write(here / FULL_FILE, {"figure": figure, "patients": len(task.pool)})
    return figure


def _warm_round(task: LearningTask, seed: int, plan: LearningPlan, here: Path) -> LearningRound:
    """The first model, the same for every strategy of a seed."""
    known = _read(here / WARM / TRIAL_FILE)
    if known is not None:
        return _round_of(known)
    started_s = time.monotonic()
    # A model needs something to begin with, so that nobody begins with a patient who has no nodule.
    names = sorted(name for name, case in task.pool.items() if case.nodule_ids)
    drawn = np.random.default_rng([seed, 0]).choice(names, min(plan.warm_start, len(names)), replace=False)
    picked = tuple(str(name) for name in drawn)
    task.train(picked, before=None, folder=_emptied(here / WARM), seed=_seed_of(seed, 0))
    played = _round(task, 0, picked, picked, task.judge(here / WARM), started_s)
    _write(here / WARM / TRIAL_FILE, asdict(played))
    return played


def _next_round(task: LearningTask, trial: Trial, plan: LearningPlan, here: Path) -> Trial:
    """Score, pick, reveal, train, judge."""
    started_s = time.monotonic()
    number = len(trial.rounds)
    picked = _picked(task, trial, plan, here)
    labelled = [*trial.labelled, *picked]
    model = _model(here, trial.strategy, number)
    task.train(
        labelled,
        before=_model(here, trial.strategy, number - 1),
        folder=_emptied(model),
        seed=_seed_of(trial.seed, number),
    )
    played = _round(task, number, picked, labelled, task.judge(model), started_s)
    return replace(trial, rounds=(*trial.rounds, played))


def _picked(task: LearningTask, trial: Trial, plan: LearningPlan, here: Path) -> list[str]:
    """What the strategy wants labelled next."""
    strategy, labelled, number = STRATEGIES[trial.strategy], trial.labelled, len(trial.rounds)
    rng = np.random.default_rng([trial.seed, number])
    left = sorted(task.pool.keys() - set(labelled))
    if plan.most_scored and len(left) > plan.most_scored:
        left = sorted(str(name) for name in rng.choice(left, plan.most_scored, replace=False))
    scores = ScoreTable()
    if strategy.needs_scores:
        before = _model(here, trial.strategy, number - 2) if number > 1 else None
        scores = ScoreTable.of(task.score(_model(here, trial.strategy, number - 1), before, [*left, *labelled]))
    pool = Pool(case_ids=tuple(left), scores=scores, labelled=tuple(labelled))
    return strategy.select_batch(pool, plan.budget, rng)


def _model(here: Path, strategy: str, number: int) -> Path:
    """Where a round's model lies."""
    return here / strategy / f"round_{number}" if number else here / WARM


def _round(
    task: LearningTask, number: int, picked: Sequence[str], labelled: Sequence[str], figure: float, started_s: float
) -> LearningRound:
    return LearningRound(
        number=number,
        picked=tuple(picked),
        cases=len(labelled),
        millilitres=sum(task.pool[case_id].millilitres for case_id in labelled),
        figure=figure,
        seconds=time.monotonic() - started_s,
    )


def _forget_models(folder: Path, trial: Trial) -> None:
    """The next round needs the last two models at most; a few hundred trials would fill the disk with the others."""
    for number in range(1, len(trial.rounds) - 2):
        shutil.rmtree(folder / f"round_{number}", ignore_errors=True)


def _emptied(folder: Path) -> Path:
    """A folder without what a killed round left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _seed_of(seed: int, number: int) -> int:
    """Of a round's training: the same for all strategies, so that they differ by their labels alone."""
    return seed * 1000 + number


def _restored(folder: Path, task: str, strategy: str, seed: int) -> Trial | None:
    """The trial as far as a former run played it."""
    known = _read(folder / TRIAL_FILE)
    if known is None:
        return None
    return Trial(task=task, strategy=strategy, seed=seed, rounds=tuple(_round_of(each) for each in known["rounds"]))


def _round_of(record: Mapping[str, Any]) -> LearningRound:
    return LearningRound(**{**record, "picked": tuple(record["picked"])})


def _as_json(trial: Trial) -> dict[str, Any]:
    return {"rounds": [asdict(each) for each in trial.rounds]}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete the folder {path.parent} and run again.") from error
    return found


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
