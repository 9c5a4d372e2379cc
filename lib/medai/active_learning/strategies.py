"""Every way to choose the next case, by name, and the one that is used where nobody chooses.

``STRATEGIES`` names all of them, in the order in which the plugin lists them; the first is its default.
"""

from __future__ import annotations

import numpy as np

from medai.active_learning.baselines import FirstStrategy, ForegroundRandomStrategy, LastStrategy, RandomStrategy
from medai.active_learning.diversity import (
    CoreSetStrategy,
    InformationDensityStrategy,
    RepresentativeStrategy,
    TypicalStrategy,
)
from medai.active_learning.pool import Pool, Strategy
from medai.active_learning.stratified import ClassStratifiedNoisyStrategy
from medai.active_learning.uncertainty import (
    BaldStrategy,
    CostAwareStrategy,
    DisagreementStrategy,
    EntropyStrategy,
    TestTimeVariationStrategy,
    UncertaintyStrategy,
)

__all__ = ["COLD_START_LABELS", "DEFAULT_STRATEGY", "STRATEGIES", "DefaultStrategy", "Pool", "Strategy"]

RECOMMENDED = "information_density"
"""What ``default`` goes on with after the cold start. Chosen by evidence: change it here, with the simulation's tables
in the decision record."""

COLD_START = "representative"
COLD_START_LABELS = 2
"""Labels up to which nobody asks for a model's doubts: they say more about itself than about the case. From two labels
on they helped in the simulation."""


class DefaultStrategy(Strategy):
    """Representative cases first, then the recommended strategy.

    Before any case is scored both choose at random.
    """

    def __init__(self, cold: Strategy, warm: Strategy, cold_name: str, warm_name: str) -> None:
        self._cold, self._warm = cold, warm
        self.description = (  # type: ignore[misc]  # of this one, not of the class
            f"What is recommended: {cold_name} cases up to {COLD_START_LABELS} labels, then {warm_name}"
        )

    def select_batch(self, pool: Pool, n: int, rng: np.random.Generator) -> list[str]:
        """``n`` cases, the first of them representative ones until there are enough labels."""
        cold = max(0, min(n, COLD_START_LABELS - len(pool.labelled) - len(pool.in_work)))
        first = self._cold.select_batch(pool, cold, rng) if cold else []
        if len(first) == min(n, len(pool)):
            return first
        rest = pool if not first else pool.without(first)
        return [*first, *self._warm.select_batch(rest, n - len(first), rng)]


DEFAULT_STRATEGY = "default"

_CHOICES: dict[str, Strategy] = {
    "random": RandomStrategy(),
    "first": FirstStrategy(),
    "last": LastStrategy(),
    "foreground_random": ForegroundRandomStrategy(),
    "uncertainty": UncertaintyStrategy(),
    "entropy": EntropyStrategy(),
    "bald": BaldStrategy(),
    "test_time_variation": TestTimeVariationStrategy(),
    "core_set": CoreSetStrategy(),
    "typical": TypicalStrategy(),
    "representative": RepresentativeStrategy(),
    "information_density": InformationDensityStrategy(),
    "class_stratified_noisy": ClassStratifiedNoisyStrategy(),
    "cost_aware": CostAwareStrategy(),
    "disagreement": DisagreementStrategy(),
}

STRATEGIES: dict[str, Strategy] = {
    DEFAULT_STRATEGY: DefaultStrategy(_CHOICES[COLD_START], _CHOICES[RECOMMENDED], COLD_START, RECOMMENDED),
    **_CHOICES,
}
"""In the order in which the plugin lists them; the first is its default."""
