"""Which labels a model has learned from, to the byte: so that anyone can tell whether a label has changed since."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from medai.errors import MedaiError, NotFoundError
from medai.registry.version_files import sha256_of
from medai.store.layout import state_folder
from medai.store.split import SPLIT_FILE
from medai.workflows.labelled_examples import LabelledExamples, LabelledStudy
from medai.workflows.labelled_scans import BOXES_TAG
from medai.workflows.submitted_label import SUBMITTED_TAG

logger = logging.getLogger(__name__)


def label_digests(study: LabelledStudy, examples: LabelledExamples[Any]) -> dict[str, Any]:
    """What a card says of the labels and the split behind a training; taken right after the labels were read.

    Args:
        study: the study.
        examples: what was collected of it.

    Returns:
        "label_sha256": study case to the sha256 of its label's file, of those that trained and those that judged;
        "split_sha256": of the file that says which patient is on which side, "" where there is none. A label that is
        gone already is left out.
    """
    digests = {}
    for case_id in sorted({*examples.trained_on, *examples.judged_on}):
        try:
            digests[case_id] = sha256_of(_label_path(study, case_id))
        except (OSError, MedaiError) as error:
            logger.warning("The label of case %s is not named on the card: %s", case_id, error)
    split = state_folder(study.folder) / SPLIT_FILE
    return {"label_sha256": digests, "split_sha256": sha256_of(split) if split.is_file() else ""}


def _label_path(study: LabelledStudy, case_id: str) -> Path:
    """The outline, else the boxes, which only a detector learns from."""
    try:
        return study.label_path(case_id, SUBMITTED_TAG)
    except NotFoundError:
        return study.label_path(case_id, BOXES_TAG)
