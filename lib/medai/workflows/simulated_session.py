"""One arm of a retraining simulation: rounds of labels and trainings in a study of its own, with the gate on or off.

A round adds its cases to the study, shows each reader the champion's answer to a click, submits what the reader draws
(history, sanity checks and quarantine included, by the code that the server uses), retrains, and scores the champion on
the figure patients. The challenger is scored there too, whether it was published or not: what the gate has kept away is
part of the result.

On disk, ``<out>/seed-1/gate-on/``: ``study-03`` as the third round left it, ``round-03.json`` its result, written last,
and ``progress.json``. A round works on a copy of the study, so that a simulation that is killed goes on from the last
round that ended; a folder's lock is the operating system's and dies with its process.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from medai.domain import Volume
from medai.domain.annotation import Annotation
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, ConflictError, InputError
from medai.evaluation.dice import dice
from medai.evaluation.promotion import Verdict
from medai.evaluation.simulated_clicks import ClickPlace
from medai.inference.click import ClickSegmenter
from medai.inference.evaluate_click import case_generator, outline_by_clicks
from medai.networks.engine import load_engine
from medai.registry.model_registry import ModelRegistry
from medai.store.annotations import AnnotationLog, Submission
from medai.store.atomic import plain_json, write_json
from medai.store.layout import models_folder
from medai.store.proposals import ProposalPart, ProposalStore
from medai.store.split import FrozenSplit, patient_key_of_case
from medai.store.study import FINAL, StudyStore
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import encode_label_map_nrrd, write_label_map, write_volume
from medai.workflows.annotation_history import recorded_annotations
from medai.workflows.annotation_measures import AnnotationMeasurer, label_volume_ml
from medai.workflows.annotators import compare_annotators, open_annotations
from medai.workflows.click_challenger import CLICK_FAMILY, click_family, score_click_network
from medai.workflows.click_keepers import Keeper
from medai.workflows.families import CLICK_TASK, Family, Lesson, RetrainConfig
from medai.workflows.retrain import RetrainProgress, RetrainReport, retrain
from medai.workflows.simulated_patients import mask_label_map
from medai.workflows.simulated_stream import READERS, PlannedLabel, drawn_label, plan_round

PROGRESS_FILE = "progress.json"
FIRST_ROUND = 0
"""The study before anybody has labelled anything: what the weak network scores."""
_PROPOSAL_SEED = 20260301
_CHALLENGER = "challenger.safetensors"
_STAGE_DONE = {"collect": 0.1, "judge champion": 0.12, "train": 0.2, "judge challenger": 0.8, "publish": 0.88}
"""Part of a round that is done when a stage of the training begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """One arm.

    Attributes:
        seed: of cases, readers, labels and trainings.
        gate_is_on: False publishes every challenger, and all of each training: what old nodules say of it is not asked.
        epochs: of each training.
        starter_folder: holds the weak network as a registry's starter.
        device: "auto", "cpu" or "cuda".
    """

    seed: int
    gate_is_on: bool
    epochs: int
    starter_folder: Path
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionCases:
    """What an arm is played with.

    Attributes:
        rounds: the cases of each round with their truth.
        figure: nodules that are scored on and never in the study.
    """

    rounds: Sequence[Callable[[], list[ClickCase]]]
    figure: Sequence[ClickCase]


