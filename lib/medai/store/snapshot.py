"""What a study holds at one moment: its index laid over the files that are really there.

A scan dropped into the folder is a case at once; a file that has gone hides its entry without deleting it (a network
share may only be away), which is where stock MONAI Label forgets the label's info for good.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medai.errors import InputError
from medai.store.names import LABEL_EXTENSIONS, check_case_id, find_extension
from medai.store.study_index import RawIndex

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyLabel:
    """One label of a case.

    Attributes:
        extension: of its file.
        info: what is known about it.
        rivals: names of other label maps that lie there for the same case and tag.
    """

    extension: str
    info: Mapping[str, Any]
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCase:
    """One scan of the study with its labels by tag."""

    case_id: str
    extension: str
    info: Mapping[str, Any]
    labels: Mapping[str, StudyLabel]

    @property
    def file_name(self) -> str:
        """The scan's file name."""
        return self.case_id + self.extension


_NO_ENTRY: Mapping[str, Any] = {"image": {}}


@dataclass(frozen=True, slots=True)
class _Former:
    """A case with all that it was made from."""

    entry: Mapping[str, Any]
    files: tuple[object, ...]
    case: StudyCase


class SnapshotBuilder:
    """Lays the index over the files, again after each change; what did not change is taken over.

    A label more in a study of 2,000 scans costs 4 ms so, and 20 ms from the beginning. Not thread-safe by itself.

    Args:
        extensions: what makes a file a scan.
    """

    def __init__(self, extensions: Sequence[str]) -> None:
        self._extensions = tuple(extensions)
        self._image_names: frozenset[str] | None = None
        self._found: dict[str, str] = {}
        self._former: dict[str, _Former] = {}

    def build(
        self, raw: RawIndex, *, image_names: frozenset[str], label_names: Mapping[str, frozenset[str]]
    ) -> dict[str, StudyCase]:
        """The study as it is now.

        Args:
            raw: the index; an entry that is the same object as before is taken as unchanged.
            image_names: file names in the images folder.
            label_names: file names in the folder of each tag.

        Returns:
            The cases by id, sorted by id; a new dictionary.
        """
        if image_names is not self._image_names:
            self._found, self._image_names = _found_images(image_names, self._extensions), image_names
        objects = raw["objects"]
        image_extensions = self._found | {
            case_id: entry["image"].get("ext", "")
            for case_id, entry in objects.items()
            if case_id + entry["image"].get("ext", "") in image_names and _is_valid(case_id)
        }
        found_labels = _found_labels(label_names, image_extensions)
        former, self._former, cases = self._former, {}, {}
        for case_id in sorted(image_extensions):
            entry, found = objects.get(case_id, _NO_ENTRY), found_labels.get(case_id, {})
            extension, indexed = image_extensions[case_id], _indexed(case_id, entry, label_names)
            files, known = (extension, found, indexed), former.get(case_id)
            if known is None or known.entry is not entry or known.files != files:
                case = StudyCase(
                    case_id=case_id,
                    extension=extension,
                    info=_info(entry["image"], case_id + extension),
                    labels=_labels(case_id, entry, found, indexed),
                )
                known = _Former(entry, files, case)
            self._former[case_id], cases[case_id] = known, known.case
        return cases


def with_found_files(raw: RawIndex, cases: Mapping[str, StudyCase]) -> RawIndex:
    """A copy of the index that also records what was only found on disk."""
    objects = dict(raw["objects"])
    for case_id, case in cases.items():
        entry = objects.get(case_id)
        if entry is None:
            entry = {"image": {"ext": case.extension, "info": dict(case.info)}, "labels": {}}
        elif entry["image"].get("ext", "") != case.extension:
            entry = {**entry, "image": {**entry["image"], "ext": case.extension, "info": dict(case.info)}}
        known = entry.get("labels", {})
        changed = {
            tag: {**known.get(tag, {}), "ext": label.extension, "info": dict(label.info)}
            for tag, label in case.labels.items()
            if tag not in known or known[tag].get("ext", "") != label.extension
        }
        if changed:
            entry = {**entry, "labels": {**known, **changed}}
        objects[case_id] = entry
    return {**raw, "objects": objects}


def _found_images(names: frozenset[str], extensions: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(names):
        split = find_extension(name, extensions)
        # A segmentation that lies beside the scans is no scan.
        if split is None or name.lower().endswith(".seg.nrrd"):
            continue
        case_id, extension = split
        if case_id in found:
            _logger.warning("two files are scan %s: using %s, not %s", case_id, case_id + found[case_id], name)
        elif _is_valid(case_id):
            found[case_id] = extension
    return found


def _found_labels(
    label_names: Mapping[str, frozenset[str]], case_ids: Mapping[str, str]
) -> dict[str, dict[str, list[str]]]:
    """The extensions of the labels' files by case and tag; outlines before boxes, else by name."""
    found: dict[str, dict[str, list[str]]] = {}
    for tag, names in label_names.items():
        for name in sorted(names, key=lambda name: (name.endswith(".json"), name)):
            for extension in LABEL_EXTENSIONS:
                case_id = name[: -len(extension)]
                if name.endswith(extension) and case_id in case_ids:
                    found.setdefault(case_id, {}).setdefault(tag, []).append(extension)
                    break
    return found


def _indexed(case_id: str, entry: Mapping[str, Any], label_names: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The tags whose file is there as the index names it."""
    labels = entry.get("labels")
    if not labels:
        return ()
    return tuple(tag for tag, label in labels.items() if case_id + label.get("ext", "") in label_names.get(tag, ()))


def _labels(
    case_id: str, entry: Mapping[str, Any], found: Mapping[str, Sequence[str]], indexed: Sequence[str]
) -> dict[str, StudyLabel]:
    """The labels of a case by tag: the file that the index names where it is there, else the first that was found."""
    labels = {}
    for tag in dict.fromkeys((*found, *indexed)):
        extensions, record = found.get(tag, ()), entry["labels"][tag] if tag in indexed else {}
        extension = record["ext"] if "ext" in record else extensions[0]
        rivals = tuple(case_id + other for other in extensions if other not in (extension, ".json"))
        labels[tag] = StudyLabel(extension=extension, info=_info(record, case_id + extension), rivals=rivals)
    return labels


def _info(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"ts": int(time.time()), **(record.get("info") or {}), "name": name}


def unusable_scan(name: str, extensions: Sequence[str]) -> str:
    """Why a file in the study's folder is no case though it ends like a scan; "" where there is no such reason."""
    split = find_extension(name, extensions)
    if split is None or name.lower().endswith(".seg.nrrd"):
        return ""
    try:
        check_case_id(split[0])
    except InputError as error:
        return f"{error} Rename the file {name!a}."
    return ""


@functools.lru_cache(maxsize=1 << 16)
def _is_valid(case_id: str) -> bool:
    """Asked for every scan whenever the folder changes; cached, it also warns but once."""
    try:
        check_case_id(case_id)
    except InputError as error:
        _logger.warning("a scan in the study folder cannot be served: %s", error)
        return False
    return True
