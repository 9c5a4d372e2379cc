"""The history of a study's labels, as the command line and the server tell it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from medai.domain.annotation import Annotation
from medai.errors import NotFoundError
from medai.postprocessing.nodules import ratings_in_name
from medai.store.annotations import AnnotationLog, has_history
from medai.store.study import FINAL
from medai.workflows.families import AnnotationLookup


def open_history(studies: Path) -> AnnotationLog:
    """Open the history of a study that has one.

    Raises:
        NotFoundError: no such study, or no label was ever submitted to it through medai.
    """
    if not studies.is_dir():
        raise NotFoundError(f"There is no study folder '{studies}'. Check the path.")
    if not has_history(studies):
        raise NotFoundError(
            f"The study '{studies}' has no history of annotations yet: 'medai serve' begins one with the first label."
        )
    return AnnotationLog(studies)


def recorded_annotations(studies: Path) -> AnnotationLookup | None:
    """How the accepted labels of a study came about, by case; None where the study keeps no history.

    Read once: a training sees its labels as they were when it began.
    """
    if not has_history(studies):
        return None
    log = AnnotationLog(studies)
    try:
        current = {annotation.case_id: annotation for annotation in log.all() if annotation.tag == FINAL}
    finally:
        log.close()

    def annotation_of(case_id: str) -> Annotation | None:
        return current.get(case_id)

    return annotation_of


def annotation_to_json(annotation: Annotation) -> dict[str, Any]:
    """An annotation as plain JSON, with whether it trains and what each segment's name says of the nodule.

    Its file's name is below ``.medai/annotations``.
    """
    segments = [
        {"value": value, "name": name, "ratings": ratings_in_name(name)} for value, name in annotation.segment_names
    ]
    own = {name: value for name, value in dataclasses.asdict(annotation).items() if name != "segment_names"}
    return {**own, "segments": segments, "review": str(annotation.review), "trains": annotation.trains}
