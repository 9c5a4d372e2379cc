"""Which seeds a retraining simulation plays."""

import pytest

from medai.errors import InputError
from medai.workflows.simulate_retraining import SimulationConfig


def test_the_seeds_follow_the_first_one():
    assert list(SimulationConfig(seeds=3).seed_numbers) == [1, 2, 3]
    assert list(SimulationConfig(seeds=2, first_seed=4).seed_numbers) == [4, 5]


@pytest.mark.parametrize("name", ["rounds", "seeds", "first_seed", "cases_per_round", "epochs"])
def test_none_is_refused(name):
    with pytest.raises(InputError, match=name):
        SimulationConfig(**{name: 0})
