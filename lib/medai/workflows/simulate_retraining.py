"""``medai simulate retrain``: shows on real nodules that retraining never makes a model worse, and what the gate does.

Per seed: a weak network is trained, then rounds of annotation and retraining are played twice, with the gate on and
with it off, on the same cases and the same labels (``simulated_stream``), each in a study of its own
(``simulated_session``). Every version is scored on patients who are in no study.

What was chosen, and why:

- *Network.* The starter's kind at half its width and one level less (80 thousand weights instead of some two million),
  on patches of 24³ voxels: the simulation is about what is published, not about how good a network can be, and a
  training then takes a minute. It is retrained with larger steps than the packaged one (``RETRAINING_RATE``): with the
  same 5e-4, seventeen true outlines gained 0.005 ± 0.011, with 1.5e-3 they gained 0.023.
- *Start.* 240 batches on sixteen patients and the replay's phantoms; with sixty on six it was so weak (Dice 0.50) that
  no label could spoil it. The packaged starter has seen these patients, and from a network that outlines as well as a
  reader there is no way up to be shown.
- *Replay* shows these same sixteen patients and phantoms, so that what is gained comes from annotators' labels.
- *Patients.* 240 to score on, the same for all seeds; 40 for the old cases of the gate; ten new ones a round.
- *Epochs.* 16, somewhat fewer than the server's 20: time.
- *Margin.* 0.02 Dice: what the promotion rules let a subgroup lose (``PromotionRules.subgroup_margin``).

Arms run in processes of their own; ``<out>`` keeps every round, so that a simulation that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from medai.errors import InputError, StorageError
from medai.evaluation.promotion import PromotionRules
from medai.store.atomic import plain_json, write_json
from medai.workflows.families import CLICK_TASK
from medai.workflows.simulated_patients import (
    PatientCounts,
    SimulatedPatients,
    cases_of_rounds,
    load_nodules,
    read_patients,
    simulation_environment,
    write_outside,
)
from medai.workflows.simulated_session import SessionCases, SessionConfig, play_session, read_progress, read_rounds
from medai.workflows.simulation_report import SimulationReport, summarise
from medai.workflows.simulation_results import ArmResult
from medai.workflows.small_click_network import SMALL_NETWORK, SMALL_PATCHES, random_network

WEAK_NETWORK = SMALL_NETWORK
START_EPOCHS, START_ITERATIONS = 8, 30
START_RATE, RETRAINING_RATE = 4e-3, 1.5e-3
"""A network with so few weights takes larger steps than the packaged one."""
GATE_FOLDERS = {True: "gate-on", False: "gate-off"}
CONFIG_FILE = "config.json"
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """A simulation.

    Attributes:
        rounds: of labels and retraining.
        seeds: how many.
        first_seed: the first of them; others than those a rule was made on say more of it.
        cases_per_round: new patients a round.
        epochs: of each training.
        margin: Dice that no promotion may lose on the figure patients.
        counts: patients of each part.
        device: "auto", "cpu" or "cuda".
    """

    rounds: int = 10
    seeds: int = 3
    first_seed: int = 1
    cases_per_round: int = 10
    epochs: int = 16
    margin: float = PromotionRules().subgroup_margin
    counts: PatientCounts = field(default_factory=PatientCounts)
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("rounds", "seeds", "first_seed", "cases_per_round", "epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"A simulation with {name} {getattr(self, name)} shows nothing: ask for 1 or more.")
        if not 0 < self.margin < 1:
            raise InputError(f"A margin of {self.margin} Dice is out of range: give one above 0 and below 1.")

    @property
    def seed_numbers(self) -> range:
        """The seeds that are played."""
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationProgress:
    """How far a simulation is.

    Attributes:
        done: rounds that ended, and parts of those that run.
        total: rounds of all arms.
        words: what happens now.
    """

    done: float
    total: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a process is told: the start of a seed, or one arm of it."""

    data: Path
    out: Path
    config: SimulationConfig
    seed: int
    gate_is_on: bool = True
    threads: int = 1
    parent: int = 0


def simulate_retraining(
    data: Path,
    out: Path,
    config: SimulationConfig,
    *,
    jobs: int = 1,
    on_progress: Callable[[SimulationProgress], None] = lambda _progress: None,
) -> SimulationReport:
    """Play all arms that have not been played yet, and say what they show.

    Args:
        data: folder with ``images/``, ``masks/``, ``nodules.csv``, or one that holds it as ``lidc_nodules``.
        out: takes studies, networks and results; a simulation with the same settings goes on there.
        config: rounds, seeds, cases.
        jobs: processes; 1 plays all in this one.
        on_progress: told twice a second.

    Raises:
        InputError: the data do not suffice, or ``out`` holds a simulation with other settings.
        StorageError: a process was killed, or the disk refused.
    """
    patients = read_patients(data, config.counts)
    cases_of_rounds(patients.pool, rounds=config.rounds, cases_per_round=config.cases_per_round, seed=1)
    _claim(out, config, patients)
    write_outside(patients, out)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    job = _Job(data=data.resolve(), out=out.resolve(), config=config, seed=1, threads=threads, parent=os.getpid())
    starts = [replace(job, seed=seed) for seed in config.seed_numbers]
    arms = [replace(each, gate_is_on=gate) for each in starts for gate in GATE_FOLDERS]
    tell = partial(_tell, on_progress, arms)
    # Phantoms and the first network before the others: what they share is then made once.
    for group in (starts[:1], starts[1:]):
        _run_all(make_start, group, jobs, tell)
    _run_all(play_arm, arms, jobs, tell)
    return summarise(
        [ArmResult.of(arm.seed, arm.gate_is_on, read_rounds(_arm_folder(arm))) for arm in arms], config.margin
    )


