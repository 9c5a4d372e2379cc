"""What some cases have in common that others have not: each known feature compared between the two, and said in words.

Numbers are compared by the Mann–Whitney test, kinds (texture) by Fisher's exact test, a kind at a time. Ten cases are
few and features are many: a difference says where to look, not what is the cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
"""Differences that chance makes rarer than this are told; not corrected for the number of features."""
FEWEST = 3
"""A feature is compared where so many cases on each side have it."""

Features = Mapping[str, float | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One feature, compared.

    Attributes:
        feature: its name.
        p_value: how often chance alone makes such a difference.
        sentence: both sides in words.
    """

    feature: str
    p_value: float
    sentence: str


def describe_contrasts(
    cases: Sequence[Features], others: Sequence[Features], *, units: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Say what sets some cases apart.

    Args:
        cases: features of each of the cases in question, by name; None where one is not known.
        others: features of all the other cases.
        units: feature to its unit, for the words.

    Returns:
        A sentence a difference, the clearest first; where there is none, one that says so. The last one says how many
        features were compared.
    """
    found = contrasts(cases, others, units=units or {})
    told = [contrast.sentence for contrast in found if contrast.p_value < LEVEL]
    names = list(dict.fromkeys(contrast.feature for contrast in found))
    if not names:
        return ("There are too few cases to compare.",)
    compared = f"Compared: {', '.join(names)}; p values are not corrected for their number."
    return (*(told or ["No feature that is known of them sets them apart."]), compared)


def contrasts(
    cases: Sequence[Features], others: Sequence[Features], *, units: Mapping[str, str]
) -> tuple[Contrast, ...]:
    """Compare every feature that both sides have, the clearest difference first."""
    names = dict.fromkeys(name for case in (*cases, *others) for name in case)
    found: list[Contrast] = []
    for name in names:
        here = [value for case in cases if (value := case.get(name)) is not None]
        there = [value for case in others if (value := case.get(name)) is not None]
        if len(here) < FEWEST or len(there) < FEWEST:
            continue
        if all(isinstance(value, str) for value in (*here, *there)):
            found += _kinds(name, [str(value) for value in here], [str(value) for value in there])
        elif not any(isinstance(value, str) for value in (*here, *there)):
            found.append(_numbers(name, [float(v) for v in here], [float(v) for v in there], units.get(name, "")))
    return tuple(sorted(found, key=lambda contrast: contrast.p_value))


def _numbers(name: str, here: list[float], there: list[float], unit: str) -> Contrast:
    from scipy import stats

    p_value = float(stats.mannwhitneyu(here, there).pvalue)
    median, other = (f"{np.median(values):.3g}{f' {unit}' if unit else ''}" for values in (here, there))
    return Contrast(
        feature=name,
        p_value=p_value,
        sentence=f"{_capital(name)}: median {median}, {other} of the others ({_p(p_value)}).",
    )


def _kinds(name: str, here: list[str], there: list[str]) -> list[Contrast]:
    from scipy import stats

    found = []
    for kind in sorted(set(here)):
        mine, theirs = here.count(kind), there.count(kind)
        p_value = float(stats.fisher_exact([[mine, len(here) - mine], [theirs, len(there) - theirs]])[1])
        share = 100 * theirs / len(there)
        sentence = (
            f"{_capital(name)}: {mine} of {len(here)} are {kind}, {theirs} of {len(there)} ({share:.0f} %) of the "
            f"others ({_p(p_value)})."
        )
        found.append(Contrast(feature=name, p_value=p_value, sentence=sentence))
    return found


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
