"""The scores of a whole pool as columns: what a choice among 20,000 cases is made from in milliseconds.

A row is a case; the candidates of all rows lie one after the other, those of row r from ``starts[r]`` to
``starts[r + 1]``. Numbers that are not known are NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain.case_score import CandidateScore, CaseScore, version_key
from medai.errors import InputError

CANDIDATE_COLUMNS = (
    "x_ras_mm",
    "y_ras_mm",
    "z_ras_mm",
    "diameter_mm",
    "volume_ml",
    "probability",
    "malignancy",
    "entropy",
    "mutual_information",
    "test_time_variation",
    "outline_doubt",
)
"""The numbers of one candidate, in the order in which they are packed."""

_NO_FLOATS = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedScore:
    """One case as it is kept: the candidates as one block of numbers.

    Attributes:
        case_id: the case.
        version_key: the models, see ``domain.case_score.version_key``.
        scored_at_s: when, seconds since 1970.
        numbers: float32, one row of ``CANDIDATE_COLUMNS`` a candidate, as bytes.
        classes: the candidates' predicted classes, joined by line feeds; "" for none.
        embedding: float32 as bytes; empty for none.
        expected_minutes: of the annotation.
        disagreement: 0–1; NaN where it is not known.
    """

    case_id: str
    version_key: str
    scored_at_s: float
    numbers: bytes
    classes: str
    embedding: bytes
    expected_minutes: float
    disagreement: float

    @classmethod
    def of(cls, score: CaseScore) -> PackedScore:
        """Pack a score."""
        rows = [_numbers(candidate) for candidate in score.candidates]
        return cls(
            case_id=score.case_id,
            version_key=score.version_key,
            scored_at_s=score.scored_at_s,
            numbers=np.asarray(rows, dtype="<f4").tobytes(),
            classes="\n".join(candidate.predicted_class.replace("\n", " ") for candidate in score.candidates),
            embedding=b"" if score.embedding is None else np.asarray(score.embedding, dtype="<f4").tobytes(),
            expected_minutes=score.expected_minutes,
            disagreement=_or_nan(score.disagreement),
        )


class ScoreTable:
    """The scores of many cases; never changed once it is made.

    Attributes:
        case_ids: one a row.
        version_keys: the models that looked at each.
        scored_at_s: float64, when.
        expected_minutes: float64, of the annotation.
        disagreement: float64, NaN where not known.
        starts: int64, rows + 1: where each row's candidates begin.
        columns: float32 by name of ``CANDIDATE_COLUMNS``, one number a candidate.
        class_names: predicted classes that occur.
        class_codes: int64, which of them each candidate is.
        embedding: float32, shape (rows, d); NaN where a case has none, or one of another length than most.
    """

    def __init__(self, packed: Sequence[PackedScore] = ()) -> None:
        self.case_ids = tuple(row.case_id for row in packed)
        self._rows = {case_id: row for row, case_id in enumerate(self.case_ids)}
        if len(self._rows) != len(self.case_ids):
            raise InputError("A table of scores holds each case once; this one has a case twice.")
        self.version_keys = tuple(row.version_key for row in packed)
        self.scored_at_s = np.array([row.scored_at_s for row in packed], dtype=np.float64)
        self.expected_minutes = np.array([row.expected_minutes for row in packed], dtype=np.float64)
        self.disagreement = np.array([row.disagreement for row in packed], dtype=np.float64)
        width = len(CANDIDATE_COLUMNS)
        counts = np.array([len(row.numbers) // (4 * width) for row in packed], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        numbers = np.frombuffer(b"".join(row.numbers for row in packed), dtype="<f4").reshape(-1, width)
        self.columns: Mapping[str, NDArray[np.float32]] = dict(
            zip(CANDIDATE_COLUMNS, np.ascontiguousarray(numbers.T), strict=True)
        )
        self.class_names, self.class_codes = _coded(packed, counts)
        self.embedding = _embeddings(packed)

    @classmethod
    def of(cls, scores: Iterable[CaseScore]) -> ScoreTable:
        """The table of some scores."""
        return cls([PackedScore.of(score) for score in scores])

    def __len__(self) -> int:
        return len(self.case_ids)

    def __contains__(self, case_id: object) -> bool:
        return case_id in self._rows

    @property
    def candidate_counts(self) -> NDArray[np.int64]:
        """Candidates of each row."""
        return np.asarray(np.diff(self.starts))

    @property
    def row_of_candidate(self) -> NDArray[np.int64]:
        """The row that each candidate is of."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.candidate_counts)

    @property
    def has_embedding(self) -> NDArray[np.bool_]:
        """Which rows have an embedding."""
        return np.asarray(~np.isnan(self.embedding).any(axis=1) & (self.embedding.shape[1] > 0))

    def row(self, case_id: str) -> int | None:
        """The row of a case, None where it has no score."""
        return self._rows.get(case_id)

    def rows(self, case_ids: Iterable[str]) -> NDArray[np.int64]:
        """The rows of cases, -1 where a case has no score."""
        return np.array([self._rows.get(case_id, -1) for case_id in case_ids], dtype=np.int64)

    def sum_over(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Sum one number a candidate over each row's candidates; 0 for a row without any."""
        return np.bincount(self.row_of_candidate, weights=values, minlength=len(self)).astype(np.float64)

    def largest(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The largest of one number a candidate over each row's candidates.

        NaN for a row without any, or with none known.
        """
        found = np.full(len(self), -np.inf)
        np.maximum.at(found, self.row_of_candidate, np.where(np.isnan(values), -np.inf, values))
        found[np.isneginf(found)] = np.nan
        return found

    def case(self, case_id: str) -> CaseScore | None:
        """The score of one case as an object."""
        row = self._rows.get(case_id)
        if row is None:
            return None
        embedding = self.embedding[row]
        known = self.embedding.shape[1] > 0 and not np.isnan(embedding).any()
        disagreement = float(self.disagreement[row])
        return CaseScore(
            case_id=case_id,
            model_versions=_versions(self.version_keys[row]),
            scored_at_s=float(self.scored_at_s[row]),
            candidates=tuple(self._candidate(n) for n in range(int(self.starts[row]), int(self.starts[row + 1]))),
            embedding=embedding.copy() if known else None,
            expected_minutes=float(self.expected_minutes[row]),
            disagreement=None if np.isnan(disagreement) else disagreement,
        )

    def _candidate(self, number: int) -> CandidateScore:
        value = {name: float(column[number]) for name, column in self.columns.items()}
        return CandidateScore(
            centre_ras_mm=(value["x_ras_mm"], value["y_ras_mm"], value["z_ras_mm"]),
            diameter_mm=value["diameter_mm"],
            volume_ml=value["volume_ml"],
            probability=min(1.0, max(0.0, value["probability"])),
            predicted_class=self.class_names[int(self.class_codes[number])],
            malignancy=_or_none(value["malignancy"]),
            entropy=value["entropy"],
            mutual_information=_or_none(value["mutual_information"]),
            test_time_variation=_or_none(value["test_time_variation"]),
            outline_doubt=_or_none(value["outline_doubt"]),
        )


def _numbers(candidate: CandidateScore) -> tuple[float, ...]:
    """One row of ``CANDIDATE_COLUMNS``."""
    return (
        *candidate.centre_ras_mm,
        candidate.diameter_mm,
        candidate.volume_ml,
        candidate.probability,
        _or_nan(candidate.malignancy),
        candidate.entropy,
        _or_nan(candidate.mutual_information),
        _or_nan(candidate.test_time_variation),
        _or_nan(candidate.outline_doubt),
    )


def _coded(packed: Sequence[PackedScore], counts: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The class names that occur, and the number of each candidate's."""
    codes: dict[str, int] = {}
    names = [name for row, count in zip(packed, counts, strict=True) if count for name in row.classes.split("\n")]
    numbered = [codes.setdefault(name, len(codes)) for name in names]
    if len(numbered) != int(counts.sum()):
        raise InputError(f"{len(numbered)} classes are kept for {int(counts.sum())} candidates: score the cases again.")
    return tuple(codes), np.asarray(numbered, dtype=np.int64)


def _embeddings(packed: Sequence[PackedScore]) -> NDArray[np.float32]:
    """All embeddings of the most frequent length, NaN elsewhere."""
    lengths = np.array([len(row.embedding) // 4 for row in packed], dtype=np.int64)
    known = lengths[lengths > 0]
    length = int(np.bincount(known).argmax()) if known.size else 0
    found = np.full((len(packed), length), np.nan, dtype=np.float32)
    usable = np.flatnonzero(lengths == length) if length else np.zeros(0, dtype=np.int64)
    joined = np.frombuffer(b"".join(packed[row].embedding for row in usable), dtype="<f4") if length else _NO_FLOATS
    found[usable] = joined.reshape(len(usable), length)
    return found


def _versions(key: str) -> dict[str, str]:
    """What ``version_key`` wrote."""
    versions = dict(part.split("=", 1) for part in key.split(" ") if "=" in part)
    if version_key(versions) != key:
        raise InputError(f"'{key}' names no model versions: score the case again.")
    return versions


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
