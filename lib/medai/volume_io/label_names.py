"""Which name belongs to which voxel value of an uploaded label map.

The Slicer plugin exports its segments in order, so that the n-th saved segment has value n, empty ones included. Beside
the file it sends ``label_info`` with one entry a saved segment in the same order, but its ``idx`` counts all segments
of the scene, scribbles included: idx is not the voxel value. Stock MONAI Label stores that idx as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medai.errors import InputError

SCRIBBLES = frozenset({"background", "foreground_scribbles", "background_scribbles"})
"""Segments of the plugin's own tools; no findings."""

_NOTHING_FOUND = frozenset({"no nodule", "no nodules", "no finding", "no findings"})
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedValue:
    """One entry of ``label_info``: a name, and ``idx`` as the client counts, if it gave one."""

    name: str
    idx: int | None


def read_label_info(params: Mapping[str, Any]) -> list[NamedValue]:
    """The entries of ``label_info`` in the form fields of an upload; empty where there is none.

    Raises:
        InputError: it is something else than a list of ``{"name": …, "idx": …}``.
    """
    entries = params.get("label_info")
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(
        isinstance(e, Mapping) and isinstance(e.get("name"), str) for e in entries
    ):
        raise InputError(f'label_info must be a list of {{"name": "…", "idx": 1}}, it is {ascii(entries)[:200]}.')
    return [NamedValue(name=entry["name"], idx=_index(entry)) for entry in entries]


def name_values(present: Sequence[int], label_info: Sequence[NamedValue]) -> dict[int, str]:
    """Give each value that occurs its name.

    Entries are taken by order, as the plugin means them, where idx rises (or is missing) and there is an entry for
    every value. Otherwise idx is taken for the voxel value, as other clients mean it.

    Args:
        present: the values in the voxels, rising.
        label_info: what the client said.

    Returns:
        Value to name.

    Raises:
        InputError: a value has no name either way.
    """
    indices = [entry.idx for entry in label_info]
    given = [idx for idx in indices if idx is not None]
    rises = all(a < b for a, b in itertools.pairwise(given))
    if rises and max(present, default=0) <= len(label_info):
        return {value: label_info[value - 1].name for value in present}
    by_index = {entry.idx: entry.name for entry in label_info}
    if len(given) == len(set(given)) == len(label_info) and set(present) <= set(given):
        return {value: by_index[value] for value in present}
    names = ", ".join(f"{entry.name} ({entry.idx})" for entry in label_info) or "none"
    raise InputError(
        f"The label has the voxel values {_shortened(present)}, but label_info names {len(label_info)} segments: "
        f"{names}. Send one entry a segment, in the order of the values."
    )


def says_nothing_found(names: Sequence[str], params: Mapping[str, Any]) -> bool:
    """True where the annotator said that the scan has no nodule: a segment of that name, or ``no_findings``."""
    plain = {" ".join(name.casefold().replace("_", " ").replace("-", " ").split()) for name in names}
    return bool(plain & _NOTHING_FOUND) or params.get("no_findings") is True


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names in one line each, none empty, none twice: "Nodule", "Nodule (2)"."""
    used: dict[str, int] = {}
    result = []
    for number, name in enumerate(names, start=1):
        plain = " ".join(name.split())[:_LONGEST_NAME] or f"label_{number}"
        used[plain] = used.get(plain, 0) + 1
        candidate = plain if used[plain] == 1 else f"{plain} ({used[plain]})"
        while candidate in result:
            used[plain] += 1
            candidate = f"{plain} ({used[plain]})"
        result.append(candidate)
    return result


def _index(entry: Mapping[str, Any]) -> int | None:
    idx = entry.get("idx", entry.get("id"))
    if idx is None or (isinstance(idx, int) and not isinstance(idx, bool)):
        return idx
    raise InputError(f"idx in label_info is a whole number, it is {ascii(idx)[:60]} for '{entry['name'][:60]}'.")


def _shortened(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:12])
    return shown if len(values) <= 12 else f"{shown} … ({len(values)} values)"
