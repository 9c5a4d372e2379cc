"""A choice by doubt that is spread over what the models take the nodules for, and left some chance.

The most doubtful cases are often alike, and of whatever the present model happens to be bad at. ClaSP PE (TMLR 2026)
counters both: two thirds of a batch are drawn from the predicted classes in equal shares, and the scores get noise that
is large at first, when a model's doubts say little, and shrinks as labels come in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.active_learning.pool import Pool, Strategy, best
from medai.active_learning.uncertainty import entropy

STRATIFIED_SHARE = 2.0 / 3.0
FIRST_SHARPNESS = 1.0
"""With it cases are drawn by their entropy: of two, one of twice the entropy is drawn twice as often."""
LABELS_A_STEP = 20.0
"""So many labels raise the sharpness by one."""
LARGEST_SHARPNESS = 16.0
"""Hardly any noise is left."""
_LEAST = 1e-6


class ClassStratifiedNoisyStrategy(Strategy):
    """Doubtful cases of every predicted class, with noise that shrinks as labels come in (ClaSP PE).

    A case belongs to the class of its most doubtful candidate, and is drawn by log(entropy) + Gumbel noise / sharpness,
    which is drawing by the entropy to the power of the sharpness.
    """

    description = (
        "Doubtful cases of every predicted class in turn, with noise that shrinks as labels come in (ClaSP PE)"
    )

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases: two thirds of them in equal shares of the predicted classes, the others of all."""
        n = max(0, min(n, len(pool)))
        values = noisy(entropy(pool), sharpness(len(pool.labelled)), rng)
        codes = predicted_class(pool)
        chosen: list[int] = []
        for code, share in _shares(codes, n, rng).items():
            members = np.flatnonzero(codes == code)
            chosen += [int(member) for member in members[np.argsort(-values[members], kind="stable")[:share]]]
        left = values.copy()
        left[chosen] = -np.inf
        # The most telling of the stratified ones first; the others follow as they are drawn.
        chosen.sort(key=lambda number: -values[number])
        return [*(pool.case_ids[number] for number in chosen), *best(pool, left, n - len(chosen))]


def sharpness(labels: int) -> float:
    """How little noise there is, by how many labels there are."""
    return min(FIRST_SHARPNESS + labels / LABELS_A_STEP, LARGEST_SHARPNESS)


def noisy(worth: NDArray[np.float64], sharp: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """log(worth) + Gumbel noise / sharpness; negative worth (``UNKNOWN``, ``NOTHING``) stays below everything else.

    Source: Kirsch et al., Stochastic batch acquisition (power BALD, TMLR 2023).
    """
    noise = rng.gumbel(size=len(worth))
    drawn = np.log(np.maximum(worth, _LEAST)) + noise / sharp
    # Gumbel noise is hardly ever beyond 50; those of no worth are left in random order.
    return np.where(worth >= 0, drawn, 1000.0 * worth + noise)


def predicted_class(pool: Pool) -> NDArray[np.int64]:
    """The class of each case's least sure candidate; -1 where it has none."""
    table = pool.scores
    numbers = np.full(len(table), -1, dtype=np.int64)
    # Ascending, so that the last one written is the row's largest; of equal ones the first.
    order = np.lexsort((-np.arange(len(table.class_codes)), table.columns["entropy"]))
    numbers[table.row_of_candidate[order]] = table.class_codes[order]
    return pool.of_rows(numbers.astype(np.float64), missing=-1.0).astype(np.int64)


def _shares(codes: NDArray[np.int64], n: int, rng: np.random.Generator) -> dict[int, int]:
    """How many of ``n`` each class gets by stratification: equal shares, what a class lacks goes to the others.

    A fraction of a case is left to chance, so that shares hold on average when cases are asked for one by one.
    """
    present, sizes = np.unique(codes[codes >= 0], return_counts=True)
    wanted = n * STRATIFIED_SHARE
    budget = int(wanted) + int(rng.random() < wanted - int(wanted))
    left = {int(code): int(size) for code, size in zip(present, sizes, strict=True)}
    shares = dict.fromkeys(left, 0)
    turn = [int(code) for code in rng.permutation(present)]
    while budget > 0 and any(left.values()):
        for code in turn:
            if budget > 0 and left[code] > 0:
                shares[code] += 1
                left[code] -= 1
                budget -= 1
    return shares
