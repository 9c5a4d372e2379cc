"""Makes the starter weights of ``nodule_classification`` from real nodules, and goes on from them for a study.

One recorded configuration and seed, ``STARTER_CLASSIFICATION``: nodules are outlined, measured and looked at; members
of the network are trained that each leave out a fifth of the patients; their answers for these fit the last stage. What
is done is kept in the output folder part by part, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medai.domain.assessment import ATTRIBUTES, MALIGNANCY
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError
from medai.evaluation.roc import roc_auc
from medai.evaluation.simulated_clicks import ClickPlace
from medai.inference.evaluate_click import case_generator, outline_by_clicks
from medai.networks.engine import load_engine
from medai.store.atomic import write_json
from medai.training.classification_checkpoint import load_member, load_members, save_classifier, save_member
from medai.training.classification_fit import BENIGN_TO, SUSPICIOUS_FROM, LeftOutRatings, StageConfig, fit_stage
from medai.training.classification_samples import NoduleWithReaders, RatedSample, central, rated_sample
from medai.training.classification_trainer import (
    ClassificationTrainingConfig,
    fold_of_patient,
    rate_views,
    train_rater,
)
from medai.training.dataset import is_validation_patient
from medai.workflows.rated_folders import find_readers, nodule_folders, read_rated_folder

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"
LEAST_SEEN = 2
"""A member of a trained classifier that sees fewer nodules of a study stays as it is."""

Outline = Callable[[ClickCase, np.random.Generator], NDArray[np.bool_] | None]
"""Our own outline of a nodule on the case's grid, None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterClassificationConfig:
    """How the starter is made.

    Attributes:
        training: of the network's members.
        stage: of the last stage.
        outline_seed: places the clicks of our own outlines and changes the reference ones.
    """

    training: ClassificationTrainingConfig = ClassificationTrainingConfig()  # noqa: RUF009 - frozen
    stage: StageConfig = StageConfig()  # noqa: RUF009 - frozen
    outline_seed: int = 7


