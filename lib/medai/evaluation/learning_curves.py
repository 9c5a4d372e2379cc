"""Learning curves of active-learning strategies: area, labels needed, and paired comparisons over seeds.

A curve says how good a model was after so many labels. All strategies of one seed start from the same labelled cases
and are judged on the same ones, so that differences are taken seed by seed. As in nnActive (Lüth et al., TMLR 2025),
AUBC is the area under the budget curve, here divided by the budget's range, so that it reads as a mean figure.
numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError

RANDOM, FOREGROUND_RANDOM = "random", "foreground_random"
BASELINES = (RANDOM, FOREGROUND_RANDOM)
ENOUGH = 0.95
"""Share of the full-data figure at which a model counts as trained."""
_CONFIDENCE = 0.95
_LEAST_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """One strategy with one seed.

    Attributes:
        cases: labelled cases at each point, increasing.
        millilitres: volume outlined until then, not decreasing.
        figures: what the model reached, larger is better.
    """

    cases: tuple[float, ...]
    millilitres: tuple[float, ...]
    figures: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.cases) == len(self.millilitres) == len(self.figures) or len(self.cases) < 2:
            raise InputError(
                f"A learning curve has two points or more with a figure each; this one has {len(self.cases)} numbers "
                f"of cases, {len(self.millilitres)} volumes and {len(self.figures)} figures."
            )
        if np.any(np.diff(self.cases) <= 0) or np.any(np.diff(self.millilitres) < 0):
            raise InputError("A learning curve goes from few labels to many: its points are out of order.")
        if not np.all(np.isfinite(self.figures)):
            raise InputError("A learning curve has a figure that is not a number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyFigures:
    """What a strategy is worth.

    Attributes:
        strategy: its name.
        seeds: how many curves.
        aubc: mean area under the curve over the cases, as a mean figure.
        aubc_ci95: 95 % t-interval over seeds; None with one seed.
        final: mean figure at the last point.
        labels_to_95pct: cases from which on the mean curve is at ``ENOUGH`` of the full-data figure or more,
            interpolated; None where it ends below.
        share_of_random_labels: that over the labels that ``random`` needs; None where either is unknown.
        millilitres_to_95pct: the same in volume outlined.
        aubc_by_millilitres: mean area over the volume outlined, up to where the shortest curve of the seed ends.
        gains: baseline to the comparison with it; empty for itself.
    """

    strategy: str
    seeds: int
    aubc: float
    aubc_ci95: tuple[float, float] | None
    final: float
    labels_to_95pct: float | None
    share_of_random_labels: float | None
    millilitres_to_95pct: float | None
    aubc_by_millilitres: float
    gains: Mapping[str, PairedGain]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``gain_vs_<baseline>`` and ``p_vs_<baseline>`` are None where there is nothing to compare."""
        shown: dict[str, Any] = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("gains", "aubc_ci95", "strategy")
        }
        shown["aubc_ci95"] = list(self.aubc_ci95) if self.aubc_ci95 else None
        for baseline in BASELINES:
            gain = self.gains.get(baseline)
            shown[f"gain_vs_{baseline}"] = gain.mean if gain else None
            shown[f"gain_vs_{baseline}_ci95"] = list(gain.ci95) if gain and gain.ci95 else None
            shown[f"p_vs_{baseline}"] = gain.p if gain else None
            shown[f"gain_by_millilitres_vs_{baseline}"] = gain.mean_by_millilitres if gain else None
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedGain:
    """A strategy's area less a baseline's, seed by seed.

    Attributes:
        mean: over seeds; above 0 the strategy is better.
        ci95: 95 % t-interval; None with one seed.
        p: two-sided paired t-test; None with one seed.
        mean_by_millilitres: the same for the area over the volume outlined.
    """

    mean: float
    ci95: tuple[float, float] | None
    p: float | None
    mean_by_millilitres: float


Curves = Mapping[str, Mapping[int, LearningCurve]]
"""Strategy to seed to curve."""


