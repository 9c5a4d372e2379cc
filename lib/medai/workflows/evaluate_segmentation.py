"""How well nodules are outlined by clicks: a folder of outlined nodules, simulated clicks, figures with intervals.

Each nodule is clicked on as an annotator would, and the answer is held against its mask on the image's own grid.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medai.clinical.measurements import axial_size, volume_mm3
from medai.domain import NoduleKind
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, InputError, MedaiError
from medai.evaluation.calibration import ReliabilityBins
from medai.evaluation.surface import surface_distance
from medai.inference.evaluate_click import ClickTrial, Outliner, case_generator, outline_by_clicks
from medai.training.classification_fit import kind_of_texture
from medai.training.dataset import is_validation_patient
from medai.workflows.nodule_folder import FolderNodule, load_nodule, read_nodule_folder
from medai.workflows.segmentation_report import DOUBTFUL, NoduleScore, SegmentationConfig, SegmentationReport

logger = logging.getLogger(__name__)


def evaluate_segmentation(
    data: Path,
    segmenter: Outliner,
    config: SegmentationConfig,
    *,
    model: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SegmentationReport:
    """Outline every nodule of a folder by simulated clicks and hold it against its mask.

    Args:
        data: holds ``images/``, ``masks/`` and, if there is one, ``nodules.csv``.
        segmenter: answers the clicks.
        config: how nodules are clicked on and which.
        model: which model answers, for the report.
        on_progress: told nodules done and in all.
        should_stop: asked before each nodule.

    Raises:
        InputError: the folder cannot be used, or not one of its nodules.
        CancelledByUserError: ``should_stop`` said so.
    """
    begun = time.perf_counter()
    folder = read_nodule_folder(data)
    chosen = _chosen(folder.nodules, config, data)
    scores: list[NoduleScore] = []
    skipped = dict(folder.skipped)
    for number, nodule in enumerate(chosen):
        if should_stop():
            raise CancelledByUserError("The evaluation was stopped; nothing was kept.")
        on_progress(number, len(chosen))
        try:
            scores.append(_scored(nodule, segmenter, config))
        except (MedaiError, OSError, ValueError) as error:
            skipped[nodule.case_id] = str(error)
            logger.info("%s is left out: %s", nodule.case_id, error)
    on_progress(len(chosen), len(chosen))
    if not scores:
        case_id, reason = next(iter(skipped.items()))
        raise InputError(f"Not one nodule of {data} could be evaluated. The first: {case_id}: {reason}")
    return SegmentationReport(
        scores=tuple(scores),
        config=config,
        model=dict(model or {}),
        skipped=skipped,
        warnings=(*folder.warnings, *_remarks(scores, config)),
        seconds=time.perf_counter() - begun,
    )


def score_outline(nodule: FolderNodule, case: ClickCase, trial: ClickTrial) -> NoduleScore:
    """Hold one outline against its mask."""
    geometry = case.volume.geometry
    distance = surface_distance(trial.mask, case.mask, geometry.spacing_mm) if trial.mask.any() else None
    true_mm3 = volume_mm3(case.mask, geometry)
    voxels, doubtful = _reliability(case, trial)
    return NoduleScore(
        case_id=case.case_id,
        patient_id=case.patient_id,
        diameter_mm=nodule.diameter_mm or axial_size(case.mask, geometry).mean_diameter_mm,
        texture=texture_of_rating(nodule.ratings.get("texture")),
        dice=trial.dice_after[-1],
        dice_after=trial.dice_after,
        hausdorff95_mm=distance.hausdorff95_mm if distance else math.nan,
        surface_mm=distance.mean_mm if distance else math.nan,
        volume_mm3=true_mm3,
        volume_error_percent=100.0 * (volume_mm3(trial.mask, geometry) - true_mm3) / true_mm3,
        uncertainty=trial.result.uncertainty,
        voxels=voxels,
        doubtful_voxels=doubtful,
        clicks=len(trial.foreground_ijk) + len(trial.background_ijk),
        first_click_ijk=trial.foreground_ijk[0],
        seconds=trial.result.seconds.get("total", math.nan),
    )


def texture_of_rating(rating: float | None) -> NoduleKind | None:
    """The attenuation type of LIDC's texture rating: 1 and 2 non-solid, 3 part-solid, 4 and 5 solid; None elsewhere."""
    if rating is None or not 1 <= rating <= 5:
        return None
    return kind_of_texture(rating)


def _chosen(nodules: Sequence[FolderNodule], config: SegmentationConfig, data: Path) -> list[FolderNodule]:
    chosen = [nodule for nodule in nodules if not config.held_back_only or is_validation_patient(nodule.patient_id)]
    if not chosen:
        raise InputError(
            f"None of the {len(nodules)} nodules in {data} is of a patient who is held back (one patient in five is, "
            "by a hash of the patient's id). Evaluate all of them, without --held-back-only, if none trained the model."
        )
    return chosen[: config.limit]


def _scored(nodule: FolderNodule, segmenter: Outliner, config: SegmentationConfig) -> NoduleScore:
    case = load_nodule(nodule)
    trial = outline_by_clicks(
        segmenter, case, place=config.place, clicks=config.clicks, rng=case_generator(config.seed, case.case_id)
    )
    return score_outline(nodule, case, trial)


def _reliability(case: ClickCase, trial: ClickTrial) -> tuple[ReliabilityBins, ReliabilityBins]:
    """Bins of all voxels that were looked at, and of the doubtful ones among them."""
    result = trial.result
    looked_at = result.box.intersect(result.looked_at)
    probability = result.probability[looked_at.shift([-n for n in result.box.start_ijk]).slices]
    truth = case.mask[looked_at.slices]
    doubtful = (probability > DOUBTFUL[0]) & (probability < DOUBTFUL[1])
    return ReliabilityBins.of(probability, truth), ReliabilityBins.of(probability[doubtful], truth[doubtful])


def _remarks(scores: Sequence[NoduleScore], config: SegmentationConfig) -> list[str]:
    """What a reader of the figures should know."""
    remarks: list[str] = []
    if len({score.patient_id for score in scores}) == 1:
        remarks.append("All nodules are of one patient: intervals draw nodules and say nothing of other patients.")
    from_training = [score for score in scores if not is_validation_patient(score.patient_id)]
    if not config.held_back_only and any(score.patient_id.startswith("LIDC-IDRI-") for score in from_training):
        remarks.append(
            f"{len(from_training)} of the {len(scores)} nodules are of LIDC-IDRI patients whom the starter models have "
            "trained on: --held-back-only leaves them out; 'held_back' in the JSON has the others' figures."
        )
    return remarks
