"""Changes to a study's index, as pure functions: each returns a copy that shares what did not change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medai.errors import InputError
from medai.store.atomic import plain_json
from medai.store.snapshot import StudyCase
from medai.store.study_index import RawIndex

LARGEST_INFO_BYTES = 512 << 10
"""Of one scan or label: the index is read whole, and written whole at every change."""


def entry_view(entry: Mapping[str, Any], case: StudyCase) -> dict[str, Any]:
    """The index's entry of a case as it really is on disk."""
    image = {**entry["image"], "ext": case.extension, "info": dict(case.info)}
    labels = {
        tag: {**entry["labels"][tag], "ext": label.extension, "info": dict(label.info)}
        for tag, label in case.labels.items()
    }
    return {**entry, "image": image, "labels": labels}


def _with_entry(raw: RawIndex, case_id: str, entry: Mapping[str, Any]) -> RawIndex:
    return {**raw, "objects": {**raw["objects"], case_id: dict(entry)}}


def check_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return what is known about a scan or a label.

    Raises:
        InputError: it is more than the index takes of one.
    """
    if len(json.dumps(info)) > LARGEST_INFO_BYTES:
        raise InputError(
            f"What is known about it would take more than {LARGEST_INFO_BYTES >> 10} KB, the most that is kept of one "
            "scan or label. Nothing was stored: send less."
        )
    return info


def with_image_info(raw: RawIndex, case_id: str, info: Mapping[str, Any]) -> RawIndex:
    """The index with more known about an image."""
    entry = raw["objects"][case_id]
    known = check_info({**(entry["image"].get("info") or {}), **plain_json(dict(info))})
    image = {**entry["image"], "info": known}
    return _with_entry(raw, case_id, {**entry, "image": image})


def with_label(raw: RawIndex, case_id: str, tag: str, extension: str, info: Mapping[str, Any]) -> RawIndex:
    """The index with a label added or replaced."""
    entry = raw["objects"][case_id]
    labels = entry.get("labels", {})
    label = {**labels.get(tag, {}), "ext": extension, "info": dict(info)}
    return _with_entry(raw, case_id, {**entry, "labels": {**labels, tag: label}})


def with_label_info(raw: RawIndex, case_id: str, tag: str, info: Mapping[str, Any]) -> RawIndex:
    """The index with more known about a label."""
    label = raw["objects"][case_id]["labels"][tag]
    merged = check_info({**(label.get("info") or {}), **plain_json(dict(info))})
    return with_label(raw, case_id, tag, label.get("ext", ""), merged)


def without_label(raw: RawIndex, case_id: str, tag: str) -> RawIndex:
    """The index without a label."""
    entry = raw["objects"][case_id]
    labels = {known: label for known, label in entry.get("labels", {}).items() if known != tag}
    return _with_entry(raw, case_id, {**entry, "labels": labels})
