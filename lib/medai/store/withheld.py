"""Which of a study's labels training may learn from: what the history says of them.

A label that was put into the study past the server is not the one that the history knows; it counts as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from medai.domain.annotation import Annotation
from medai.errors import NotFoundError
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, has_history


def withheld_labels(studies: Path, tag: str, label_path: Callable[[str], Path | None]) -> dict[str, str]:
    """Case to the reason why its label is kept from training.

    Args:
        studies: the study folder.
        tag: which labels.
        label_path: the study's label of a case, None where it has none.

    Returns:
        Nothing for a study without a history. A label that was put into the study past the server is not the one that
        somebody doubted, and is not withheld.
    """
    if not has_history(studies):
        return {}
    log = AnnotationLog(studies)
    try:
        withheld = [annotation for annotation in log.withheld() if annotation.tag == tag]
    finally:
        log.close()
    return {each.case_id: _reason(each) for each in withheld if _is_there(each, label_path)}


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
    if annotation.quarantine_reason:
        return (
            f"quarantined: {annotation.quarantine_reason}; "
            f"'medai annotations STUDIES --release {annotation.annotation_id}' lets it train"
        )
    by = f" by {annotation.review_by}" if annotation.review_by else ""
    return f"flagged{by} in review; approve it in 3D Slicer's MONAILabelReviewer, or submit a better one"
