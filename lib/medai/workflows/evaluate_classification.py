"""How well nodules are rated: a folder of outlined and rated nodules, assessments, figures with intervals.

Each nodule is rated twice: with the folder's own outline, and with ours from one simulated click, as in use.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medai.clinical.measurements import axial_size
from medai.domain import NoduleAssessment, Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError, MedaiError
from medai.evaluation.simulated_clicks import ClickPlace
from medai.geometry import IndexBox
from medai.inference.evaluate_click import Outliner, case_generator, outline_by_clicks
from medai.training.classification_fit import kind_of_texture
from medai.training.classification_samples import of_lidc
from medai.training.dataset import is_validation_patient
from medai.workflows.classification_report import ClassificationConfig, ClassificationReport, RatedScore
from medai.workflows.nodule_folder import FolderNodule, load_nodule, read_nodule_folder

logger = logging.getLogger(__name__)


class Assessor(Protocol):
    """Rates an outlined nodule; ``medai.inference.classify.NoduleClassifier`` is one."""

    def assess(self, volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> NoduleAssessment:
        """Rate the nodule whose mask lies at ``box``."""
        ...


def evaluate_classification(
    data: Path,
    classifier: Assessor,
    outliner: Outliner | None,
    config: ClassificationConfig = ClassificationConfig(),  # noqa: B008  # frozen
    *,
    model: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ClassificationReport:
    """Rate every nodule of a folder and hold the ratings against the readers'.

    Args:
        data: holds ``images/``, ``masks/`` and ``nodules.csv`` with a column ``malignancy``.
        classifier: rates.
        outliner: outlines nodules from one click; None rates with the folder's outlines alone.
        config: which nodules.
        model: which model rates, for the report.
        on_progress: told nodules done and in all.
        should_stop: asked before each nodule.

    Raises:
        InputError: the folder cannot be used, or none of its nodules has a rating of malignancy.
        CancelledByUserError: ``should_stop`` said so.
    """
    begun = time.perf_counter()
    folder = read_nodule_folder(data)
    chosen = _chosen(folder.nodules, config, data)
    skipped = dict(folder.skipped)
    scores: list[RatedScore] = []
    for number, nodule in enumerate(chosen):
        if should_stop():
            raise CancelledByUserError("The evaluation was stopped; nothing was kept.")
        on_progress(number, len(chosen))
        try:
            scores.append(_scored(nodule, classifier, outliner, config.seed))
        except (MedaiError, OSError, ValueError) as error:
            skipped[nodule.case_id] = str(error)
            logger.warning("%s is left out: %s", nodule.case_id, error)
    on_progress(len(chosen), len(chosen))
    if not scores:
        case_id, reason = next(iter(skipped.items()))
        raise InputError(f"Not one nodule of {data} could be evaluated. The first: {case_id}: {reason}")
    return ClassificationReport(
        scores=tuple(scores),
        config=config,
        model=dict(model or {}),
        skipped=skipped,
        warnings=(*folder.warnings, *_remarks(scores, config)),
        seconds=time.perf_counter() - begun,
    )


def score_ratings(
    case: ClickCase,
    classifier: Assessor,
    outliner: Outliner | None,
    *,
    voted: Mapping[str, float],
    diameter_mm: float | None,
    seed: int,
) -> RatedScore:
    """Rate one nodule with both outlines; ``voted`` holds attributes on 1–5."""
    own = None
    if outliner is not None:
        rng = case_generator(seed, case.case_id)
        outlined = outline_by_clicks(outliner, case, place=ClickPlace.CENTRE, clicks=1, rng=rng).mask
        own = _assessed(classifier, case, outlined) if outlined.any() else None
    return RatedScore(
        case_id=case.case_id,
        patient_id=case.patient_id,
        diameter_mm=diameter_mm or axial_size(case.mask, case.volume.geometry).mean_diameter_mm,
        voted=dict(voted),
        kind=kind_of_texture(voted.get("texture", math.nan)),
        reference=_assessed(classifier, case, case.mask),
        own=own,
    )


def _chosen(nodules: Sequence[FolderNodule], config: ClassificationConfig, data: Path) -> list[FolderNodule]:
    rated = [nodule for nodule in nodules if "malignancy" in nodule.ratings]
    if not rated:
        raise InputError(f"No nodule of {data} has a rating: nodules.csv needs a column 'malignancy' with 1 to 5.")
    chosen = [nodule for nodule in rated if not config.held_back_only or is_validation_patient(nodule.patient_id)]
    if not chosen:
        raise InputError(
            f"None of the {len(rated)} nodules in {data} is of a patient who is held back (one patient in five is, by "
            "a hash of the patient's id). Evaluate all of them, without --held-back-only, if none trained the model."
        )
    return chosen[: config.limit]


def _scored(nodule: FolderNodule, classifier: Assessor, outliner: Outliner | None, seed: int) -> RatedScore:
    return score_ratings(
        load_nodule(nodule),
        classifier,
        outliner,
        voted=of_lidc(nodule.ratings),
        diameter_mm=nodule.diameter_mm,
        seed=seed,
    )


def _assessed(classifier: Assessor, case: ClickCase, mask: NDArray[np.bool_]) -> NoduleAssessment:
    box = IndexBox.of_mask(mask) or IndexBox.of_shape(mask.shape)
    return classifier.assess(case.volume, box, mask[box.slices])


def _remarks(scores: Sequence[RatedScore], config: ClassificationConfig) -> list[str]:
    """What a reader of the figures should know."""
    remarks: list[str] = []
    decided = [score for score in scores if score.malignant is not None]
    malignant = sum(bool(score.malignant) for score in decided)
    if min(malignant, len(decided) - malignant) < 2:
        remarks.append(
            f"{malignant} nodules are rated 4 or 5 and {len(decided) - malignant} are rated 1 or 2: too few for an AUC."
        )
    trained = [score for score in scores if not is_validation_patient(score.patient_id)]
    if not config.held_back_only and any(score.patient_id.startswith("LIDC-IDRI-") for score in trained):
        remarks.append(
            f"{len(trained)} of the {len(scores)} nodules may be of LIDC-IDRI patients whom the starter model has "
            "trained on: --held-back-only leaves them out; 'held_back' in the JSON has the others' figures."
        )
    return remarks