STARTER_CLASSIFICATION = StarterClassificationConfig()
"""The recorded recipe of the packaged weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationProgress:
    """Where a training is.

    Attributes:
        stage: "outlines", "members" or "last stage".
        done: parts of the stage that are done: nodules, or epochs of all members.
        total: all of them.
        loss: of the last epoch, None outside "members".
    """

    stage: str
    done: int
    total: int
    loss: float | None = None

    def describe(self) -> str:
        """In words."""
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"{self.stage} {self.done} of {self.total}{loss}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassificationTraining:
    """A finished training.

    Attributes:
        weights_path: the checkpoint.
        nodules: learnt from.
        auc: of the left-out ratings with the reference outline, malignancy 4 or 5 against 1 or 2; NaN where there are
            none of either.
        auc_own_outline: with our own outlines.
        left_out: those ratings.
        notices: what else is worth knowing, in sentences.
    """

    weights_path: Path
    nodules: int
    auc: float
    auc_own_outline: float
    left_out: LeftOutRatings
    notices: tuple[str, ...] = ()


OnProgress = Callable[[ClassificationProgress], None]
Stop = Callable[[], bool]


def train_starter_classification(
    real_data: Path,
    output_folder: Path,
    config: StarterClassificationConfig = STARTER_CLASSIFICATION,
    *,
    start_from: Path | None = None,
    outline: Outline | None = None,
    on_progress: OnProgress = lambda progress: None,
    should_stop: Stop = lambda: False,
    resume: bool = False,
) -> ClassificationTraining:
    """Train on the patients of real nodules that are not held back.

    Args:
        real_data: a folder with ``images/``, ``masks/`` and ``nodules.csv``, or one that holds ``lidc_nodules`` and
            ``lidc_cubes``.
        output_folder: takes the weights and what is needed to go on.
        config: how.
        start_from: a classifier to go on from; None starts afresh.
        outline: our own outlines; by default those of the packaged click network.
        on_progress: told after each nodule and epoch.
        should_stop: asked before each.
        resume: go on with what an earlier run of the same configuration left in ``output_folder``.

    Raises:
        InputError: there is nothing to learn from, or ``output_folder`` is of another configuration.
        CancelledByUserError: ``should_stop`` said so.
    """
    _check_state(output_folder, config, real_data, resume=resume)
    notices: list[str] = []
    database = find_readers(notices.append)
    outline = outline or own_outline()
    samples: list[RatedSample] = []
    for folder in nodule_folders(real_data):
        nodules = read_rated_folder(folder, database=database, keep=lambda patient: not is_validation_patient(patient))
        for number, nodule in enumerate(nodules, start=1):
            if should_stop():
                raise CancelledByUserError("The training was stopped while nodules were outlined.")
            kept = output_folder / "samples" / folder.name / f"{nodule.case_id}.npz"
            samples.append(_kept_sample(kept, nodule, outline, config.outline_seed))
            on_progress(ClassificationProgress(stage="outlines", done=number, total=len(nodules)))
    trained = train_classifier(
        samples, output_folder, config, start_from=start_from, on_progress=on_progress, should_stop=should_stop
    )
    return replace(trained, notices=tuple(notices))


def fine_tune_classification(
    nodules: Sequence[NoduleWithReaders],
    *,
    start_from: Path,
    output_folder: Path,
    config: StarterClassificationConfig = STARTER_CLASSIFICATION,
    outline: Outline | None = None,
    on_progress: OnProgress = lambda progress: None,
    should_stop: Stop = lambda: False,
) -> ClassificationTraining:
    """Go on from a classifier with a study's own rated nodules.

    Args:
        nodules: rated; patients who judge the result must not be among them.
        start_from: the classifier to go on from.
        output_folder: takes the weights.
        config: how; its learning rate should be low.
        outline: our own outlines; by default those of the packaged click network.
        on_progress: told after each nodule and epoch.
        should_stop: asked before each.

    Raises:
        InputError: too few nodules or patients.
        CancelledByUserError: ``should_stop`` said so.
    """
    outline = outline or own_outline()
    samples: list[RatedSample] = []
    for number, nodule in enumerate(nodules, start=1):
        if should_stop():
            raise CancelledByUserError("The training was stopped while nodules were outlined.")
        rng = case_generator(config.outline_seed, nodule.case_id)
        samples.append(rated_sample(nodule, outline(nodule.case, rng), rng))
        on_progress(ClassificationProgress(stage="outlines", done=number, total=len(nodules)))
    return train_classifier(
        samples, output_folder, config, start_from=start_from, on_progress=on_progress, should_stop=should_stop
    )


def train_classifier(
    samples: Sequence[RatedSample],
    output_folder: Path,
    config: StarterClassificationConfig,
    *,
    start_from: Path | None = None,
    on_progress: OnProgress = lambda progress: None,
    should_stop: Stop = lambda: False,
) -> ClassificationTraining:
    """Train the members, fit the last stage, write the weights.

    Members that ``output_folder`` holds already are taken as they are.

    Raises:
        InputError: too few nodules or patients.
        CancelledByUserError: ``should_stop`` said so.
    """
    training = config.training
    before, before_stage = None, None
    if start_from is not None:
        before, options, before_stage = load_members(start_from)
        training = replace(training, members=len(before), widths=tuple(options["widths"]))
    members = [
        _member(samples, training, number, output_folder, before, on_progress, should_stop)
        for number in range(training.members)
    ]
    on_progress(ClassificationProgress(stage="last stage", done=0, total=1))
    answers = left_out_answers(samples, members)
    stage, left_out = fit_stage(
        samples, answers, replace(config.stage, folds=training.members), start_from=before_stage
    )
    weights_path = output_folder / WEIGHTS
    save_classifier(weights_path, members, training.network_options, stage)
    on_progress(ClassificationProgress(stage="last stage", done=1, total=1))
    return ClassificationTraining(
        weights_path=weights_path,
        nodules=len(samples),
        auc=_auc(samples, left_out.reference),
        auc_own_outline=_auc(samples, left_out.own),
        left_out=left_out,
    )


def left_out_answers(samples: Sequence[RatedSample], members: Sequence[nn.Module]) -> dict[str, NDArray[np.float64]]:
    """Every nodule's logits, for each outline, by the member that has not seen its patient."""
    answers: dict[str, NDArray[np.float64]] = {}
    for number, member in enumerate(members):
        unseen = [sample for sample in samples if fold_of_patient(sample.patient_id, len(members)) == number]
        if not unseen:
            continue
        logits = rate_views(member, np.concatenate([central(sample.views) for sample in unseen]))
        ends = np.cumsum([len(sample.views) for sample in unseen])[:-1]
        answers |= {sample.case_id: part for sample, part in zip(unseen, np.split(logits, ends), strict=True)}
    return answers


