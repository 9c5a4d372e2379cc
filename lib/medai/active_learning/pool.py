"""What a choice is made from, and what every way to choose looks like.

A strategy is pure: the same pool and the same state of the generator give the same cases, in whatever order the pool
was listed. It knows nothing of files, locks or servers; whoever calls it leaves out the cases that somebody holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medai.active_learning.cost import AnnotationCost
from medai.active_learning.nearest import NearestLabelled
from medai.domain.score_table import ScoreTable
from medai.errors import InputError

UNKNOWN, NOTHING = -1.0, -2.0
"""Worth of a case that no model has looked at, and of one in which nothing was found. A case known to be doubtful comes
before one nobody has looked at, and that before one which is known to hold nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """The cases a choice may be made from.

    Attributes:
        case_ids: distinct ids of cases that need a label and that no one holds; kept sorted.
        scores: what the models make of them; cases may be missing, others (the labelled ones) should be in it.
        labelled: cases that have a label.
        in_work: cases that somebody is labelling now: soon covered, so that nobody is sent to their like.
        reader_disagreement: by case id, 0–1, where readers of the case contradict each other.
        cost: what a label costs; None takes the minutes that were expected when the case was scored.
        nearest: remembers distances from one choice to the next; choices are the same without it.
        rows: of ``case_ids`` in ``scores``, -1 where a case has no score; worked out here.
    """

    case_ids: tuple[str, ...]
    scores: ScoreTable = field(default_factory=ScoreTable)
    labelled: tuple[str, ...] = ()
    in_work: tuple[str, ...] = ()
    reader_disagreement: Mapping[str, float] = field(default_factory=dict)
    cost: AnnotationCost | None = None
    nearest: NearestLabelled = field(default_factory=NearestLabelled)
    rows: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        if len(set(self.case_ids)) != len(self.case_ids):
            raise InputError(f"A pool holds each case once, this one has {len(self.case_ids)} ids with repetitions.")
        object.__setattr__(self, "case_ids", tuple(sorted(self.case_ids)))
        object.__setattr__(self, "rows", self.scores.rows(self.case_ids))

    def __len__(self) -> int:
        return len(self.case_ids)

    def without(self, case_ids: Iterable[str]) -> Pool:
        """The pool once some of its cases are given to somebody."""
        given = set(case_ids)
        left = tuple(case_id for case_id in self.case_ids if case_id not in given)
        in_work = (*self.in_work, *(case_id for case_id in self.case_ids if case_id in given))
        return replace(self, case_ids=left, in_work=in_work)

    def of_rows(self, values: NDArray[np.floating[Any]], *, missing: float) -> NDArray[np.float64]:
        """One number a row of the table as one a case of the pool; ``missing`` where a case has no score."""
        found = np.full(len(self), missing)
        scored = self.rows >= 0
        found[scored] = values[self.rows[scored]]
        return found

    def worth(self, of_candidates: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """One number a candidate as one a case of the pool: that of the case's largest candidate.

        The largest alone, not the sum: one uncertain nodule is worth more than any number of specks that are hardly
        ever one.

        Returns:
            ``UNKNOWN`` where a case has no score or its candidates no number, ``NOTHING`` where it has no candidates.
        """
        largest = self.scores.largest(of_candidates)
        largest[np.isnan(largest)] = UNKNOWN
        largest[self.scores.candidate_counts == 0] = NOTHING
        return self.of_rows(largest, missing=UNKNOWN)

    def has_likely(self, least_probability: float) -> NDArray[np.bool_]:
        """Which cases of the pool hold a candidate at least so probable."""
        return np.asarray(self.worth(self.scores.columns["probability"]) >= least_probability)

    def minutes(self) -> NDArray[np.float64]:
        """What each case's label is expected to take; the pool's median where nobody knows."""
        expected = self.scores.expected_minutes
        if self.cost is not None:
            probability = self.scores.columns["probability"]
            nodules = self.scores.sum_over(probability)
            volume_ml = self.scores.sum_over(probability * self.scores.columns["volume_ml"])
            expected = self.cost.minutes_of(nodules, volume_ml)
        typical = float(np.median(expected)) if expected.size else 1.0
        return self.of_rows(expected, missing=typical)


class Strategy(ABC):
    """A way to choose.

    Attributes:
        description: what the annotator reads in the plugin; honest about what it does.
        needs_scores: whether it goes by what the models make of the cases.
    """

    description: ClassVar[str]
    needs_scores: ClassVar[bool] = True

    @abstractmethod
    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` distinct cases of the pool, best first; fewer where the pool has fewer."""

    def select(self, pool: Pool, rng: np.random.Generator) -> str | None:
        """One case of the pool, None from an empty pool."""
        return next(iter(self.select_batch(pool, 1, rng)), None)


def best(pool: Pool, values: NDArray[np.float64], n: int) -> list[str]:
    """The ``n`` cases of the largest values, equal ones by name."""
    n = max(0, min(n, len(pool)))
    if n == 0:
        return []
    if n < len(pool):
        # All that reach the n-th value: sorting twenty thousand takes longer than finding the few.
        least = np.partition(values, len(pool) - n)[len(pool) - n]
        among = np.flatnonzero(values >= least)
    else:
        among = np.arange(len(pool))
    order = among[np.argsort(-values[among], kind="stable")][:n]
    return [pool.case_ids[number] for number in order]
