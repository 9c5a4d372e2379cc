"""Figures and failures of a classifier for its card: the held-back patients, with readers' outlines and our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain.assessment import MALIGNANCY
from medai.evaluation.contrasts import Features, describe_contrasts
from medai.inference.evaluate_click import Outliner
from medai.registry.cards import WORST_CASES, CardGroups
from medai.workflows.classification_report import ClassificationConfig, ClassificationReport, RatedScore
from medai.workflows.evaluate_classification import Assessor, evaluate_classification
from medai.workflows.measured_model import EVALUATION_SEED, Measured, Tell, figure, groups_of, known, silent
from medai.workflows.nodule_folder import FolderNodule, load_nodule, read_nodule_folder
from medai.workflows.worst_cases import WorstCase, draw_worst_cases


def measure_classification(
    nodules: Path,
    classifier: Assessor,
    outliner: Outliner | None,
    card_folder: Path,
    *,
    tell: Tell = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measure a classifier on the held-back patients of a folder, and draw where it is most wrong.

    Args:
        nodules: holds ``images/``, ``masks/``, ``nodules.csv`` with ratings.
        classifier: rates.
        outliner: outlines from one click, for the figures with our own outlines.
        card_folder: takes the pictures.
        tell: told what is being done.
        should_stop: asked before each nodule.
    """
    report = evaluate_classification(
        nodules,
        classifier,
        outliner,
        ClassificationConfig(seed=EVALUATION_SEED, held_back_only=True),
        on_progress=lambda done, total: tell("Rating held-back nodules", done, total),
        should_stop=should_stop,
    )
    shown = report.to_json()
    texture = shown["texture"]
    groups = (
        groups_of(shown, "by_size", by="size", measure="AUC of malignancy", value="auc", interval="auc_ci95"),
        groups_of(shown, "by_texture", by="texture", measure="AUC of malignancy", value="auc", interval="auc_ci95"),
        _by_attribute(shown["attributes"]),
    )
    return Measured(
        what=(
            f"{shown['n']} nodules of held-back patients voted malignant (4, 5) or benign (1, 2), "
            f"{shown['n_undecided']} undecided ones left out; 95 % intervals by bootstrap over patients; p of the gain "
            f"over size alone {_p(shown.get('auc_gain_p'))}"
        ),
        figures=known(
            figure("AUC of malignancy, readers' outline", shown["auc"], shown["auc_ci95"], shown["n"]),
            figure(
                "AUC of malignancy, our outline from one click",
                shown["auc_own_outline"],
                shown["auc_own_outline_ci95"],
                shown["n_own_outline"],
            ),
            figure("AUC of size alone", shown["size_only_auc"], shown.get("size_only_auc_ci95"), shown["n"]),
            figure("Gain over size alone", shown.get("auc_gain"), shown.get("auc_gain_ci95"), shown["n"]),
            figure("Brier score", shown.get("brier"), None, shown["n"]),
            figure("Calibration error", shown.get("ece"), None, shown["n"]),
            figure("Texture, three classes: accuracy", texture["accuracy"], None, texture["n"]),
            figure("Texture, three classes: weighted kappa", texture["weighted_kappa"], None, texture["n"]),
        ),
        groups=tuple(group for group in groups if group is not None),
        failures=_failures(nodules, report, card_folder, tell),
        commands=("medai evaluate classification --data DIR --held-back-only",),
        evaluation={"texture": texture, "attributes": shown["attributes"]},
    )


def _by_attribute(attributes: Mapping[str, Any]) -> CardGroups | None:
    """The rank correlation with the readers' rating of each attribute."""
    rows = known(*(figure(name, row["spearman"], None, row["n"]) for name, row in attributes.items()))
    return CardGroups(by="attribute", measure="Rank correlation with readers", rows=rows) if rows else None


def _failures(folder: Path, report: ClassificationReport, card_folder: Path, tell: Tell) -> Mapping[str, Any]:
    """The decided nodules whose probability is most wrong, drawn, and what sets them apart."""
    tell("Drawing the worst cases")
    listed = {nodule.case_id: nodule for nodule in read_nodule_folder(folder).nodules}
    worst = report.worst_cases(WORST_CASES)
    chosen = {score.case_id for score in worst}
    others = [score for score in report.decided if score.case_id not in chosen]
    drawn = draw_worst_cases([_worst_case(listed[score.case_id], score) for score in worst], card_folder)
    return {
        "what": f"the {len(worst)} of {len(report.decided)} held-back nodules whose malignancy is most wrong",
        "in_common": list(
            describe_contrasts(
                [_features(listed[score.case_id], score) for score in worst],
                [_features(listed[score.case_id], score) for score in others],
                units={
                    "diameter": "mm",
                    "diameter of those voted malignant": "mm",
                    "diameter of those voted benign": "mm",
                    "slice distance": "mm",
                },
            )
        ),
        **drawn,
    }


def _worst_case(nodule: FolderNodule, score: RatedScore) -> WorstCase:
    case = load_nodule(nodule)
    said = round(100 * score.reference.malignancy.value)
    return WorstCase(
        case_id=score.case_id,
        words=f"readers {score.voted[MALIGNANCY]:.0f} of 5, model {said} %, {score.diameter_mm:.1f} mm",
        volume=case.volume,
        truth=np.asarray(case.mask),
    )


def _features(nodule: FolderNodule, score: RatedScore) -> Features:
    """What is known of a nodule that may make it hard."""
    case = load_nodule(nodule)
    rated = {name: value for name, value in score.voted.items() if name != MALIGNANCY}
    vote = "malignant" if score.malignant else "benign"
    return {
        "diameter": score.diameter_mm,
        # A large nodule is taken for malignant and a small one for benign: over all of them that cancels out.
        f"diameter of those voted {vote}": score.diameter_mm,
        "kind": str(score.kind) if score.kind else None,
        "readers' vote": vote,
        "slice distance": case.volume.geometry.spacing_mm[2],
        **{f"{name} (rated)": value for name, value in rated.items()},
    }


def _p(value: float | None) -> str:
    if value is None:
        return "not known"
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
