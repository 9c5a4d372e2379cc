"""Choices by where cases lie among all others: what is unlike anything labelled, and what is like many others.

Distances are between the embeddings of ``domain.case_score``. Cases without one (not scored, or nothing found in them)
come after all others, in random order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.active_learning.nearest import nearest_squared, squared_distances
from medai.active_learning.pool import Pool, Strategy
from medai.active_learning.uncertainty import entropy

MOST_CLUSTERS = 50
"""Clusters get too small to have a typical case; the first cases are what this is for."""
CLUSTERED_POINTS = 2000
"""A larger pool is clustered by a random part of itself, and each case then joined to the nearest cluster."""
NEIGHBOURS = 20
"""Whose mean distance says how typical a case is, as in the paper."""
COMPARED_POINTS = 500
"""Most cases of a cluster that neighbours are looked for among."""
_ITERATIONS = 15
LEAST_DOUBT = 0.2
"""Bits that a case without any doubt counts as."""
MOST_OFFERED = 2000
"""Of a larger pool a random part may be chosen from: the best of two thousand is as good as the best of all."""
MOST_SERVED = 500
"""Cases whose distance to the nearest label is to fall, drawn at random from a larger pool; they stand for all."""


class CoreSetStrategy(Strategy):
    """The case farthest from all that is labelled or in work: greedy k-centre.

    Source: Sener and Savarese, Active learning for convolutional neural networks: a core-set approach (ICLR 2018).
    """

    description = "The case most unlike all that are labelled (core-set)"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases, each the farthest from all labelled ones and from those chosen before it."""
        numbers, points = _placed(pool)
        distances = pool.nearest.distances(pool.scores, pool.labelled, pool.in_work)
        left = np.square(distances[pool.rows[numbers]])
        chosen: list[int] = []
        while len(chosen) < min(n, len(numbers)):
            if np.isinf(left).any():
                # Nothing to be far from: begin in the middle.
                number = int(np.argmin(np.square(points - points.mean(axis=0)).sum(axis=1)))
            else:
                number = int(np.argmax(left))
            chosen.append(number)
            left = np.minimum(left, nearest_squared(points, points[number : number + 1]))
            left[chosen] = -1.0
        return _filled(pool, [int(numbers[number]) for number in chosen], n, rng)


class RepresentativeStrategy(Strategy):
    """The case that brings all others nearest to a label: greedy facility location.

    Where core-set asks for the one case that is farthest away, which is often an oddity, this asks for the one that
    shortens the distances of all cases together most.

    Source: Wei, Iyer and Bilmes, Submodularity in data subset selection and active learning (ICML 2015).
    """

    description = "The case that stands for most others, unlike those labelled (facility location)"

    def worth_of(self, pool: Pool) -> NDArray[np.float64]:
        """How much each case of the pool counts; here all the same."""
        return np.ones(len(pool))

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases, each chosen as if those before it were labelled."""
        numbers, points = _placed(pool)
        if not len(numbers):
            return _filled(pool, [], n, rng)
        offered, served = _part(len(points), MOST_OFFERED, rng), _part(len(points), MOST_SERVED, rng)
        apart = np.sqrt(squared_distances(points[served], points[offered]))
        nearest = pool.nearest.distances(pool.scores, pool.labelled, pool.in_work)[pool.rows[numbers]][served]
        # Without any label every case is as far from one as it can be.
        nearest = np.where(np.isinf(nearest), apart.max(), nearest)
        worth = self.worth_of(pool)[numbers]
        chosen: list[int] = []
        while len(chosen) < min(n, len(offered)):
            gain = worth[offered] * (worth[served] @ np.maximum(nearest[:, None] - apart, 0.0))
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            nearest = np.minimum(nearest, apart[:, best])
        return _filled(pool, [int(numbers[offered[number]]) for number in chosen], n, rng)


class InformationDensityStrategy(RepresentativeStrategy):
    """The doubtful case that stands for most doubtful others.

    Each case counts by its entropy, as the one to be labelled and as one of those for which it stands: neither an
    oddity nor one more of what the models are sure of.

    Source: Settles and Craven, An analysis of active learning strategies for sequence labeling tasks (EMNLP 2008),
    "information density", with facility location in place of the mean similarity, so that a batch is spread out.
    """

    description = "The doubtful case that stands for most other doubtful ones (information density)"

    def worth_of(self, pool: Pool) -> NDArray[np.float64]:
        """The entropy of each case's least sure candidate; a little for all, since a model may be sure and wrong."""
        return LEAST_DOUBT + np.clip(entropy(pool), 0.0, 1.0)


