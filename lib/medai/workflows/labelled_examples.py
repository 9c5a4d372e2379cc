"""What annotators have submitted, placed by patient for learning and for judging; the same for every family."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from medai.domain import Volume
from medai.errors import CancelledByUserError, InputError, MedaiError
from medai.store.split import FrozenSplit
from medai.store.study import StudyStore
from medai.volume_io.plausibility import read_chest_ct
from medai.workflows.doubted_labels import LabelDoubt
from medai.workflows.study_contents import missing_scans_words
from medai.workflows.submitted_label import SUBMITTED_TAG, LabelSource

logger = logging.getLogger(__name__)


class LabelledStudy(LabelSource, Protocol):
    """What is read of a study; ``medai.store.study.StudyStore`` is one."""

    folder: Path

    def labeled(self, tag: str = ...) -> list[str]:
        """Ids of the cases with a label of this tag."""
        ...


@runtime_checkable
class KeepsHistory(Protocol):
    """A study that knows which of its labels are doubtful; one without a history trains on all of them."""

    def withheld_labels(self, tag: str = ...) -> Mapping[str, str]:
        """Case to the reason why its label of this tag is kept from training."""
        ...


@runtime_checkable
class KeepsOpinions(Protocol):
    """A study that keeps the label of every annotator of a case."""

    def counting_labels(self, tag: str = ..., *, without: Collection[str] = ...) -> Mapping[str, tuple[Path, ...]]:
        """Case to the files of the labels of this tag that count, where several people have labelled it.

        The word of those who are named in ``without`` does not count beside that of others.
        """
        ...


class Example(Protocol):
    """Something to learn from or to judge by: a nodule, or a whole scan."""

    @property
    def case_id(self) -> str:
        """Names it in verdicts."""
        ...

    @property
    def patient_id(self) -> str:
        """The split's patient key; not for logs."""
        ...


E = TypeVar("E", bound=Example)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledExamples(Generic[E]):
    """Submitted examples; each one's ``patient_id`` is the split's patient key, which is not for logs.

    Attributes:
        train: examples of the patients that train.
        held_back: examples of the patients that judge; no patient is in both.
        trained_on: the study's cases behind ``train``.
        judged_on: those behind ``held_back``.
        skipped: study case to the reason why its label is not used.
        test: examples of the patients that neither train nor judge, for figures alone; empty in small studies.
    """

    train: tuple[E, ...]
    held_back: tuple[E, ...]
    trained_on: tuple[str, ...]
    judged_on: tuple[str, ...]
    skipped: Mapping[str, str]
    test: tuple[E, ...] = ()


def collect_examples(
    study: LabelledStudy,
    case_ids: Sequence[str],
    examples_of_case: Callable[[str], list[E]],
    *,
    nothing: str,
    needed: str,
    should_stop: Callable[[], bool],
    tag_of: Callable[[str], str] = lambda _: SUBMITTED_TAG,
    others_count: Collection[str] = (),
    doubts: Mapping[str, LabelDoubt] | None = None,
) -> LabelledExamples[E]:
    """Read labels and place their patients.

    A label that cannot be used is left out with the reason: one annotator's slip does not stop the training of all.

    Args:
        study: the study.
        case_ids: its labelled cases.
        examples_of_case: reads one case; MedaiError where its label cannot be used.
        nothing: why a case without an example is left out.
        needed: what an annotator has to do where there are too few, a sentence.
        should_stop: asked before each case; scans take seconds to decode.
        tag_of: the tag of the label that is read of a case.
        doubts: case to what is doubted of its label, which is left out where its patient is held back or kept for
            figures, and elsewhere too unless it may train.
        others_count: cases that are read though their latest label is withheld: other annotators' labels count there.

    Raises:
        InputError: too few usable labels to train on some patients and judge on others, or no scan at all.
        CancelledByUserError: ``should_stop`` said so.
    """
    examples: dict[str, list[E]] = {}
    skipped = _withheld(study, [case_id for case_id in case_ids if case_id not in others_count], tag_of)
    doubts = doubts or {}
    # Those that serve for nothing are not read: a scan takes seconds.
    skipped |= {case_id: doubts[case_id].reason for case_id in case_ids if _serves_nothing(doubts.get(case_id))}
    for case_id in case_ids:
        if case_id in skipped:
            logger.warning("The submitted label of case %s is not used: %s", case_id, skipped[case_id])
            continue
        if should_stop():
            raise CancelledByUserError("The training was stopped (collect); the model in use stays.")
        try:
            found = examples_of_case(case_id)
        except MedaiError as error:
            skipped[case_id] = str(error)
            logger.warning("The submitted label of case %s is not used: %s", case_id, error)
            continue
        if found:
            examples[case_id] = found
        else:
            skipped[case_id] = nothing
    placed = FrozenSplit(study.folder).place_cases(examples)
    for case_id in [case_id for case_id in examples if placed[case_id] != "train" and case_id in doubts]:
        skipped[case_id] = doubts[case_id].reason
        logger.warning("The submitted label of case %s judges nothing: %s", case_id, skipped[case_id])
        del examples[case_id]
    train = [case_id for case_id in examples if placed[case_id] == "train"]
    held_back = [case_id for case_id in examples if placed[case_id] == "validation"]
    if not train or not held_back:
        words = _too_few(len(examples), skipped, has_train=bool(train), needed=needed)
        if not case_ids and not StudyStore(study.folder, read_only=True).image_ids():
            words = f"{words} {missing_scans_words(study.folder)}"
        raise InputError(words)
    return LabelledExamples(
        train=tuple(example for case_id in train for example in examples[case_id]),
        held_back=tuple(example for case_id in held_back for example in examples[case_id]),
        trained_on=tuple(sorted(train)),
        judged_on=tuple(sorted(held_back)),
        skipped=skipped,
        test=tuple(example for case_id in examples if placed[case_id] == "test" for example in examples[case_id]),
    )


def _serves_nothing(doubt: LabelDoubt | None) -> bool:
    return doubt is not None and not doubt.may_train


def _withheld(study: LabelledStudy, case_ids: Sequence[str], tag_of: Callable[[str], str]) -> dict[str, str]:
    """Cases whose label is quarantined or flagged, with the reason."""
    if not isinstance(study, KeepsHistory):
        return {}
    tags = {case_id: tag_of(case_id) for case_id in case_ids}
    reasons = {tag: study.withheld_labels(tag) for tag in set(tags.values())}
    return {case_id: reasons[tag][case_id] for case_id, tag in tags.items() if case_id in reasons[tag]}


def read_scan(study: LabelledStudy, case_id: str) -> Volume:
    """A case's scan, named by the case."""
    scan = read_chest_ct(study.image_path(case_id))
    return Volume(geometry=scan.geometry, image_hu=scan.image_hu, case_id=case_id, header=scan.header)


def _too_few(usable: int, skipped: Mapping[str, str], *, has_train: bool, needed: str) -> str:
    """Why there can be no training yet, and what to do."""
    left_out = "".join(f" Not used: case {case_id} ({reason})" for case_id, reason in skipped.items())
    if usable == 0:
        what = "No case of this study has a usable submitted label"
    else:
        missing = "held back to judge the new model" if has_train else "left to train on"
        what = (
            f"{usable} case{'s have' if usable > 1 else ' has'} a usable submitted label, but no patient is {missing}"
        )
    return f"{what}. {needed}{left_out}"
