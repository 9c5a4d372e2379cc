"""One submitted label with its history: who outlined what, from which proposal, and how much had to be corrected."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from medai.errors import InputError

UNUSABLE = "it cannot be used as it lies in the study"
"""How the reason begins why a label is withheld that was put into the study and cannot be read."""


_NO_VERDICT = ("segmented", "not segmented", "in progress")
"""Other words of 3D Slicer's MONAILabelReviewer."""


class ReviewState(StrEnum):
    """What a reviewer says of a label; the words of 3D Slicer's MONAILabelReviewer."""

    OPEN = ""
    APPROVED = "approved"
    FLAGGED = "flagged"

    @classmethod
    def of(cls, word: object) -> ReviewState:
        """The verdict that a reviewer's word stands for; others ("segmented", "in progress") are none."""
        known = {state.value: state for state in cls}
        return known.get(str(word or "").strip().lower(), cls.OPEN)

    @classmethod
    def said(cls, word: object) -> ReviewState:
        """The verdict in what a reviewer says now.

        Raises:
            InputError: none of the reviewer's words; a typing error must not lift somebody's flag.
        """
        plain = word.strip().lower() if isinstance(word, str) else None
        if plain not in {*(state.value for state in cls), *_NO_VERDICT}:
            raise InputError(
                f"'status' is {ascii(word)[:60]}; a reviewer says {cls.APPROVED}, {cls.FLAGGED}, or one of "
                f"{', '.join(_NO_VERDICT)} to take a verdict back."
            )
        return cls.of(plain)


def review_in(info: Mapping[str, Any]) -> tuple[ReviewState, str]:
    """What 3D Slicer's MONAILabelReviewer has written into a label's info, and who; open where it wrote nothing.

    Args:
        info: of the label, as MONAI Label keeps it.
    """
    meta = info.get("segmentationMeta")
    if not isinstance(meta, Mapping):
        return ReviewState.OPEN, ""
    return ReviewState.of(meta.get("status")), str(meta.get("approvedBy") or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How much of a proposal an annotator changed.

    Attributes:
        dice: of the submitted and the proposed label, all nodules together, 0–1; 1 where both are empty.
        added_path_length_mm: length of the outline that had to be drawn anew, slice by slice.
        volume_change_ml: submitted less proposed.
        nodules_added: submitted nodules that no proposal overlaps.
        nodules_removed: proposed nodules that no submitted one overlaps.
    """

    dice: float
    added_path_length_mm: float
    volume_change_ml: float
    nodules_added: int
    nodules_removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A submitted label; it is kept for good and never changed but for review and quarantine.

    Attributes:
        annotation_id: unique in the study, sorts by time of submission.
        case_id: the scan.
        tag: MONAI Label's tag it was submitted under; ``final`` is the accepted one.
        annotator: who, as authenticated or as the client says; "" where nobody said.
        submitted_at_s: seconds since 1970.
        seconds_spent: between handing the case out and submission; None where that is not known.
        proposal_model: the model whose answer was corrected; None without one.
        proposal_version: its version.
        file_name: of the kept copy, below the study's folder of annotations.
        sha256: of that file.
        nodules: segments in it.
        volume_ml: of all of them.
        correction: against the proposal; None without one.
        review: what a reviewer said.
        review_by: who said it.
        quarantine_reason: why it is kept from training until somebody looks; "" where nothing is wrong with it.
        is_current: True for the latest label of its case and tag, which is the one that the study shows.
        is_own_latest: True for the latest one of its annotator: each annotator's label stands beside the others'.
        segment_names: voxel value and name of each segment, as the annotator named it, ratings included
            ("nodule malignancy 4"); empty where nobody said, and for labels of before names were kept.
        is_of_deleted_scan: its scan was deleted or replaced; what has the case's id now is another one.
    """

    annotation_id: str
    case_id: str
    tag: str
    annotator: str
    submitted_at_s: float
    seconds_spent: float | None
    proposal_model: str | None
    proposal_version: str | None
    file_name: str
    sha256: str
    nodules: int
    volume_ml: float
    correction: Correction | None
    review: ReviewState = ReviewState.OPEN
    review_by: str = ""
    quarantine_reason: str = ""
    is_current: bool = True
    is_own_latest: bool = True
    segment_names: tuple[tuple[int, str], ...] = ()
    is_of_deleted_scan: bool = False

    @property
    def trains(self) -> bool:
        """Whether a training may learn from it."""
        if self.is_of_deleted_scan:
            return False
        return self.is_own_latest and not self.quarantine_reason and self.review is not ReviewState.FLAGGED


def standing(annotations: Iterable[Annotation]) -> tuple[Annotation, ...]:
    """The labels of one case and tag that count, where several people have read it.

    Of each annotator the latest label, unless it is flagged or in quarantine. Where a reviewer has approved any, the
    latest of those alone: somebody has settled it.

    Args:
        annotations: every label of the case and tag, oldest first.

    Returns:
        Oldest first; empty where nothing counts.
    """
    kept = [annotation for annotation in annotations if annotation.trains]
    approved = [a for a in kept if a.review is ReviewState.APPROVED]
    return tuple(approved[-1:] or kept)


def without_annotators(counting: Sequence[Annotation], names: Collection[str]) -> tuple[Annotation, ...]:
    """The labels of one case without those of some annotators, where others or a reviewer's approval stand for it.

    Args:
        counting: the labels that count (``standing``).
        names: annotators whose word does not count beside that of others.

    Returns:
        All of them where nobody else has labelled the case.
    """
    others = [a for a in counting if a.annotator not in names or a.review is ReviewState.APPROVED]
    return tuple(others or counting)
