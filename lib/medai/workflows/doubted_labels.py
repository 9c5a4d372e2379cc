"""Whose labels train and judge: those of an annotator who stands out count less, unless somebody has confirmed them.

The gate has nothing but the labels of the held-back patients: where many of them are drawn too large, or anywhere, the
challenger that has learned to draw so is the better one. So a label whose annotator ``medai annotators`` names (biased
in volume, or labelling something else than the others) does not judge while it stands alone. A reviewer's approval
confirms it, or the labels of others.

What such a label teaches is another matter. An outline that is too large still shows where the nodule is: it trains,
but seldom (``BIASED_WEIGHT``). One of somebody who labels something else than the others (``NO_PEER_DICE``) does not
train either, and has no say beside the labels of others.

Only what other annotators say of one counts here, not the model's proposals: a model that is to be improved is no
witness against those who correct it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medai.domain.annotation import Annotation, ReviewState, standing, without_annotators
from medai.evaluation.agreement import FEWEST_CASES
from medai.store.annotations import AnnotationLog, has_history
from medai.store.study import FINAL
from medai.workflows.annotators import NO_PEER_DICE, UNNAMED, AnnotatorsReport, compare_annotators, open_annotations

BIASED_WEIGHT = 0.25
"""How often training draws the lone label of an annotator who is named, over others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtedAnnotator:
    """Somebody who stands out among the annotators of a study.

    Attributes:
        words: what is odd about the labels, to follow a name.
        is_elsewhere: they show something else than those of the others.
    """

    words: str
    is_elsewhere: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDoubt:
    """Why the label of a case must not judge.

    Attributes:
        reason: in words, with what to do.
        may_train: whether it trains nevertheless.
    """

    reason: str
    may_train: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What is doubted in a study.

    Attributes:
        of_case: case to what is doubted of its label.
        elsewhere: annotators who label something else than the others.
    """

    of_case: Mapping[str, LabelDoubt] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()


def doubted_labels(studies: Path) -> Doubts:
    """Find the labels of a study that must not judge, and those that must not train either.

    Args:
        studies: the study folder.

    Returns:
        No doubt in a study without a history, or in which nobody stands out against the others.
    """
    if not has_history(studies):
        return Doubts()
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
        return Doubts()
    annotators = doubted_annotators(compare_annotators(open_annotations(studies)))
    elsewhere = frozenset("" if name == UNNAMED else name for name, each in annotators.items() if each.is_elsewhere)
    doubts = {case_id: _doubt(found, annotators, elsewhere) for case_id, found in by_case.items()} if annotators else {}
    return Doubts(
        of_case={case_id: doubt for case_id, doubt in doubts.items() if doubt is not None}, elsewhere=elsewhere
    )


def doubted_annotators(report: AnnotatorsReport) -> dict[str, DoubtedAnnotator]:
    """Name to what is odd about an annotator's labels, of those who stand out against other annotators."""
    doubted = {}
    for each in report.annotators:
        overlap, bias = each.overlap, each.bias
        is_outlier = overlap is not None and overlap.is_outlier and overlap.against_peers >= FEWEST_CASES
        if overlap is not None and is_outlier and overlap.dice.mean < NO_PEER_DICE:
            words = f"labels something else than the others (mean Dice {overlap.dice.mean:.2f})"
            doubted[each.name] = DoubtedAnnotator(words=words, is_elsewhere=True)
        elif bias is not None and bias.is_biased and not bias.against_model:
            percent = bias.percent[0]
            words = f"outlines too {'large' if percent > 0 else 'small'} ({percent:+.0f} % in volume)"
            doubted[each.name] = DoubtedAnnotator(words=words, is_elsewhere=False)
        elif overlap is not None and is_outlier:
            words = f"outlines otherwise than the others (mean Dice {overlap.dice.mean:.2f})"
            doubted[each.name] = DoubtedAnnotator(words=words, is_elsewhere=False)
    return doubted


def _doubt(
    labels: Sequence[Annotation], doubted: Mapping[str, DoubtedAnnotator], elsewhere: Collection[str]
) -> LabelDoubt | None:
    """What is doubted of the labels of a case together; None where nothing is."""
    counting = without_annotators(standing(labels), elsewhere)
    if not counting or counting[-1].review is ReviewState.APPROVED:
        return None
    names = [annotation.annotator or UNNAMED for annotation in counting]
    # Of three and more the majority is the outline, of two the later one.
    deciding = names if len(names) > 2 else names[-1:]
    odd = [name for name in deciding if name in doubted]
    if 2 * len(odd) <= len(deciding):
        return None
    may_train = not any(doubted[name].is_elsewhere for name in odd)
    return LabelDoubt(
        reason=(
            f"its annotator '{odd[0]}' {doubted[odd[0]].words}: it {'' if may_train else 'neither trains nor '}"
            f"{'does not judge' if may_train else 'judges'} until a reviewer approves it or others label the case too"
        ),
        may_train=may_train,
    )