def make_start(job: _Job) -> None:
    """Train the weak network of a seed, once."""
    target = _starter_folder(job) / CLICK_TASK
    if (target / "card.json").is_file():
        return
    with _process_of(job) as should_stop:
        from medai.training.click_trainer import (
            FINE_TUNING_RATE,
            ClickTrainingConfig,
            train_click_network,
        )
        from medai.workflows.click_challenger import choosing_dataset
        from medai.workflows.click_replay import starter_recipe

        training = ClickTrainingConfig(
            epochs=START_EPOCHS,
            iterations_per_epoch=START_ITERATIONS,
            learning_rate=START_RATE,
            warmup_iterations=START_ITERATIONS,
            keep="last",
            seed=job.seed,
            device=job.config.device,
            sampling=SMALL_PATCHES,
        )
        work = target.with_name("work")
        start = random_network(
            work / "random.safetensors",
            WEAK_NETWORK,
            SMALL_PATCHES,
            seed=job.seed,
            described={FINE_TUNING_RATE: RETRAINING_RATE},
        )
        trained = train_click_network(
            choosing_dataset(starter_recipe(job.out, should_stop)),
            training,
            start_from=start,
            output_folder=work,
            should_stop=should_stop,
        )
        target.mkdir(parents=True, exist_ok=True)
        trained.checkpoint_path.replace(target / "weights.safetensors")
        # Last: what has a card is complete.
        write_json(target / "card.json", {"task": CLICK_TASK, "simulation": True, "seed": job.seed})


def play_arm(job: _Job) -> None:
    """Play one arm."""
    config = job.config
    with _process_of(job) as should_stop:
        patients = read_patients(job.data, config.counts)
        rounds = cases_of_rounds(
            patients.pool, rounds=config.rounds, cases_per_round=config.cases_per_round, seed=job.seed
        )
        play_session(
            _arm_folder(job),
            SessionCases(
                rounds=[partial(load_nodules, nodules) for nodules in rounds], figure=load_nodules(patients.figure)
            ),
            SessionConfig(
                seed=job.seed,
                gate_is_on=job.gate_is_on,
                epochs=config.epochs,
                starter_folder=_starter_folder(job),
                device=config.device,
            ),
            should_stop=should_stop,
        )


def _run_all(task: Callable[[_Job], None], jobs_to_do: list[_Job], jobs: int, tell: Callable[[], None]) -> None:
    """Run tasks, several at once; the first error stops the others."""
    if jobs == 1 or len(jobs_to_do) == 1:
        for job in jobs_to_do:
            tell()
            task(replace(job, parent=0))
        tell()
        return
    # Spawned: a forked process would share locks of torch's threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        _watch(pool, [pool.submit(task, job) for job in jobs_to_do], tell)


def _watch(pool: Executor, futures: list[Future[None]], tell: Callable[[], None]) -> None:
    open_futures = set(futures)
    try:
        while open_futures:
            done, open_futures = wait(open_futures, timeout=_POLL_S)
            for future in done:
                future.result()
            tell()
    except BrokenProcessPool as error:
        raise StorageError(
            "A process of the simulation was killed (out of memory?). Run the same command again: it goes on from the "
            "last round that ended; --jobs 1 needs least memory."
        ) from error
    finally:
        pool.shutdown(wait=not open_futures, cancel_futures=True)


def _tell(on_progress: Callable[[SimulationProgress], None], arms: list[_Job]) -> None:
    done, words = 0.0, []
    for arm in arms:
        rounds, now = read_progress(_arm_folder(arm))
        done += min(rounds, arm.config.rounds)
        if now and rounds < arm.config.rounds and rounds % 1:
            words.append(f"seed {arm.seed}, {GATE_FOLDERS[arm.gate_is_on].replace('-', ' ')}: {now}")
    total = len(arms) * arms[0].config.rounds
    on_progress(SimulationProgress(done=done, total=total, words=words[0] if words else "preparing"))


@contextmanager
def _process_of(job: _Job) -> Iterator[Callable[[], bool]]:
    """The environment of the simulation; gives what says that the one who started this process is gone."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with simulation_environment(job.out):
            yield lambda: job.parent not in (0, os.getppid())
    finally:
        torch.set_num_threads(threads)


def _claim(out: Path, config: SimulationConfig, patients: SimulatedPatients) -> None:
    """Take a folder for a simulation, or find that it is this one's already; more rounds and seeds may follow."""
    parts = {
        name: sorted(n.case_id for n in getattr(patients, name)) for name in ("figure", "start", "regression", "pool")
    }
    settings = plain_json(asdict(config))
    for name in ("rounds", "seeds", "first_seed", "margin"):
        settings.pop(name)
    settings["nodules_sha256"] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    path = out / CONFIG_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise InputError(
                f"'{out}' holds something else: name an empty folder, or one that does not exist."
            ) from None
        write_json(path, settings)
        return
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} is damaged ({error}): remove {out}, or name another folder.") from error
    changed = sorted(name for name in settings if found.get(name) != settings[name])
    if changed:
        raise InputError(
            f"'{out}' holds a simulation with other settings ({', '.join(changed)}): name another folder, or remove it."
        )


def _starter_folder(job: _Job) -> Path:
    return job.out / f"seed-{job.seed}" / "start"


def _arm_folder(job: _Job) -> Path:
    return job.out / f"seed-{job.seed}" / GATE_FOLDERS[job.gate_is_on]
