"""The weights in the package and their cards belong together, and the cards are complete."""

import pytest

from medai.registry.cards import check_starter
from medai.registry.model_registry import PACKAGED_STARTERS


@pytest.mark.parametrize("task", sorted(path.name for path in PACKAGED_STARTERS.iterdir() if path.is_dir()))
def test_every_packaged_starter_has_a_complete_card(task):
    card = check_starter(PACKAGED_STARTERS / task)
    assert card.version_id == "starter"
    assert len(card.known_failures.cases) == 10
    assert all(figure.low is not None for figure in card.metrics.figures[:1])
    weights = PACKAGED_STARTERS / task / "weights.safetensors"
    assert weights.stat().st_size < 8 << 20