def own_outline(weights_path: Path | None = None) -> Outline:
    """Our own outline from one careful click by a click network, by default the packaged one."""
    from medai.inference.click import ClickSegmenter
    from medai.workflows.models import open_registry

    path = weights_path or open_registry(None).champion("nodule_click").weights_path
    segmenter = ClickSegmenter(load_engine(path, device="cpu"))

    def outline(case: ClickCase, rng: np.random.Generator) -> NDArray[np.bool_] | None:
        mask = outline_by_clicks(segmenter, case, place=ClickPlace.CENTRE, clicks=1, rng=rng).mask
        return mask if mask.any() else None

    return outline


def _member(
    samples: Sequence[RatedSample],
    training: ClassificationTrainingConfig,
    number: int,
    output_folder: Path,
    before: Sequence[nn.Module] | None,
    on_progress: OnProgress,
    should_stop: Stop,
) -> nn.Module:
    """One trained member: from the output folder where it is done, else trained now."""
    path = output_folder / f"member_{number}.safetensors"
    if path.is_file():
        return load_member(path)
    seen = [sample for sample in samples if fold_of_patient(sample.patient_id, training.members) != number]
    if before is not None and len(seen) < LEAST_SEEN:
        return before[number]
    total = training.members * training.epochs

    def tell(epoch: int, loss: float) -> None:
        done = number * training.epochs + epoch
        on_progress(ClassificationProgress(stage="members", done=done, total=total, loss=loss))

    member = train_rater(
        seen,
        training,
        seed=training.seed + number,
        start_from=None if before is None else before[number],
        on_epoch=tell,
        should_stop=should_stop,
    )
    save_member(path, member, training.network_options)
    return member


def _kept_sample(path: Path, nodule: NoduleWithReaders, outline: Outline, seed: int) -> RatedSample:
    """A nodule's sample: from an earlier run, else made now and kept."""
    if path.is_file():
        try:
            with np.load(path) as kept:
                return RatedSample(
                    case_id=nodule.case_id,
                    patient_id=nodule.patient_id,
                    outlines=tuple(str(name) for name in kept["outlines"]),
                    feature_names=tuple(str(name) for name in kept["feature_names"]),
                    **{name: kept[name] for name in ("views", "features", "shares", "ratings", "voted")},
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            path.unlink()
    rng = case_generator(seed, nodule.case_id)
    sample = rated_sample(nodule, outline(nodule.case, rng), rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        outlines=np.array(sample.outlines),
        feature_names=np.array(sample.feature_names),
        views=sample.views,
        features=sample.features,
        shares=sample.shares,
        ratings=sample.ratings,
        voted=sample.voted,
    )
    return sample


def _check_state(output_folder: Path, config: StarterClassificationConfig, data: Path, *, resume: bool) -> None:
    """Start a folder afresh, or make sure that it may be gone on with."""
    recipe: dict[str, Any] = {"config": json.loads(json.dumps(asdict(config))), "data": str(data.resolve())}
    state = output_folder / "recipe.json"
    if resume and state.is_file():
        found: Mapping[str, Any] = json.loads(state.read_text(encoding="utf-8"))
        if found != recipe:
            raise InputError(f"{output_folder} holds a run of another configuration or data: start without resuming.")
        return
    for path in (*output_folder.glob("member_*.safetensors"), *output_folder.glob("samples/*/*.npz")):
        path.unlink()
    output_folder.mkdir(parents=True, exist_ok=True)
    write_json(state, recipe)


def _auc(samples: Sequence[RatedSample], rated: NDArray[np.float64]) -> float:
    """Of left-out malignancy ratings over the nodules that are voted malignant or benign."""
    column = ATTRIBUTES.index(MALIGNANCY)
    voted = np.array([sample.voted[column] for sample in samples])
    decided = (voted >= SUSPICIOUS_FROM) | (voted <= BENIGN_TO)
    malignant = voted[decided] >= SUSPICIOUS_FROM
    if malignant.all() or not malignant.any():
        return math.nan
    return roc_auc(rated[decided, column], malignant)
