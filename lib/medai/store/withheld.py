"""Which of a study's labels training may learn from: what the history, a reviewer and the folder say of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from medai.domain.annotation import UNUSABLE, Annotation, ReviewState, review_in
from medai.errors import NotFoundError
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, has_history
from medai.store.answers import is_answer
from medai.store.snapshot import StudyCase


def withheld_labels(
    studies: Path, tag: str, cases: Mapping[str, StudyCase], label_path: Callable[[str], Path | None]
) -> dict[str, str]:
    """Case to the reason why its label is kept from training.

    Quarantined or flagged in the history; flagged by 3D Slicer's reviewer in the study's own index, also where stock
    MONAI Label wrote it; or one of two files, of which nobody can say which one is meant. A label that the history does
    not know is not the one that somebody doubted there.

    Args:
        studies: the study folder.
        tag: which labels.
        cases: what the study holds.
        label_path: the study's label of a case, None where it has none.
    """
    labels = {case_id: case.labels[tag] for case_id, case in cases.items() if tag in case.labels}
    reasons = {case_id: _reason(each) for case_id, each in _doubted(studies, tag, label_path).items()}
    for case_id, label in labels.items():
        state, by = review_in(label.info)
        if state is ReviewState.FLAGGED:
            reasons.setdefault(case_id, _flagged(by))
        if is_answer(label.info):
            reasons.setdefault(case_id, "it is a model's answer, which no person has accepted: submit it, corrected")
        if label.rivals:
            names = " and ".join((case_id + label.extension, *label.rivals))
            reasons.setdefault(
                case_id, f"{names} lie side by side as its label '{tag}': keep the right one and move the others away"
            )
    return reasons


def _doubted(studies: Path, tag: str, label_path: Callable[[str], Path | None]) -> dict[str, Annotation]:
    """The labels that the history withholds, by case, as far as they are the study's labels still."""
    if not has_history(studies):
        return {}
    log = AnnotationLog(studies)
    try:
        withheld = [annotation for annotation in log.withheld() if annotation.tag == tag]
    finally:
        log.close()
    return {each.case_id: each for each in withheld if _is_there(each, label_path)}


def counting_labels(
    studies: Path, tag: str, label_path: Callable[[str], Path | None], *, without: Collection[str] = ()
) -> dict[str, tuple[Path, ...]]:
    """Case to the files of the labels that count, oldest first, where two or more people have labelled it.

    Args:
        studies: the study folder.
        tag: which labels.
        label_path: the study's label of a case, None where it has none.
        without: annotators whose word does not count beside that of others.

    Returns:
        Nothing for a study without a history, nor for a case whose label was put there past the server. A case may have
        a single label left that counts, and it need not be the latest.
    """
    if not has_history(studies):
        return {}
    log = AnnotationLog(studies)
    try:
        current = {annotation.case_id: annotation for annotation in log.all() if annotation.tag == tag}
        return {
            case_id: tuple(log.path(annotation) for annotation in found)
            for case_id, found in log.opinions(tag, without=without).items()
            if _is_there(current[case_id], label_path)
        }
    finally:
        log.close()


def _is_there(annotation: Annotation, label_path: Callable[[str], Path | None]) -> bool:
    try:
        path = label_path(annotation.case_id)
    except NotFoundError:
        return False
    return path is not None and sha256_of_file(path) == annotation.sha256


def _reason(annotation: Annotation) -> str:
    if annotation.quarantine_reason.startswith(UNUSABLE):
        return f"{annotation.quarantine_reason} Submit it again, or put a usable file in its place"
    if annotation.quarantine_reason:
        return (
            f"quarantined: {annotation.quarantine_reason}; "
            f"'medai annotations STUDIES --release {annotation.annotation_id}' lets it train"
        )
    return _flagged(annotation.review_by)


def _flagged(by: str) -> str:
    words = f" by {by}" if by else ""
    return f"flagged{words} in review; approve it in 3D Slicer's MONAILabelReviewer, or submit a better one"
