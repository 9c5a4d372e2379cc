"""``medai annotators``: reads what several people submitted, compares it, and says whom to talk to.

Of each annotator the latest label of a case counts, whether it trains or not: a label in quarantine says something
about its annotator too. Cases that two or more people read are compared outline by outline, the others with the model's
proposal, by what was kept of the correction when they were submitted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medai.domain import LabelMap
from medai.domain.annotation import Annotation
from medai.errors import MedaiError, NotFoundError
from medai.evaluation.agreement import (
    BIAS_MARGIN,
    FEWEST_CASES,
    OverlapWithPeers,
    PairAgreement,
    ProposalComparison,
    RatingAgreement,
    ReadNodule,
    VolumeBias,
    overlaps_with_peers,
    pair_agreements,
    rating_agreements,
    volume_biases,
)
from medai.evaluation.label_parts import label_parts
from medai.postprocessing.consensus import Consensus, ReaderPerformance, consensus
from medai.postprocessing.nodules import ratings_in_name
from medai.store.annotation_files import named_segments
from medai.store.study import ORIGINAL, StudyStore
from medai.workflows.submitted_label import read_recorded

UNNAMED = "unnamed"
"""Stands for the annotators of labels of whom nobody said who they are."""
NO_PEER_DICE = 0.5
"""An outlier below this labels something else; one above it may be an outlier for a bias, which is to be measured."""
MOST_PARTS = 300
"""A label of more connected parts is noise; to match it with others takes minutes and tells nothing."""

_logger = logging.getLogger(__name__)


class AnnotationSource(Protocol):
    """Where submitted labels come from."""

    def annotations(self) -> Iterable[Annotation]:
        """All of them, of every annotator and case."""
        ...

    def label_map(self, annotation: Annotation) -> LabelMap:
        """The label of one; raises a ``MedaiError`` where it cannot be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorSummary:
    """One annotator.

    Attributes:
        name: who.
        cases: with a label.
        nodules: in them.
        quarantined: labels in quarantine.
        bias: in volume; None where nothing can be compared.
        overlap: with the others, or the model; None where nothing can be compared.
        staple: mean over nodules that others marked too; None without one.
    """

    name: str
    cases: int
    nodules: int
    quarantined: int
    bias: VolumeBias | None
    overlap: OverlapWithPeers | None
    staple: ReaderPerformance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorsReport:
    """How the annotators of a study agree.

    Attributes:
        annotators: by name.
        pairs: every two who share a case.
        ratings: weighted kappas.
        cases: with a label.
        shared_cases: that two or more people read.
        margin: of volume beyond which a bias is one.
        skipped: annotation id to the reason why it was not compared outline by outline.
    """

    annotators: tuple[AnnotatorSummary, ...]
    pairs: tuple[PairAgreement, ...]
    ratings: tuple[RatingAgreement, ...]
    cases: int
    shared_cases: int
    margin: float
    skipped: Mapping[str, str]

    def findings(self) -> tuple[str, ...]:
        """Who stands out and what to do about it, a sentence or two each; one that says so where nobody does."""
        found: list[str] = []
        for each in self.annotators:
            if each.bias is not None and each.bias.is_biased:
                found.append(_bias_words(each.name, each.bias, self.margin))
            if each.overlap is not None and each.overlap.is_outlier:
                found.append(_outlier_words(each.name, each.overlap))
        disputed = [each.name for each in self.annotators if each.bias is not None and each.bias.is_disputed]
        if disputed:
            found.append(
                f"{' and '.join(disputed)} differ in volume by more than {100 * self.margin:.0f} %, and nothing says "
                "whose outlines are right: have a third person read some of their cases."
            )
        if found:
            return tuple(found)
        judged = [each for each in self.annotators if _judged_cases(each) >= FEWEST_CASES]
        if not judged:
            return (
                f"Too little to judge anybody by: it takes {FEWEST_CASES} cases that somebody else or a model saw.",
            )
        return ("Nobody stands out.",)

    def to_json(self) -> dict[str, Any]:
        """The report for ``--json``; the interval of a bias in percent of the volume."""
        return {
            "annotators": [_annotator_json(each) for each in self.annotators],
            "pairs": [asdict(pair) for pair in self.pairs],
            "ratings": [asdict(rating) for rating in self.ratings],
            "cases": self.cases,
            "shared_cases": self.shared_cases,
            "margin_percent": 100 * self.margin,
            "findings": list(self.findings()),
            "skipped": dict(self.skipped),
        }


