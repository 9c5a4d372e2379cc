"""What leaves a study: of every case the label that was accepted, and why the others stay behind.

The same labels that train: none in quarantine, none that a reviewer has flagged, none of a case whose readers hardly
overlap. Where several people have read a case, what they say together leaves (``labelled_nodules.joined_outline``).
A label that lies otherwise than its scan does, cropped or with its axes turned, leaves as a copy on the scan's grid;
the study's own files stay as they are. Copies are kept in ``.medai/accepted``, below the digest of what they were made
of.

Threads: two calls at once write the same files, whole.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medai.domain import LabelMap
from medai.domain.annotation import Annotation
from medai.errors import InputError, MedaiError, StorageError
from medai.postprocessing.consensus import Consensus
from medai.store.annotation_files import sha256_of_file
from medai.store.annotations import AnnotationLog, has_history
from medai.store.layout import state_folder
from medai.store.study import FINAL, StudyStore
from medai.volume_io.atomic import disk_words
from medai.volume_io.readers import read_geometry
from medai.volume_io.writers import write_label_map
from medai.workflows.doubted_labels import doubted_labels
from medai.workflows.labelled_nodules import joined_outline
from medai.workflows.submitted_label import read_recorded, read_submitted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedLabel:
    """The label of a case as it leaves.

    Attributes:
        case_id: the case.
        image_path: the scan.
        label_path: the label, on the scan's grid.
        readers: whose labels it was made of; a name is "" where nobody said.
        method: how, in words.
        segments: voxel value, name, and what each reader named it where there are several; empty where that is unknown.
    """

    case_id: str
    image_path: Path
    label_path: Path
    readers: tuple[str, ...] = ()
    method: str = "the label of one reader"
    segments: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedLabels:
    """What leaves a study.

    Attributes:
        labels: by case.
        left_out: labelled case to the reason why its label stays behind.
    """

    labels: tuple[AcceptedLabel, ...]
    left_out: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class _Sources:
    """What is known of the labels: the latest of each case, and those that count where several people have read it."""

    log: AnnotationLog | None = None
    latest: dict[str, Annotation] = field(default_factory=dict)
    opinions: dict[str, tuple[Annotation, ...]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def accepted_labels(study: StudyStore) -> AcceptedLabels:
    """Find the label of every case that was accepted.

    Raises:
        StorageError: the history cannot be read, or a copy cannot be written.
    """
    doubts = doubted_labels(study.folder)
    counting = study.counting_labels(FINAL, without=doubts.elsewhere)
    log = AnnotationLog(study.folder) if has_history(study.folder) else None
    try:
        sources = _Sources(log=log)
        if log is not None:
            found = log.opinions(FINAL, without=doubts.elsewhere)
            sources.opinions = {case_id: found[case_id] for case_id in counting if case_id in found}
            sources.latest = {each.case_id: each for each in log.all() if each.is_current and each.tag == FINAL}
        left_out = {c: why for c, why in study.withheld_labels(FINAL).items() if c not in sources.opinions}
        left_out |= {case_id: doubt.reason for case_id, doubt in doubts.of_case.items() if not doubt.may_train}
        labels = []
        for case_id in study.labeled(FINAL):
            if case_id in left_out:
                continue
            try:
                labels.append(_accepted(study, case_id, sources))
            except StorageError:
                raise
            except MedaiError as error:
                left_out[case_id] = str(error)
    finally:
        if log is not None:
            log.close()
    _forget_others(_copies(study), sources.used)
    labelled = set(study.labeled(FINAL))
    return AcceptedLabels(labels=tuple(labels), left_out={c: w for c, w in left_out.items() if c in labelled})


def _accepted(study: StudyStore, case_id: str, sources: _Sources) -> AcceptedLabel:
    opinions = [each for each in sources.opinions.get(case_id, ()) if not each.file_name.endswith(".json")]
    if len(opinions) > 1:
        return _joined(study, case_id, opinions, sources)
    latest, path = sources.latest.get(case_id), study.label_path(case_id, FINAL)
    if opinions and sources.log is not None and (latest is None or opinions[0].annotation_id != latest.annotation_id):
        # The latest label does not count: the one of another reader does.
        latest, path = opinions[0], sources.log.path(opinions[0])
        label_map = read_recorded(study, latest, path)
        path = _written(study, case_id, [latest.sha256], label_map, sources)
        return _single(study, case_id, path, latest, label_map.segments)
    if path.suffix == ".json":
        raise InputError(f"{path.name} is a detection markup, not an outline.")
    if path.name.endswith(".nii.gz") and _lies_as_its_scan(study, case_id, path):
        return _single(study, case_id, path, latest, ())
    label = read_submitted(study, case_id)
    if label.is_unfinished:
        raise InputError("It holds no labelled voxel, and does not say that there is no nodule.")
    copy = _written(study, case_id, [sha256_of_file(path)], label.label_map, sources)
    return _single(study, case_id, copy, latest, label.label_map.segments)


def _lies_as_its_scan(study: StudyStore, case_id: str, path: Path) -> bool:
    """By the headers; what cannot be read at all is withheld by the history, which has tried to."""
    try:
        return read_geometry(path).is_same_grid(read_geometry(study.image_path(case_id)))
    except InputError:
        return True


def _single(
    study: StudyStore, case_id: str, path: Path, annotation: Annotation | None, segments: Sequence[Any]
) -> AcceptedLabel:
    """One reader's label; without ``segments`` its values are the file's own, as the history names them."""
    named = [(segment.value, segment.name) for segment in segments]
    if not named and annotation is not None:
        named = list(annotation.segment_names)
    return AcceptedLabel(
        case_id=case_id,
        image_path=study.image_path(case_id),
        label_path=path,
        readers=(annotation.annotator,) if annotation is not None else (),
        segments=tuple({"value": value, "name": name} for value, name in named),
    )


def _joined(study: StudyStore, case_id: str, opinions: Sequence[Annotation], sources: _Sources) -> AcceptedLabel:
    """What several readers say together."""
    if sources.log is None:
        raise InputError(f"The history of case '{case_id}' is gone.")
    label_maps = [read_recorded(study, each, sources.log.path(each)) for each in opinions]
    outline, together = joined_outline(label_maps)
    readers = tuple(each.annotator for each in opinions)
    path = _written(study, case_id, [each.sha256 for each in opinions], outline, sources)
    is_pair = len(opinions) == 2
    segments = [{"value": segment.value, "name": segment.name} for segment in outline.segments]
    if together is not None and not is_pair:
        for row, words in zip(segments, _names_of_readers(together, label_maps, readers), strict=True):
            row["names_of_readers"] = words
    return AcceptedLabel(
        case_id=case_id,
        image_path=study.image_path(case_id),
        label_path=path,
        readers=readers,
        method=f"the later label of 2 readers who agree: {readers[-1]}" if is_pair else f"majority of {len(readers)}",
        segments=tuple(segments),
    )


def _names_of_readers(
    together: Consensus, label_maps: Sequence[LabelMap], readers: Sequence[str]
) -> list[dict[str, list[str]]]:
    """What each reader named the nodules of the majority, ratings included."""
    names = [{segment.value: segment.name for segment in label_map.segments} for label_map in label_maps]
    return [
        {
            reader: [own[value] for value in values if value in own]
            for reader, own, values in zip(readers, names, nodule.matched.values, strict=True)
        }
        for nodule in together.nodules
        if nodule.majority.any()
    ]


def _copies(study: StudyStore) -> Path:
    return state_folder(study.folder) / "accepted"


def _written(
    study: StudyStore, case_id: str, sources_sha256: Sequence[str], label_map: LabelMap, sources: _Sources
) -> Path:
    """A label as a file of its own, made anew where it was made of something else."""
    words = [*sources_sha256, *(f"{segment.value} {segment.name}" for segment in label_map.segments)]
    digest = hashlib.sha256("\n".join([*words, label_map.geometry.describe()]).encode()).hexdigest()[:24]
    sources.used.add(digest)
    path = _copies(study) / digest / f"{case_id}.nii.gz"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"Cannot make {path.parent}: {disk_words(error)}.") from error
        write_label_map(label_map, path)
    return path


def _forget_others(folder: Path, used: set[str]) -> None:
    """Remove the copies of labels that are others now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
