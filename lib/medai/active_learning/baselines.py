"""The choices that everything else has to beat."""

from __future__ import annotations

import numpy as np

from medai.active_learning.pool import UNKNOWN, Pool, Strategy, best

FOREGROUND_FROM = 0.5
"""A case holds a candidate where a nodule is as likely as not."""


class RandomStrategy(Strategy):
    """Every case with the same chance: the honest baseline, and the right choice before a model is worth asking."""

    description = "A random case"
    needs_scores = False

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases, all equally likely."""
        return [pool.case_ids[number] for number in rng.permutation(len(pool))[:n]]


class FirstStrategy(Strategy):
    """The first case by name: for working through a list."""

    description = "The first case by name"
    needs_scores = False

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The first ``n`` by name."""
        return list(pool.case_ids[: max(0, n)])


class LastStrategy(Strategy):
    """The last case by name: stock MONAI Label's sample apps offer it, and where ids are dates it is the newest."""

    description = "The last case by name"
    needs_scores = False

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The last ``n`` by name, the last one first."""
        return list(pool.case_ids[::-1][: max(0, n)])


class ForegroundRandomStrategy(Strategy):
    """A random case among those that hold candidates.

    Most published strategies do not beat this (nnActive, TMLR 2025). Cases nobody has scored come next, those without a
    candidate last.
    """

    description = "A random case among those where the model sees a nodule"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases, random within each of the three kinds."""
        probability = pool.worth(pool.scores.columns["probability"])
        kind = np.select([probability >= FOREGROUND_FROM, probability == UNKNOWN], [2.0, 1.0], 0.0)
        return best(pool, kind + rng.random(len(pool)), n)