class TypicalStrategy(Strategy):
    """The case most like the others of its group, of the largest group that holds no labelled case.

    With few labels typical cases teach more than unusual ones. The pool and the labelled cases are put into as many
    groups as there will be labels; a case is typical where its neighbours in the group are near.

    Source: Hacohen, Dekel and Weinshall, Active learning on a budget (TypiClust, ICML 2022).
    """

    description = "The most typical case of the largest group without a label (TypiClust)"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases, each of another group as long as there are groups without a label."""
        numbers, points = _placed(pool)
        covered = _covered(pool)
        groups = max(1, min(len(covered) + n, MOST_CLUSTERS, len(points) + len(covered)))
        group, group_of_covered = _clustered(points, covered, groups, rng)
        labels = np.bincount(group_of_covered, minlength=groups)
        chosen: list[int] = []
        while len(chosen) < min(n, len(points)):
            left = group.copy()
            left[chosen] = -1
            sizes = np.bincount(left[left >= 0], minlength=groups)
            # Fewest labels first, then the largest; a group without cases left is no choice.
            open_groups = np.flatnonzero(sizes)
            wanted = open_groups[np.lexsort((-sizes[open_groups], labels[open_groups]))[0]]
            chosen.append(_most_typical(points, np.flatnonzero(left == wanted), rng))
            labels[wanted] += 1
        return _filled(pool, [int(numbers[number]) for number in chosen], n, rng)


def _placed(pool: Pool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The numbers of the pool's cases that have an embedding, and those."""
    has = pool.of_rows(pool.scores.has_embedding.astype(np.float64), missing=0.0) > 0
    numbers = np.flatnonzero(has)
    return numbers, pool.scores.embedding[pool.rows[numbers]]


def _covered(pool: Pool) -> NDArray[np.float32]:
    """The embeddings of the cases that are labelled or in work."""
    rows = pool.scores.rows((*pool.labelled, *pool.in_work))
    rows = np.unique(rows[rows >= 0])
    return np.asarray(pool.scores.embedding[rows[pool.scores.has_embedding[rows]]])


def _filled(pool: Pool, chosen: list[int], n: int, rng: np.random.Generator) -> list[str]:
    """Cases by their numbers, filled up to ``n`` with others in random order."""
    missing = min(n, len(pool)) - len(chosen)
    if missing > 0:
        others = np.setdiff1d(np.arange(len(pool)), np.asarray(chosen, dtype=np.int64))
        # Not scored before known to hold nothing.
        empty = pool.rows[others] >= 0
        order = np.lexsort((rng.random(len(others)), empty))
        chosen = [*chosen, *(int(number) for number in others[order[:missing]])]
    return [pool.case_ids[number] for number in chosen]


def _part(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All of ``count`` numbers, or ``most`` of them at random, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def _clustered(
    points: NDArray[np.float32], covered: NDArray[np.float32], groups: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The group of each point and of each covered one: k-means from k-means++, on a part of many points."""
    if not len(points):
        return np.zeros(0, dtype=np.int64), np.zeros(len(covered), dtype=np.int64)
    everything = np.concatenate([points, covered.reshape(-1, points.shape[1])])
    sample = everything[_part(len(everything), CLUSTERED_POINTS, rng)]
    centres = _spread(sample, min(groups, len(sample)), rng)
    for _ in range(_ITERATIONS):
        group = _nearest_centre(sample, centres)
        sizes = np.bincount(group, minlength=len(centres))
        sums = np.stack([np.bincount(group, weights=axis, minlength=len(centres)) for axis in sample.T], axis=1)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres).astype(np.float32)
        if np.array_equal(moved, centres):
            break
        centres = moved
    group = _nearest_centre(everything, centres)
    return group[: len(points)], group[len(points) :]


def _spread(points: NDArray[np.float32], groups: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """First centres: each drawn by its squared distance to those before (k-means++)."""
    centres = points[[int(rng.integers(len(points)))]]
    squared = nearest_squared(points, centres).astype(np.float64)
    while len(centres) < groups:
        total = squared.sum()
        # Where all that is left lies on centres, any will do.
        number = int(rng.choice(len(points), p=squared / total)) if total > 0 else int(rng.integers(len(points)))
        centres = np.concatenate([centres, points[[number]]])
        squared = np.minimum(squared, nearest_squared(points, points[[number]]))
    return centres


def _nearest_centre(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(squared_distances(points, centres).argmin(axis=1), dtype=np.int64)


def _most_typical(points: NDArray[np.float32], members: NDArray[np.int64], rng: np.random.Generator) -> int:
    """The member whose nearest neighbours among the members are nearest on average."""
    if len(members) > COMPARED_POINTS:
        members = np.sort(rng.choice(members, COMPARED_POINTS, replace=False))
    squared = squared_distances(points[members], points[members])
    count = min(NEIGHBOURS + 1, len(members))
    # Each point is its own nearest; its distance of 0 changes no order.
    nearest = np.sqrt(np.partition(squared, count - 1, axis=1)[:, :count])
    return int(members[int(np.argmin(nearest.sum(axis=1)))])
