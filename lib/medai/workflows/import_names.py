"""Case ids for scans that were found in folders: telling, distinct, and without a patient's name.

A volume file gives its own name to its case. Where that says nothing (``s0001/ct.nii.gz``) or several files have it,
the folder gives the name: ``s0001``; where the folder holds several such scans, both do: ``s0001_ct`` and
``s0001_image``. Where folders of one name repeat too (``p1/nifti/ct.nii.gz``), so many of those above them join in as
tell them apart. The ids depend on what is found, not on the order in which it was given.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

LONGEST_NAME = 80

_GENERIC = re.compile(
    r"((the|my|new|chest|lung|thorax|original|orig|raw|input|case|ct|cta|scans?|images?|imgs?|imaging|volumes?|vol|data|"
    r"dicom|dcm|nifti|nii|nrrd|mha|series|output|converted|export|files?)[._ -]*)+(0000)?",
    re.IGNORECASE,
)
"""Words that nearly every scan could be called, alone or together; ``0000`` is nnU-Net's first channel."""

_PERSON = re.compile(r"[^\W\d_]{2,}\^+[^\W\d_]|\^[^\W\d_]{2,}|[^\W\d_]{2,},\s*[^\W\d_]{2,}")
"""A name as DICOM writes it, ``Doe^John``, or as lists do, ``Doe, John``."""


def safe_name(name: str, secrets: Collection[str] = ()) -> str:
    """Letters, digits, dot, - and _ of a name, without the words in ``secrets``; "" where a person's name is in it."""
    if looks_like_a_person(name):
        return ""
    for secret in sorted(secrets, key=len, reverse=True):
        name = re.sub(re.escape(secret), " ", name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return re.sub(r"__+", "_", name).strip("._-")[:LONGEST_NAME]


def looks_like_a_person(name: str) -> bool:
    """Whether a name is written as a patient's is: it becomes no case id, which appears in logs and web addresses."""
    return bool(_PERSON.search(name))


def is_generic(name: str) -> bool:
    """Whether a name tells one scan from another as little as ``ct`` does."""
    return bool(_GENERIC.fullmatch(name))


def names_of_files(paths: Sequence[Path], stems: Sequence[str], *, given: Collection[Path] = ()) -> list[str]:
    """A wish for each file's case id, "" where neither it nor a folder gives one.

    Args:
        paths: the files.
        stems: their names without endings.
        given: files that were named one by one: alone of its name, such a one keeps it even where it says little.
    """
    names = [safe_name(stem) for stem in stems]
    counts = Counter(name.lower() for name in names)
    by_folder = [
        index
        for index, name in enumerate(names)
        if not name or counts[name.lower()] > 1 or (is_generic(name) and paths[index] not in given)
    ]
    folders = {index: _telling_folders(paths[index]) for index in by_folder}
    together = Counter(paths[index].parent for index in by_folder)
    stem = {index: names[index] if together[paths[index].parent] > 1 else "" for index in by_folder}
    kept = {name.lower() for index, name in enumerate(names) if index not in folders}
    depth = dict.fromkeys(by_folder, 1)
    while True:
        wishes = {index: _joined(folders[index][-depth[index] :], stem[index]) for index in by_folder}
        alike: dict[str, list[int]] = {}
        for index, wish in wishes.items():
            alike.setdefault(wish.lower(), []).append(index)
        unclear = [
            index
            for wish, group in alike.items()
            # Files of one folder are not told apart by the folders above it.
            if len({tuple(folders[index]) for index in group}) > 1 or wish in kept
            for index in group
            if depth[index] < len(folders[index])
        ]
        if not unclear:
            return [wishes.get(index) or name for index, name in enumerate(names)]
        for index in unclear:
            depth[index] += 1


def _telling_folders(path: Path) -> list[str]:
    """The folders above a file whose names may become a case id, the nearest last."""
    # Without resolving links: whoever made a folder of links has named them.
    parts = Path(os.path.abspath(path)).parent.parts[1:]  # noqa: PTH100  # Path.absolute keeps "..".
    return [name for name in map(safe_name, parts) if name and not is_generic(name)]


def _joined(folders: Iterable[str], stem: str) -> str:
    return "_".join([*folders, *([stem] if stem else [])])[-LONGEST_NAME:].strip("._-")
