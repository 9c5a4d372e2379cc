"""Marks of a detector on many scans, kept as they are found, so that a run of hours can be stopped and gone on with.

Two files: ``<marks>`` is a LUNA16 submission, written when all scans are done. ``<marks>.scans.jsonl`` is the record of
our own run: first the model, then a line a scan, last the digest of the submission that was written of it. A submission
without that record, or one that was changed since, is somebody's own: it is scored as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medai.errors import InputError, StorageError
from medai.evaluation.froc import Mark
from medai.workflows.luna16 import read_marks, write_marks

RECORD_ENDING = ".scans.jsonl"


def foreign_marks(path: Path) -> dict[str, list[Mark]] | None:
    """The marks of a file that no run of ours has written as it is now; None where there is none.

    Raises:
        InputError: it is no list of marks.
    """
    if not path.is_file():
        return None
    lines = _lines(_record_of(path))
    if lines and lines[-1].get("submission_sha256") == _digest(path):
        return None
    return read_marks(path)


class MarksCache:
    """The record of one run.

    Args:
        path: of the submission.
        model: what finds the marks; a record of another model is refused.

    Raises:
        InputError: the record is of another model, or damaged.
    """

    def __init__(self, path: Path, model: Mapping[str, Any]) -> None:
        self._path = path
        self._record = _record_of(path)
        self.marks: dict[str, list[Mark]] = {}
        lines = _lines(self._record)
        if not lines:
            self._append({"model": dict(model)})
            return
        if lines[0].get("model") != dict(model):
            raise InputError(
                f"{path.name} holds marks of another model ({_name(lines[0].get('model'))}), this is {_name(model)}. "
                f"Name another file; or remove {self._record.name} to score those marks as they are."
            )
        try:
            for line in lines:
                if "scan" in line:
                    self.marks[str(line["scan"])] = [
                        Mark(centre_ras_mm=(float(x), float(y), float(z)), probability=float(p))
                        for x, y, z, p in line["marks_ras_mm"]
                    ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self._record} is damaged ({error}): remove it to begin anew.") from error

    def add(self, scan: str, marks: Sequence[Mark]) -> None:
        """Keep the marks of a scan."""
        self.marks[scan] = list(marks)
        self._append({"scan": scan, "marks_ras_mm": [[*mark.centre_ras_mm, mark.probability] for mark in marks]})

    def finish(self) -> None:
        """Write the submission."""
        write_marks(self._path, self.marks)
        self._append({"submission_sha256": _digest(self._path)})

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            with self._record.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(
                f"{self._record} could not be written: {error.strerror}. Name a file in a folder you can write to."
            ) from error


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + RECORD_ENDING)


def _lines(record: Path) -> list[dict[str, Any]]:
    """The lines of a record; a last one that was cut off by a kill is passed over."""
    if not record.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for text in record.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(model: object) -> str:
    if not isinstance(model, Mapping):
        return "unknown"
    return f"{model.get('version_id', '?')}, {str(model.get('weights_sha256', ''))[:8]}"
