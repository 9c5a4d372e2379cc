"""Choices by doubt: what a person could tell the models about the candidates of a case.

Each number is of a candidate; a case is worth what its most telling one is (``Pool.worth``). What varies between views
or members counts by the probability that there is a nodule at all: how a vessel would be outlined need not be learnt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.active_learning.pool import NOTHING, Pool, Strategy, best


class EntropyStrategy(Strategy):
    """The case with the candidate that is as likely a nodule as not."""

    description = "The case with the candidate the model is least sure of (entropy of nodule or not)"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The ``n`` of the largest entropy."""
        return best(pool, entropy(pool), n)


class UncertaintyStrategy(EntropyStrategy):
    """The name that ``entropy`` had before there were others."""

    description = "The case the model is least sure of (the same as entropy)"


class BaldStrategy(Strategy):
    """The case about whose nodules the members of the ensembles differ most: what more labels would settle.

    Without any ensemble entropy decides.
    """

    description = "The case about whose nodules the ensemble's members differ most (BALD); without ensemble by entropy"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The ``n`` of the largest mutual information."""
        return best(pool, expected(pool, "mutual_information"), n)


class TestTimeVariationStrategy(Strategy):
    """The case whose outlines change most when the scan is mirrored, which should change nothing.

    Without outlines entropy decides.
    """

    __test__ = False  # no test, whatever pytest makes of its name
    description = "The case whose nodules the model outlines most differently in mirrored views"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The ``n`` of the largest variation."""
        return best(pool, expected(pool, "test_time_variation"), n)


class DisagreementStrategy(Strategy):
    """The case that readers or the last two models see differently.

    Where nobody has compared anything, entropy decides; such cases come after those with a known difference.
    """

    description = "The case that readers, or the last two models, see most differently"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The ``n`` that are seen most differently."""
        models = pool.of_rows(pool.scores.disagreement, missing=np.nan)
        readers = np.array([pool.reader_disagreement.get(case_id, np.nan) for case_id in pool.case_ids])
        differ = np.fmax(models, readers)
        # Known differences, above 0, first: among 1…2; the others as far as entropy tells, below.
        values = np.where(differ > 0, 2.0 + differ, entropy(pool))
        return best(pool, values, n)


class CostAwareStrategy(Strategy):
    """The case that teaches most for the minute it costs: its entropy over the minutes its label is expected to take.

    Cheap cases without much doubt win where all are sure; it asks for more cases than others, each of less work.
    """

    description = "The case that should teach most for the minute it costs (entropy over expected minutes)"

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """The ``n`` of the most entropy a minute."""
        gain, minutes = entropy(pool), pool.minutes()
        return best(pool, np.where(gain > 0, gain / minutes, gain), n)


def entropy(pool: Pool) -> NDArray[np.float64]:
    """The entropy of each case's least sure candidate, bits; negative where there is none (``Pool.worth``)."""
    return pool.worth(pool.scores.columns["entropy"])


def expected(pool: Pool, column: str) -> NDArray[np.float64]:
    """A number of each case's candidates, each by its probability; entropy where no candidate of the pool has any."""
    numbers: NDArray[Any] = pool.scores.columns[column]
    values = pool.worth(numbers * pool.scores.columns["probability"])
    return values if np.any(values >= 0) else np.where(values == NOTHING, NOTHING, entropy(pool))
