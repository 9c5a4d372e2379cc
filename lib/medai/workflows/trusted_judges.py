"""Whose labels may judge a challenger: not those of an annotator who stands out, unless somebody has confirmed them.

A training may learn from a doubtful label, because the gate sees what comes of it. The gate itself has nothing but the
labels of the held-back patients: where many of them are drawn too large, or anywhere, the challenger that has learned
to draw so is the better one. So a label whose annotator ``medai annotators`` names (biased in volume, or labelling
something else than the others) does not judge while it stands alone. A reviewer's approval confirms it, or the labels
of others.

Only what other annotators say of one counts here, not the model's proposals: a model that is to be improved is no
witness against those who correct it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medai.domain.annotation import Annotation, ReviewState, standing
from medai.evaluation.agreement import FEWEST_CASES
from medai.store.annotations import AnnotationLog, has_history
from medai.store.study import FINAL
from medai.workflows.annotators import UNNAMED, AnnotatorsReport, compare_annotators, open_annotations


def labels_that_may_not_judge(studies: Path) -> dict[str, str]:
    """Case to the reason why its label must not judge, of every case in which that is so.

    Args:
        studies: the study folder.

    Returns:
        Nothing for a study without a history, or in which nobody stands out against the others.
    """
    if not has_history(studies):
        return {}
    log = AnnotationLog(studies)
    try:
        by_case: dict[str, list[Annotation]] = {}
        for annotation in log.all():
            if annotation.tag == FINAL:
                by_case.setdefault(annotation.case_id, []).append(annotation)
    finally:
        log.close()
    if len({annotation.annotator for found in by_case.values() for annotation in found}) < 3:
        # Of two annotators nobody can say which one stands out.
        return {}
    doubted = doubted_annotators(compare_annotators(open_annotations(studies)))
    reasons = {case_id: _reason(standing(found), doubted) for case_id, found in by_case.items()} if doubted else {}
    return {case_id: reason for case_id, reason in reasons.items() if reason}


def doubted_annotators(report: AnnotatorsReport) -> dict[str, str]:
    """Name to what is odd about an annotator's labels, of those who stand out against other annotators."""
    doubted = {}
    for each in report.annotators:
        overlap, bias = each.overlap, each.bias
        if bias is not None and bias.is_biased and not bias.against_model:
            percent = bias.percent[0]
            doubted[each.name] = f"outlines too {'large' if percent > 0 else 'small'} ({percent:+.0f} % in volume)"
        elif overlap is not None and overlap.is_outlier and overlap.against_peers >= FEWEST_CASES:
            doubted[each.name] = f"labels something else than the others (mean Dice {overlap.dice.mean:.2f})"
    return doubted


def _reason(counting: Sequence[Annotation], doubted: Mapping[str, str]) -> str:
    """Why the labels of a case must not judge; "" where they may."""
    if not counting or counting[-1].review is ReviewState.APPROVED:
        return ""
    names = [annotation.annotator or UNNAMED for annotation in counting]
    # Of three and more the majority is the outline, of two the later one.
    deciding = names if len(names) > 2 else names[-1:]
    odd = [name for name in deciding if name in doubted]
    if 2 * len(odd) <= len(deciding):
        return ""
    return (
        f"its annotator '{odd[0]}' {doubted[odd[0]]}: it does not judge until a reviewer approves it or others label "
        "the case too"
    )