def compare_strategies(curves: Curves, full_figure: float) -> dict[str, StrategyFigures]:
    """Figures of each strategy, with comparisons with the baselines on the seeds that both have.

    Args:
        curves: strategy to seed to curve; the curves of a seed have the same numbers of cases.
        full_figure: what a model reaches that learned from every case of the pool, finite and above 0.

    Raises:
        InputError: no curve, or the full figure cannot be a goal.
    """
    if not curves or any(not by_seed for by_seed in curves.values()):
        raise InputError("There is no curve to compare: run at least one seed of each strategy.")
    if not (np.isfinite(full_figure) and full_figure > 0):
        raise InputError(f"The full-data figure is {full_figure}: it must be above 0 to be a goal.")
    ends = {seed: _shortest_end(curves, seed) for by_seed in curves.values() for seed in by_seed}
    goal = ENOUGH * full_figure
    areas = {name: {seed: area(c.cases, c.figures) for seed, c in own.items()} for name, own in curves.items()}
    volumes = {
        name: {seed: area(c.millilitres, c.figures, until=ends[seed]) for seed, c in own.items()}
        for name, own in curves.items()
    }
    needed = {
        name: reached_at(*mean_curve([(c.cases, c.figures) for c in own.values()]), goal)
        for name, own in curves.items()
    }
    return {
        name: StrategyFigures(
            strategy=name,
            seeds=len(own),
            aubc=float(np.mean(list(areas[name].values()))),
            aubc_ci95=t_interval(list(areas[name].values())),
            final=float(np.mean([curve.figures[-1] for curve in own.values()])),
            labels_to_95pct=needed[name],
            share_of_random_labels=_share(needed[name], needed.get(RANDOM)),
            millilitres_to_95pct=reached_at(*_mean_by_round(list(own.values())), goal),
            aubc_by_millilitres=float(np.mean(list(volumes[name].values()))),
            gains={
                baseline: gain
                for baseline in BASELINES
                if baseline != name and baseline in curves
                for gain in [_paired_gain(areas[name], areas[baseline], volumes[name], volumes[baseline])]
                if gain is not None
            },
        )
        for name, own in curves.items()
    }


def area(budget: Sequence[float], figures: Sequence[float], *, until: float | None = None) -> float:
    """Area under a curve over its budget, divided by the budget's range: a mean figure.

    Args:
        budget: not decreasing.
        figures: one each.
        until: where the area ends; None: at the last point. A curve that ends before is counted to its end.
    """
    from scipy import integrate

    x, y = np.asarray(budget, dtype=np.float64), np.asarray(figures, dtype=np.float64)
    if until is not None and until < x[-1]:
        inside = x < until
        y = np.append(y[inside], np.interp(until, x, y))
        x = np.append(x[inside], until)
    reach = float(x[-1] - x[0])
    return float(integrate.trapezoid(y, x) / reach) if reach > 0 else float(y[-1])


def mean_curve(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of curves of (budget, figures) at every budget that one of them has and all of them reach."""
    start, end = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    points = np.unique([min(max(float(x), start), end) for budget, _ in curves for x in budget])
    return points, np.mean([np.interp(points, budget, figures) for budget, figures in curves], axis=0)


def _mean_by_round(curves: Sequence[LearningCurve]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean volume and mean figure after each round that all curves have.

    A mean at equal volumes (``mean_curve``) would begin where the curve with the largest first nodules does.
    """
    rounds = min(len(curve.figures) for curve in curves)
    volumes = np.mean([curve.millilitres[:rounds] for curve in curves], axis=0)
    return np.asarray(volumes), np.mean([curve.figures[:rounds] for curve in curves], axis=0)


def reached_at(
    budget: Sequence[float] | NDArray[np.float64], figures: Sequence[float] | NDArray[np.float64], goal: float
) -> float | None:
    """The budget from which on a curve is never below a goal, interpolated; None where it ends below.

    The first crossing would reward a lucky point: what counts is a model that is good and stays so.
    """
    x, y = np.asarray(budget, dtype=np.float64), np.asarray(figures, dtype=np.float64)
    below = np.flatnonzero(y < goal)
    if not len(below):
        return float(x[0])
    last = int(below[-1])
    if last == len(x) - 1:
        return None
    share = (goal - y[last]) / (y[last + 1] - y[last])
    return float(x[last] + share * (x[last + 1] - x[last]))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of a mean; None for one value."""
    if len(values) < _LEAST_SEEDS:
        return None
    from scipy import stats

    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1)) * error
    return mean - half, mean + half


def _paired_gain(
    own: Mapping[int, float],
    baseline: Mapping[int, float],
    own_volume: Mapping[int, float],
    baseline_volume: Mapping[int, float],
) -> PairedGain | None:
    shared = sorted(own.keys() & baseline.keys())
    if not shared:
        return None
    gains = [own[seed] - baseline[seed] for seed in shared]
    return PairedGain(
        mean=float(np.mean(gains)),
        ci95=t_interval(gains),
        p=_paired_p(gains),
        mean_by_millilitres=float(np.mean([own_volume[seed] - baseline_volume[seed] for seed in shared])),
    )


def _paired_p(gains: Sequence[float]) -> float | None:
    """Two-sided p of a paired t-test; 1 where nothing differs, None for one seed."""
    if len(gains) < _LEAST_SEEDS:
        return None
    if np.ptp(gains) == 0:
        # The test has no spread to go by: equal curves do not differ, equal gains are no matter of chance.
        return 1.0 if gains[0] == 0 else 0.0
    from scipy import stats

    return float(stats.ttest_1samp(gains, 0.0).pvalue)


def _shortest_end(curves: Curves, seed: int) -> float:
    """Least volume at which a curve of the seed ends."""
    return min(by_seed[seed].millilitres[-1] for by_seed in curves.values() if seed in by_seed)


def _share(needed: float | None, random_needed: float | None) -> float | None:
    return needed / random_needed if needed is not None and random_needed else None
