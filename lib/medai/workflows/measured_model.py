"""What a measurement of a model brings to its card, and the pieces every family's measurement shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from medai.registry.cards import CardFigure, CardGroups


class Tell(Protocol):
    """Told what is being done."""

    def __call__(self, words: str, done: int | None = None, total: int | None = None) -> None:
        """In words and, where it is known, in parts done and in all."""
        ...


def silent(words: str, done: int | None = None, total: int | None = None) -> None:
    """Tells nobody."""


EVALUATION_SEED = 1
"""Places the clicks and draws the bootstrap of every card's figures, as ``medai evaluate`` does by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model's figures on held-back cases, in the card's form.

    Attributes:
        what: what was measured on whom.
        figures: headline figures.
        groups: by subgroup.
        failures: ``known_failures`` of the card.
        commands: the commands that give the same figures.
        evaluation: further figures, JSON-ready, without single cases.
    """

    what: str
    figures: tuple[CardFigure, ...]
    groups: tuple[CardGroups, ...]
    failures: Mapping[str, Any]
    commands: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def metrics_json(self) -> dict[str, Any]:
        """``metrics`` of the card."""
        return {
            "what": self.what,
            "figures": [figure.model_dump(exclude_none=True) for figure in self.figures],
            "groups": [group.model_dump(exclude_none=True) for group in self.groups],
            "commands": list(self.commands),
            "evaluation": finite_json(self.evaluation),
        }


def figure(name: str, value: float | None, interval: Sequence[float | None] | None, n: int | None) -> CardFigure | None:
    """A figure for a card; None where it is not known: a card says nothing rather than "not a number"."""
    if value is None or not math.isfinite(value):
        return None
    low, high = interval or (None, None)
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return CardFigure(name=name, value=value, low=low if known else None, high=high if known else None, n=n)


def known(*figures: CardFigure | None) -> tuple[CardFigure, ...]:
    """Those that are known."""
    return tuple(each for each in figures if each is not None)


def groups_of(
    report: Mapping[str, Any], key: str, *, by: str, measure: str, value: str, interval: str, count: str = "n"
) -> CardGroups | None:
    """The subgroups of an evaluation's JSON; None where no group has a figure.

    Args:
        report: the evaluation.
        key: of the subgroups: name to figures.
        by: what they are grouped by, in words.
        measure: the figure in words.
        value: key of the figure in each group.
        interval: key of its interval.
        count: key of the number of cases.
    """
    rows = known(
        *(figure(name, row.get(value), row.get(interval), row.get(count)) for name, row in report.get(key, {}).items())
    )
    return CardGroups(by=by, measure=measure, rows=rows) if rows else None


def finite_json(value: Any) -> Any:
    """Plain values without NaN and infinity, which JSON does not know: they become null."""
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
