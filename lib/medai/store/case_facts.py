"""What ``medai import`` knows of each case: where it came from, whose it is, and its header's facts.

``<study>/.medai/cases/<case id>.json``, one small file a case, without identifiers. ``origin`` says which scan it is
(a hash), so that importing it again, under whatever name, finds the case that is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medai.store.atomic import delete
from medai.store.layout import state_folder
from medai.store.names import check_case_id
from medai.store.split import CASES_FOLDER


def facts_folder(studies: Path) -> Path:
    """Where the facts of a study's cases lie."""
    return state_folder(studies) / CASES_FOLDER


def facts_path(studies: Path, case_id: str) -> Path:
    """The file of a case's facts."""
    return facts_folder(studies) / f"{check_case_id(case_id)}.json"


def read_facts(studies: Path, case_id: str) -> dict[str, Any]:
    """The facts of a case; empty where there are none or they cannot be read."""
    return _read(facts_path(studies, case_id))


def forget_facts(studies: Path, case_id: str) -> None:
    """Delete the facts of a case: another scan under its id is another patient's."""
    delete(facts_path(studies, case_id))


def facts_changed_s(studies: Path, case_id: str) -> float:
    """When the facts of a case were written, seconds since 1970; infinite where there are none."""
    try:
        return facts_path(studies, case_id).stat().st_mtime
    except OSError:
        return float("inf")


def origins_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Every hash by which the scan of these facts is known: its origin, its files', and that of its voxels."""
    others = facts.get("also")
    found = [facts.get("origin"), *(others if isinstance(others, list) else [])]
    return tuple(str(each) for each in found if each)


def case_of_origin(studies: Path, case_ids: set[str] | frozenset[str]) -> dict[str, str]:
    """Origin to case id of the cases that were imported.

    Args:
        studies: the study folder.
        case_ids: the cases that are there; facts of one that is gone say nothing.
    """
    found: dict[str, str] = {}
    for path in sorted(facts_folder(studies).glob("*.json")):
        if path.stem in case_ids:
            for origin in origins_of(_read(path)):
                found.setdefault(origin, path.stem)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