def compare_annotators(
    source: AnnotationSource,
    *,
    margin: float = BIAS_MARGIN,
    seed: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> AnnotatorsReport:
    """Compare everybody who submitted labels.

    Args:
        source: of the labels.
        margin: of volume, above 0 and below 1, beyond which a bias is one.
        seed: of the bootstrap.
        on_progress: called with cases done and cases in all.

    Raises:
        NotFoundError: there is no label.
        InputError: the margin is out of range.
    """
    latest = _latest(source.annotations())
    if not latest:
        raise NotFoundError("Nobody has submitted a label yet: there is nothing to compare.")
    skipped: dict[str, str] = {}
    nodules: list[ReadNodule] = []
    performances: dict[str, list[ReaderPerformance]] = {}
    by_case: dict[str, list[Annotation]] = {}
    for annotation in latest:
        by_case.setdefault(annotation.case_id, []).append(annotation)
    for done, (case_id, labels) in enumerate(by_case.items()):
        on_progress(done, len(by_case))
        maps = _label_maps(source, labels, skipped) if len(labels) > 1 else {}
        if len(maps) > 1:
            together = consensus(list(maps.values()))
            nodules += _read_nodules(case_id, maps, together)
            for nodule in together.nodules:
                for name, performance in zip(maps, nodule.readers, strict=True):
                    if performance is not None:
                        performances.setdefault(name, []).append(performance)
    on_progress(len(by_case), len(by_case))
    proposals = [found for annotation in latest if (found := _against_model(annotation)) is not None]
    rng = np.random.default_rng(seed)
    overlaps = {overlap.reader: overlap for overlap in overlaps_with_peers(nodules, proposals, rng)}
    outliers = {name for name, overlap in overlaps.items() if overlap.is_outlier and overlap.dice.mean < NO_PEER_DICE}
    biases = {bias.reader: bias for bias in volume_biases(nodules, proposals, rng, margin=margin, no_peers=outliers)}
    return AnnotatorsReport(
        annotators=tuple(
            _summary(name, latest, biases.get(name), overlaps.get(name), performances.get(name, ()))
            for name in sorted({_name(annotation) for annotation in latest})
        ),
        pairs=pair_agreements(nodules, rng),
        ratings=rating_agreements(nodules),
        cases=len(by_case),
        shared_cases=sum(len(labels) > 1 for labels in by_case.values()),
        margin=margin,
        skipped=skipped,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAnnotations:
    """The labels that a study keeps.

    Attributes:
        found: what was submitted, with the file of each.
        study: knows the names of the segments of the latest labels, where the history is older than its names.
    """

    found: Sequence[tuple[Annotation, Path]]
    study: StudyStore

    def annotations(self) -> Iterable[Annotation]:
        """All of them."""
        return [annotation for annotation, _ in self.found]

    def label_map(self, annotation: Annotation) -> LabelMap:
        """The kept label, its segments named as the annotator did where that is known."""
        path = next(path for known, path in self.found if known.annotation_id == annotation.annotation_id)
        if not annotation.segment_names and annotation.is_current:
            annotation = replace(annotation, segment_names=self._names(annotation))
        return read_recorded(self.study, annotation, path)

    def _names(self, annotation: Annotation) -> tuple[tuple[int, str], ...]:
        try:
            return named_segments(self.study.label_info(annotation.case_id, annotation.tag))
        except NotFoundError:
            return ()


def open_annotations(studies: Path) -> AnnotationSource:
    """The labels of a study folder with their history.

    Raises:
        NotFoundError: the folder is no study, or nobody has submitted a label to it.
        StorageError: the history cannot be read.
    """
    from medai.store.annotations import AnnotationLog, has_history

    if not has_history(studies):
        raise NotFoundError(f"{studies} holds no history of labels: serve it with medai and submit labels first.")
    log = AnnotationLog(studies)
    try:
        found = [(annotation, Path(log.path(annotation))) for annotation in log.all()]
    finally:
        log.close()
    return StudyAnnotations(found=found, study=StudyStore(studies, read_only=True))


def _latest(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Of each annotator and case the latest label; no model's proposal, no markups."""
    found: dict[tuple[str, str], Annotation] = {}
    for annotation in sorted(annotations, key=lambda a: (a.submitted_at_s, a.annotation_id)):
        if annotation.tag != ORIGINAL and not annotation.file_name.endswith(".json"):
            found[annotation.case_id, _name(annotation)] = annotation
    return [found[key] for key in sorted(found)]


def _name(annotation: Annotation) -> str:
    return annotation.annotator or UNNAMED


def _label_maps(
    source: AnnotationSource, annotations: Sequence[Annotation], skipped: dict[str, str]
) -> dict[str, LabelMap]:
    """The usable labels of one case by annotator, all of the grid that most of them have."""
    maps: dict[str, LabelMap] = {}
    ids = {_name(annotation): annotation.annotation_id for annotation in annotations}
    for annotation in annotations:
        try:
            label_map = source.label_map(annotation)
        except MedaiError as error:
            skipped[annotation.annotation_id] = str(error)
            continue
        parts = len(label_parts(label_map.labels != 0))
        if parts > MOST_PARTS:
            skipped[annotation.annotation_id] = f"It is in {parts} parts: noise, not an outline."
            continue
        maps[_name(annotation)] = label_map
    alike = {
        name: [other for other, m in maps.items() if m.geometry.is_same_grid(label_map.geometry)]
        for name, label_map in maps.items()
    }
    kept = max(alike.values(), key=len, default=[])
    for name in maps.keys() - set(kept):
        skipped[ids[name]] = f"It lies on another grid than the others' labels: {maps[name].geometry.describe()}."
    for annotation_id, reason in skipped.items():
        if annotation_id in ids.values():
            _logger.info("annotation %s is not compared: %s", annotation_id, reason)
    return {name: maps[name] for name in maps if name in kept}


def _read_nodules(case_id: str, maps: Mapping[str, LabelMap], together: Consensus) -> list[ReadNodule]:
    """Nodules of one case with their outlines and the ratings that the annotators typed into segments' names."""
    typed = {name: {s.value: ratings_in_name(s.name) for s in label_map.segments} for name, label_map in maps.items()}
    found = []
    for nodule in together.nodules:
        of_reader = dict(zip(maps, nodule.matched.values, strict=True))
        found.append(
            ReadNodule(
                case_id=case_id,
                readers=tuple(maps),
                masks={n: mask for n, mask in zip(maps, nodule.matched.masks, strict=True) if mask is not None},
                ratings={
                    name: {k: v for value in values for k, v in typed[name].get(value, {}).items()}
                    for name, values in of_reader.items()
                    if values
                },
            )
        )
    return found


def _against_model(annotation: Annotation) -> ProposalComparison | None:
    """What the correction says; None without a proposal."""
    correction = annotation.correction
    if correction is None:
        return None
    before_ml = annotation.volume_ml - correction.volume_change_ml
    is_same = correction.nodules_added == correction.nodules_removed == 0 and min(before_ml, annotation.volume_ml) > 0
    return ProposalComparison(
        case_id=annotation.case_id,
        reader=_name(annotation),
        dice=correction.dice,
        log_volume_ratio=math.log(annotation.volume_ml / before_ml) if is_same else None,
    )


def _summary(
    name: str,
    latest: Sequence[Annotation],
    bias: VolumeBias | None,
    overlap: OverlapWithPeers | None,
    performances: Sequence[ReaderPerformance],
) -> AnnotatorSummary:
    own = [annotation for annotation in latest if _name(annotation) == name]
    staple = None
    if performances:
        staple = ReaderPerformance(
            sensitivity=float(np.mean([p.sensitivity for p in performances])),
            specificity=float(np.mean([p.specificity for p in performances])),
        )
    return AnnotatorSummary(
        name=name,
        cases=len(own),
        nodules=sum(annotation.nodules for annotation in own),
        quarantined=sum(bool(annotation.quarantine_reason) for annotation in own),
        bias=bias,
        overlap=overlap,
        staple=staple,
    )


def _judged_cases(each: AnnotatorSummary) -> int:
    return max(
        each.bias.log_ratio.patients if each.bias is not None else 0,
        each.overlap.dice.patients if each.overlap is not None else 0,
    )


def _bias_words(name: str, bias: VolumeBias, margin: float) -> str:
    mean, low, high = bias.percent
    against = "the other annotators" if bias.against_peers else "the model's proposals"
    if bias.against_peers and bias.against_model:
        against = "the other annotators and the model's proposals"
    return (
        f"{name} outlines too {'large' if mean > 0 else 'small'}: volumes are {mean:+.0f} % off (95 % interval "
        f"{low:+.0f} to {high:+.0f} %, margin {100 * margin:.0f} %) against {against}. Look at some of these outlines "
        "together, and flag or correct them before the next training."
    )


def _outlier_words(name: str, overlap: OverlapWithPeers) -> str:
    return (
        f"{name} labels something else than the others: mean Dice {overlap.dice.mean:.2f}, where others have "
        f"{overlap.limit or 0:.2f} at least. Review these labels, and flag those that are wrong: flagged labels do not "
        "train."
    )


def _annotator_json(each: AnnotatorSummary) -> dict[str, Any]:
    row = asdict(each)
    if each.bias is not None:
        mean, low, high = each.bias.percent
        row["bias"] |= {"percent": mean, "percent_low": low, "percent_high": high}
    return row
