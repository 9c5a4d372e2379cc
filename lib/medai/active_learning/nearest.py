"""How far each case lies from the nearest labelled one, remembered from one choice to the next.

Twenty thousand cases against five thousand labelled ones are a hundred million distances: a fraction of a second once,
too much at each Next Sample. Between two choices little changes: one label more, a few cases scored anew.

Threads: one lock, held while distances are worked out.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from medai.domain.score_table import ScoreTable

FEW_CENTRES = 64
"""Up to so many, plain loops are as fast as a product of matrices. That would share each small one among all cores, and
wait where an inference keeps them busy: twenty times as long on a busy machine."""
_CHUNK = 2048


class NearestLabelled:
    """Distances of the cases of a table to their nearest labelled case."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table: ScoreTable | None = None
        self._labelled: frozenset[str] = frozenset()
        self._squared: NDArray[np.float32] = np.zeros(0, dtype=np.float32)

    def distances(self, table: ScoreTable, labelled: Iterable[str], in_work: Iterable[str] = ()) -> NDArray[np.float32]:
        """The distance of each row of a table to the nearest labelled case.

        Args:
            table: scores.
            labelled: cases; those without an embedding are passed over.
            in_work: a few more that count as labelled this time; nothing of them is remembered.

        Returns:
            float32, one a row; infinite without any labelled case, NaN for a row without an embedding.
        """
        known = table.has_embedding
        wanted = _placed(table, known, labelled)
        more = _placed(table, known, in_work) - wanted
        with self._lock:
            if self._table is not table:
                self._carry_over(table, wanted)
            if not self._labelled <= wanted:
                self._start(table)
            new = wanted - self._labelled
            if new:
                rows = np.sort(table.rows(new))
                self._squared = np.minimum(self._squared, nearest_squared(table.embedding, table.embedding[rows]))
                self._labelled = wanted
            squared = self._squared
        if more:
            rows = np.sort(table.rows(more))
            squared = np.minimum(squared, nearest_squared(table.embedding, table.embedding[rows]))
        found = np.sqrt(squared)
        found[~known] = np.nan
        return found

    def _start(self, table: ScoreTable) -> None:
        self._table, self._labelled = table, frozenset()
        self._squared = np.full(len(table), np.inf, dtype=np.float32)

    def _carry_over(self, table: ScoreTable, wanted: frozenset[str]) -> None:
        """Keep what is known of the cases whose embedding is as it was; the others are compared with all labelled."""
        before, squared, labelled = self._table, self._squared, self._labelled
        self._start(table)
        if before is None or before.embedding.shape[1] != table.embedding.shape[1] or not labelled <= wanted:
            return
        rows_before = before.rows(table.case_ids)
        same = rows_before >= 0
        old = before.embedding[np.maximum(rows_before, 0)]
        same &= ((old == table.embedding) | (np.isnan(old) & np.isnan(table.embedding))).all(axis=1)
        if not same[table.rows(labelled)].all():
            return
        self._squared[same] = squared[rows_before[same]]
        changed = np.flatnonzero(~same)
        centres = table.embedding[np.sort(table.rows(labelled))]
        self._squared[changed] = nearest_squared(table.embedding[changed], centres)
        self._labelled = labelled


def squared_distances(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float64]:
    """All squared distances, shape (n, m); NaN for points of NaN."""
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(points, centres, "sqeuclidean"))


def _placed(table: ScoreTable, known: NDArray[np.bool_], case_ids: Iterable[str]) -> frozenset[str]:
    """Those of some cases that have an embedding."""
    listed = tuple(case_ids)
    rows = table.rows(listed)
    has = (rows >= 0) & known[rows] if len(table) else np.zeros(len(listed), dtype=bool)
    return frozenset(itertools.compress(listed, has.tolist()))


def nearest_squared(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """The squared distance of each point to its nearest centre.

    Args:
        points: shape (n, d); rows of NaN are infinitely far.
        centres: shape (m, d), finite.

    Returns:
        float32, shape (n,); infinite without any centre.
    """
    found = np.full(len(points), np.inf, dtype=np.float32)
    if not len(centres):
        return found
    if len(centres) <= FEW_CENTRES:
        nearest = squared_distances(points, centres).min(axis=1)
        return np.where(np.isnan(nearest), np.inf, nearest).astype(np.float32)
    of_centres = np.einsum("md,md->m", centres, centres)
    for begin in range(0, len(points), _CHUNK):
        chunk = points[begin : begin + _CHUNK]
        squared = of_centres - 2.0 * (chunk @ centres.T)
        nearest = squared.min(axis=1) + np.einsum("nd,nd->n", chunk, chunk)
        found[begin : begin + _CHUNK] = np.where(np.isnan(nearest), np.inf, np.maximum(nearest, 0.0))
    return found
