"""Which case to annotate next: pure choices over a pool, apart from files, locks and servers.

``STRATEGIES`` names all of them. Each picks one case of the pool, or None from an empty one; given the same pool and
the same state of the generator, the same case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from medai.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The cases a choice may be made from.

    Attributes:
        case_ids: distinct ids of cases that need a label and that no one holds.
        scores: uncertainty by case id, larger is less sure; cases may be missing, others may be in it.
    """

    case_ids: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.case_ids)) != len(self.case_ids):
            raise InputError(f"A pool holds each case once, this one has {len(self.case_ids)} ids with repetitions.")


class Strategy(Protocol):
    """A way to choose."""

    @property
    def description(self) -> str:
        """What the annotator reads in the plugin."""

    def select(self, pool: Pool, rng: np.random.Generator) -> str | None:
        """One case of the pool, None from an empty pool."""


class RandomStrategy:
    """Every case with the same chance: the honest baseline, and the right choice before a model is worth asking."""

    description = "A random case"

    def select(self, pool: Pool, rng: np.random.Generator) -> str | None:
        """One case of the pool, None from an empty pool."""
        if not pool.case_ids:
            return None
        # Sorted: the order in which a folder happens to be listed must not change what a seed gives.
        return sorted(pool.case_ids)[int(rng.integers(len(pool.case_ids)))]


class FirstStrategy:
    """The first case by name: for working through a list."""

    description = "The first case by name"

    def select(self, pool: Pool, rng: np.random.Generator) -> str | None:
        """One case of the pool, None from an empty pool."""
        return min(pool.case_ids, default=None)


class UncertaintyStrategy:
    """The case the model is least sure of.

    Cases without a score come after all scored ones, by name: a case known to be doubtful is worth more than one nobody
    has looked at, and the server scores new cases in the background anyway. Equal scores go by name.
    """

    description = "The case the model is least sure of"

    def select(self, pool: Pool, rng: np.random.Generator) -> str | None:
        """One case of the pool, None from an empty pool."""
        return min(pool.case_ids, key=lambda case_id: (-pool.scores.get(case_id, -np.inf), case_id), default=None)


STRATEGIES: dict[str, Strategy] = {
    "random": RandomStrategy(),
    "first": FirstStrategy(),
    "uncertainty": UncertaintyStrategy(),
}
"""In the order in which the plugin lists them; the first is its default."""