def play_session(
    folder: Path, cases: SessionCases, config: SessionConfig, *, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """Play all rounds that have no result yet.

    Args:
        folder: of the arm; takes studies and results.
        cases: what it is played with.
        config: seed, gate, trainings.
        should_stop: asked now and then.

    Raises:
        ConflictError: another process plays this arm.
        CancelledByUserError: ``should_stop`` said so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            session = _Session(folder, cases, config, should_stop)
            for number in range(len(read_rounds(folder)), len(cases.rounds) + 1):
                session.play(number)
    except Timeout as error:
        raise ConflictError(f"Another process simulates in {folder}: wait for it, or name another folder.") from error


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The results of an arm, round 0 first, up to the first that is missing."""
    found: list[dict[str, Any]] = []
    while (path := _result_path(folder, len(found))).is_file():
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def read_progress(folder: Path) -> tuple[float, str]:
    """Rounds done, parts of one included, and what happens now in words."""
    done = 0
    while _result_path(folder, done + 1).is_file():
        done += 1
    try:
        told = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        part = float(told["part"]) if int(told["round"]) == done + 1 else 0.0
        return done + part, str(told["words"])
    except (OSError, ValueError, KeyError, TypeError):
        return float(done), ""


def as_judged(verdict: Verdict) -> Verdict:
    """The gate that is on: what was judged is done."""
    return verdict


def publish_everything(verdict: Verdict) -> Verdict:
    """The gate that is off: a challenger replaces the champion whatever was found."""
    return verdict if verdict.publish else replace(verdict, publish=True, reason=f"Gate off. {verdict.reason}")


class PlainScans:
    """Decodes a scan each time it is asked for: the crops are small."""

    def get(self, path: Path, case_id: str = "") -> Volume:
        """The scan."""
        scan = read_volume(path)
        return Volume(geometry=scan.geometry, image_hu=scan.image_hu, case_id=case_id)

    def find_open(self, path: Path, case_id: str = "") -> Volume | None:
        """The scan; there is nothing to wait for."""
        return self.get(path, case_id)


class _Session:
    """An arm while it is played."""

    def __init__(
        self, folder: Path, cases: SessionCases, config: SessionConfig, should_stop: Callable[[], bool]
    ) -> None:
        self._folder = folder
        self._cases = cases
        self._config = config
        self._should_stop = should_stop

    def play(self, number: int) -> None:
        """Play one round on a copy of the study, and write its result."""
        started_s = time.monotonic()
        study_folder = self._copy_of_study(number)
        with tempfile.TemporaryDirectory(prefix="medai-round-") as scratch:
            if number == FIRST_ROUND:
                result = self._first_result(study_folder)
            else:
                result = self._round_result(study_folder, number, Path(scratch))
        result |= {"round": number, "seconds": time.monotonic() - started_s}
        write_json(_result_path(self._folder, number), plain_json(result))
        for path in self._folder.glob("study-*"):
            if path != study_folder:
                shutil.rmtree(path)

    def _copy_of_study(self, number: int) -> Path:
        for path in self._folder.glob("study-*"):
            if path != self._study_path(number - 1):
                shutil.rmtree(path)
        target = self._study_path(number)
        if number == FIRST_ROUND:
            target.mkdir()
        else:
            shutil.copytree(self._study_path(number - 1), target)
        return target

    def _first_result(self, study_folder: Path) -> dict[str, Any]:
        self._tell(FIRST_ROUND, 0.0, "scoring the network it begins with")
        champion = self._registry(study_folder).champion(CLICK_TASK)
        return {"champion": champion.version_id, "figure": self._figure(champion.weights_path), "published": False}

    def _round_result(self, study_folder: Path, number: int, scratch: Path) -> dict[str, Any]:
        self._tell(number, 0.0, "labelling")
        study, registry = StudyStore(study_folder), self._registry(study_folder)
        before = registry.champion(CLICK_TASK)
        cases = self._cases.rounds[number - 1]()
        planned = plan_round(
            [case.case_id for case in cases], number, np.random.default_rng([self._config.seed, number])
        )
        segmenter = ClickSegmenter(load_engine(before.weights_path, device=self._config.device))
        submit_labels(study, cases, planned, segmenter, before.version_id, seed=self._config.seed, scratch=scratch)
        report, problem = self._trained(study, registry, number, scratch)
        self._tell(number, 0.9, "scoring on the figure patients")
        former = read_rounds(self._folder)[number - 1]["figure"]
        challenger = self._figure(scratch / _CHALLENGER) if report is not None else None
        is_published = report is not None and report.published
        return {
            "champion": registry.champion(CLICK_TASK).version_id,
            "published": is_published,
            "reason": report.reason if report is not None else problem,
            "held_back_examples": report.held_back_examples if report is not None else 0,
            "train_examples": report.train_examples if report is not None else 0,
            "held_back_change": None if report is None else report.challenger_score - report.champion_score,
            "skipped": {} if report is None else dict(report.skipped),
            "figure": challenger if is_published else former,
            "challenger": challenger,
            "labels": label_rows(study_folder, planned, cases, self._config.seed),
            "annotators": compare_annotators(open_annotations(study_folder)).to_json(),
        }

    def _trained(
        self, study: StudyStore, registry: ModelRegistry, number: int, scratch: Path
    ) -> tuple[RetrainReport | None, str]:
        def tell(progress: RetrainProgress) -> None:
            part = _STAGE_DONE.get(progress.stage, 0.9)
            if progress.stage == "train":
                part += 0.6 * progress.epoch / max(1, progress.total_epochs)
            self._tell(number, part, progress.describe().lower())

        seed = 1000 * self._config.seed + number
        try:
            report = retrain(
                study,
                registry,
                RetrainConfig(epochs=self._config.epochs, device=self._config.device, seed=seed),
                on_progress=tell,
                should_stop=self._should_stop,
                family=_keeping_challengers(
                    CLICK_FAMILY if self._config.gate_is_on else click_family(keepers=_nobody), scratch / _CHALLENGER
                ),
                annotation_of=recorded_annotations(study.folder),
                gate=as_judged if self._config.gate_is_on else publish_everything,
            )
        except InputError as error:
            # Too few labels that may be used: the next round brings more.
            return None, str(error)
        return report, ""

    def _figure(self, weights_path: Path) -> dict[str, float]:
        return score_click_network(weights_path, self._cases.figure, device=self._config.device)

    def _registry(self, study_folder: Path) -> ModelRegistry:
        return ModelRegistry(models_folder(study_folder), starter_folder=self._config.starter_folder)

    def _study_path(self, number: int) -> Path:
        return self._folder / f"study-{number:02}"

    def _tell(self, number: int, part: float, words: str) -> None:
        if self._should_stop():
            raise CancelledByUserError(f"The simulation was stopped in round {number}: run it again, it goes on there.")
        write_json(self._folder / PROGRESS_FILE, {"round": number, "part": part, "words": words})


def submit_labels(
    study: StudyStore,
    cases: Iterable[ClickCase],
    planned: Sequence[PlannedLabel],
    segmenter: ClickSegmenter,
    version_id: str,
    *,
    seed: int,
    scratch: Path,
) -> None:
    """Put cases into a study and submit what their readers draw, as the server does it.

    Args:
        study: the study.
        cases: with their truth.
        planned: who labels which of them, in this order.
        segmenter: the champion, which proposes an outline for a click near the nodule's middle.
        version_id: the champion's.
        seed: of the labels.
        scratch: for files on their way into the study.
    """
    log, proposals = AnnotationLog(study.folder), ProposalStore(study.folder)
    measurer = AnnotationMeasurer(log, study, PlainScans())
    by_id = {case.case_id: case for case in cases}
    proposed: dict[str, bytes] = {}
    try:
        for case in by_id.values():
            write_volume(case.volume, scratch / f"{case.case_id}.nii.gz")
            study.add_image(scratch / f"{case.case_id}.nii.gz")
            rng = case_generator(_PROPOSAL_SEED, case.case_id)
            trial = outline_by_clicks(segmenter, case, place=ClickPlace.CENTRE, clicks=1, rng=rng)
            proposed[case.case_id] = encode_label_map_nrrd(mask_label_map(case, trial.mask))
        for label in planned:
            part = ProposalPart(
                model=CLICK_TASK,
                version=version_id,
                payload=proposed[label.case_id],
                extension=".seg.nrrd",
                label_names={"nodule": 1},
            )
            proposals.remember(label.case_id, label.reader, part)
            _submit(study, log, measurer, proposals, by_id[label.case_id], label.reader, seed=seed, scratch=scratch)
    finally:
        log.close()


def label_rows(
    study_folder: Path, planned: Sequence[PlannedLabel], cases: Iterable[ClickCase], seed: int
) -> list[dict[str, Any]]:
    """What became of every label so far: whose it is, its patient's side, quarantine; of this round's, how good it is.

    Args:
        study_folder: the study after the round's training.
        planned: the round's labels.
        cases: the round's cases with their truth.
        seed: of the labels.
    """
    by_id = {case.case_id: case for case in cases}
    quality = {
        (label.case_id, label.reader): dice(
            drawn_label(by_id[label.case_id], label.reader, seed), by_id[label.case_id].mask
        )
        for label in planned
    }
    log = AnnotationLog(study_folder)
    try:
        found = log.all()
    finally:
        log.close()
    sides = _sides(study_folder, found)
    return [
        {
            "case": each.case_id,
            "reader": each.annotator,
            "kind": str(READERS[each.annotator]),
            "side": sides.get(each.case_id, ""),
            "quarantine": each.quarantine_reason,
            "is_current": each.is_current,
            "trains": each.trains,
            "dice_to_truth": quality.get((each.case_id, each.annotator)),
            "dice_to_proposal": each.correction.dice if each.correction else None,
        }
        for each in found
    ]


def _submit(
    study: StudyStore,
    log: AnnotationLog,
    measurer: AnnotationMeasurer,
    proposals: ProposalStore,
    case: ClickCase,
    reader: str,
    *,
    seed: int,
    scratch: Path,
) -> None:
    label_map = mask_label_map(case, drawn_label(case, reader, seed))
    path = scratch / "label.nii.gz"
    write_label_map(label_map, path)
    proposal = proposals.find(case.case_id, reader)
    info = {"label_info": [{"name": "nodule", "idx": 1}], "client_id": reader}
    submission = Submission(
        case_id=case.case_id,
        tag=FINAL,
        annotator=reader,
        nodules=len(label_map.segments),
        volume_ml=label_volume_ml(label_map),
        proposal_model=proposal.model if proposal else None,
        proposal_version=proposal.version if proposal else None,
        proposal_folder=proposal.folder if proposal else None,
        quarantine_reason=measurer.first_sight(case.case_id, label_map).reason,
        info=info,
    )
    with log.submitting(submission, path) as annotation:
        study.save_label(case.case_id, path, FINAL, info)
    measurer.measure(annotation.annotation_id)


def _sides(study_folder: Path, found: Iterable[Annotation]) -> dict[str, str]:
    keys = {each.case_id: patient_key_of_case(study_folder, each.case_id) for each in found}
    placed: Mapping[str, str] = FrozenSplit(study_folder).known(keys.values())
    return {case_id: placed[key] for case_id, key in keys.items() if key in placed}


def _keeping_challengers(family: Family[Any], target: Path) -> Family[Any]:
    """The family, whose trainings leave a copy of the challenger's weights."""
    plan = family.plan
    if plan is None:
        raise InputError(f"The family '{family.task}' plans no lessons: there is nothing to simulate.")

    def planned(*args: Any, **kwargs: Any) -> Lesson[Any]:
        lesson = plan(*args, **kwargs)

        def train(*train_args: Any, **train_kwargs: Any) -> Path:
            path = lesson.train(*train_args, **train_kwargs)
            shutil.copyfile(path, target)
            return path

        return replace(lesson, train=train)

    return replace(family, plan=planned)


def _result_path(folder: Path, number: int) -> Path:
    return folder / f"round-{number:02}.json"


def _nobody(study_folder: Path, should_stop: Callable[[], bool]) -> list[Keeper]:
    """No old nodule has a say."""
    return []
