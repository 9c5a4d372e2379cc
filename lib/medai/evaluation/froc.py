"""Detection as LUNA16 counts it: sensitivity against false positives a scan (FROC), and the mean of it (CPM).

The rules, those of LUNA16's own evaluation script (https://luna16.grand-challenge.org/Evaluation/):

1. A mark hits a finding where it is nearer to its centre than the finding's radius (exactly the radius is a miss).
2. A nodule hit by several marks counts once, with the highest of their probabilities; the others are nothing: neither
   right nor wrong. A mark that lies in two nodules hits both.
3. A mark that hits an irrelevant finding (LUNA16's excluded annotations) is nothing either, unless it hits a nodule.
4. Every other mark is a false positive.
5. Of a scan with more than 100 marks only the most probable count: those above the probability of the 101st.
6. A nodule no mark hits has the probability −inf: no threshold finds it.
7. Marks of equal probability are taken together: a threshold has them all or none. Between two thresholds the curve is
   a straight line, before the first it starts at (0, 0), after the last it goes on level.
8. The CPM is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a scan.
9. Intervals are percentiles of bootstrap samples of whole scans.

numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain.detection_case import TrueNodule
from medai.errors import InputError

LUNA16_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a scan at which the CPM looks."""
MOST_MARKS = 100
DRAWS = 1000

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place a detector points at.

    Attributes:
        centre_ras_mm: RAS millimetres.
        probability: any finite score; higher is surer.
    """

    centre_ras_mm: tuple[float, float, float]
    probability: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.centre_ras_mm, self.probability)):
            raise InputError(
                f"A mark needs a finite place and probability, this one has {self.centre_ras_mm} and "
                f"{self.probability}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTruth:
    """What is known of a scan.

    Attributes:
        nodules: what must be found.
        irrelevant: findings that may be marked or not.
    """

    nodules: tuple[TrueNodule, ...] = ()
    irrelevant: tuple[TrueNodule, ...] = ()

    def at_least(self, diameter_mm: float) -> ScanTruth:
        """The truth in which smaller nodules are irrelevant."""
        large = tuple(nodule for nodule in self.nodules if nodule.diameter_mm >= diameter_mm)
        small = tuple(nodule for nodule in self.nodules if nodule.diameter_mm < diameter_mm)
        return ScanTruth(nodules=large, irrelevant=(*self.irrelevant, *small))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanMatch:
    """What the marks of one scan are worth.

    Attributes:
        nodule_probability: one a nodule, in the truth's order: of its most probable hit, −inf where there is none.
        false_positive_probability: one a false positive, highest first.
        on_irrelevant: marks that hit an irrelevant finding and no nodule.
        repeated: marks beyond the first in a nodule.
        cut: marks beyond the scan's most probable 100.
    """

    nodule_probability: _Floats
    false_positive_probability: _Floats
    on_irrelevant: int
    repeated: int
    cut: int

    @property
    def highest(self) -> float:
        """Highest probability of a mark that is not on an irrelevant finding; −inf where there is none."""
        both = np.concatenate([self.nodule_probability, self.false_positive_probability])
        return float(both.max(initial=-np.inf))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrocResult:
    """A FROC curve and what is read from it; a figure that does not exist (no nodule at all) is NaN.

    Attributes:
        fps_per_scan: false positives a scan at each distinct probability, rising from 0.
        sensitivity: share of the nodules found there, rising from 0.
        threshold: the probability from which marks count there, falling from inf.
        at_rates: rate of false positives to sensitivity.
        at_rates_ci95: rate to the 95 % interval of that sensitivity.
        cpm: mean of ``at_rates``.
        cpm_ci95: its 95 % interval, by scan bootstrap.
        scans: how many.
        nodules: how many had to be found.
        found: how many were, at any probability.
        false_positives: marks that are wrong.
        on_irrelevant: marks that count neither way because of where they are.
        repeated: marks that count neither way because their nodule is found already.
        cut: marks beyond the most probable 100 of their scans.
    """

    fps_per_scan: _Floats
    sensitivity: _Floats
    threshold: _Floats
    at_rates: dict[float, float]
    at_rates_ci95: dict[float, tuple[float, float]]
    cpm: float
    cpm_ci95: tuple[float, float]
    scans: int
    nodules: int
    found: int
    false_positives: int
    on_irrelevant: int
    repeated: int
    cut: int

    def sensitivity_at(self, rate: float) -> float:
        """Sensitivity at a number of false positives a scan."""
        return float(_interpolated(np.array([rate]), self.fps_per_scan, self.sensitivity)[0])

    def at_threshold(self, threshold: float) -> tuple[float, float]:
        """Sensitivity and false positives a scan where marks of this probability and more count."""
        last = int(np.flatnonzero(self.threshold >= threshold)[-1])
        return float(self.sensitivity[last]), float(self.fps_per_scan[last])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLevelResult:
    """Whether scans with a nodule are told from those without.

    Attributes:
        threshold: a scan is called positive by a mark of this probability or more that is not on an irrelevant finding.
        sensitivity: share of the scans with a nodule that are called so; NaN where there are none.
        sensitivity_ci95: Wilson's interval.
        specificity: share of the scans without a nodule that are not called positive; NaN where there are none.
        specificity_ci95: Wilson's interval.
        positives: scans with a nodule.
        negatives: scans without.
    """

    threshold: float
    sensitivity: float
    sensitivity_ci95: tuple[float, float]
    specificity: float
    specificity_ci95: tuple[float, float]
    positives: int
    negatives: int


def match_scan(marks: Sequence[Mark], truth: ScanTruth, *, most_marks: int = MOST_MARKS) -> ScanMatch:
    """Hold the marks of one scan against its truth (rules 1 to 6 of the module).

    Args:
        marks: any order.
        truth: of the same scan, in the same frame.
        most_marks: so many of the most probable count.
    """
    probability = np.array([mark.probability for mark in marks], dtype=np.float64)
    centres_mm = np.array([mark.centre_ras_mm for mark in marks], dtype=np.float64).reshape(-1, 3)
    if len(marks) > most_marks:
        kept = probability > np.sort(probability)[::-1][most_marks]
        probability, centres_mm = probability[kept], centres_mm[kept]
    in_nodule = _hits(centres_mm, truth.nodules)
    in_irrelevant = _hits(centres_mm, truth.irrelevant).any(axis=0)
    is_hit = in_nodule.any(axis=0)
    false = np.sort(probability[~is_hit & ~in_irrelevant])[::-1]
    found = np.where(in_nodule, probability, -np.inf).max(axis=1, initial=-np.inf)
    return ScanMatch(
        nodule_probability=found,
        false_positive_probability=false,
        on_irrelevant=int(np.count_nonzero(in_irrelevant & ~is_hit)),
        repeated=int(np.maximum(np.count_nonzero(in_nodule, axis=1) - 1, 0).sum()),
        cut=len(marks) - len(probability),
    )


def froc(
    marks: Mapping[str, Sequence[Mark]],
    truths: Mapping[str, ScanTruth],
    *,
    rates: Sequence[float] = LUNA16_RATES,
    least_diameter_mm: float = 0.0,
    most_marks: int = MOST_MARKS,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> FrocResult:
    """FROC of a detector over scans.

    Args:
        marks: scan id to its marks; a scan without any may be left out, a scan that has no truth is passed over.
        truths: scan id to what is known of it; these are the scans that count.
        rates: false positives a scan at which the sensitivity is read.
        least_diameter_mm: smaller nodules become irrelevant.
        most_marks: so many of a scan's most probable marks count.
        draws: bootstrap samples of scans.
        rng: draws them.

    Raises:
        InputError: no scan.
    """
    if not truths:
        raise InputError("There is no scan to judge the detector on.")
    matches = [
        match_scan(marks.get(scan, ()), truth.at_least(least_diameter_mm), most_marks=most_marks)
        for scan, truth in truths.items()
    ]
    events = _Events.of(matches)
    threshold, fps, sensitivity = events.curve(np.ones(len(matches), dtype=np.int64))
    at_rates = _interpolated(np.asarray(rates, dtype=np.float64), fps, sensitivity)
    drawn = rng.multinomial(len(matches), np.full(len(matches), 1 / len(matches)), size=draws)
    sampled = np.array([_interpolated(np.asarray(rates), *events.curve(weights)[1:]) for weights in drawn])
    return FrocResult(
        fps_per_scan=fps,
        sensitivity=sensitivity,
        threshold=threshold,
        at_rates=dict(zip(map(float, rates), at_rates.tolist(), strict=True)),
        at_rates_ci95={float(rate): _interval(sampled[:, n]) for n, rate in enumerate(rates)},
        cpm=float(at_rates.mean()),
        cpm_ci95=_interval(sampled.mean(axis=1)),
        scans=len(matches),
        nodules=sum(len(match.nodule_probability) for match in matches),
        found=sum(int(np.count_nonzero(np.isfinite(match.nodule_probability))) for match in matches),
        false_positives=sum(len(match.false_positive_probability) for match in matches),
        on_irrelevant=sum(match.on_irrelevant for match in matches),
        repeated=sum(match.repeated for match in matches),
        cut=sum(match.cut for match in matches),
    )


def scan_level(
    marks: Mapping[str, Sequence[Mark]],
    truths: Mapping[str, ScanTruth],
    threshold: float,
    *,
    most_marks: int = MOST_MARKS,
) -> ScanLevelResult:
    """Sensitivity and specificity of calling whole scans positive.

    Args:
        marks: scan id to its marks.
        truths: scan id to what is known of it. A scan whose findings are all irrelevant is negative.
        threshold: a scan is called positive from this probability on.
        most_marks: so many of a scan's most probable marks count.
    """
    called: dict[bool, list[bool]] = {True: [], False: []}
    for scan, truth in truths.items():
        match = match_scan(marks.get(scan, ()), truth, most_marks=most_marks)
        called[bool(truth.nodules)].append(match.highest >= threshold)
    right, negatives = sum(called[True]), len(called[False])
    rejected = negatives - sum(called[False])
    return ScanLevelResult(
        threshold=threshold,
        sensitivity=_share(right, len(called[True])),
        sensitivity_ci95=wilson_interval(right, len(called[True])),
        specificity=_share(rejected, negatives),
        specificity_ci95=wilson_interval(rejected, negatives),
        positives=len(called[True]),
        negatives=negatives,
    )


def wilson_interval(count: int, total: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion (95 % by default); NaN for none of none."""
    if total == 0:
        return (math.nan, math.nan)
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Events:
    """Every nodule found and every false positive of all scans, most probable first.

    Attributes:
        scan: number of the scan of each.
        is_hit: True for a nodule, False for a false positive.
        group_end: index of the last event of each distinct probability.
        threshold: that probability.
        nodules_of_scan: nodules to be found in each scan.
    """

    scan: NDArray[np.int64]
    is_hit: NDArray[np.bool_]
    group_end: NDArray[np.int64]
    threshold: _Floats
    nodules_of_scan: NDArray[np.int64]

    @classmethod
    def of(cls, matches: Sequence[ScanMatch]) -> _Events:
        """The events of scans."""
        hits = [match.nodule_probability[np.isfinite(match.nodule_probability)] for match in matches]
        wrong = [match.false_positive_probability for match in matches]
        probability = np.concatenate([*hits, *wrong])
        numbers = np.arange(len(matches))
        scan = np.concatenate([np.repeat(numbers, [len(p) for p in part]) for part in (hits, wrong)])
        is_hit = np.arange(len(probability)) < sum(len(p) for p in hits)
        order = np.argsort(-probability, kind="stable")
        falling = probability[order]
        group_end = np.flatnonzero(np.append(falling[1:] != falling[:-1], np.ones(min(1, len(falling)), dtype=bool)))
        return cls(
            scan=scan[order],
            is_hit=is_hit[order],
            group_end=group_end,
            threshold=falling[group_end],
            nodules_of_scan=np.array([len(match.nodule_probability) for match in matches], dtype=np.int64),
        )

    def curve(self, weights: NDArray[np.int64]) -> tuple[_Floats, _Floats, _Floats]:
        """Thresholds, false positives a scan and sensitivity where each scan counts ``weights`` times."""
        of_event = weights[self.scan]
        hits = np.cumsum(of_event * self.is_hit)[self.group_end]
        wrong = np.cumsum(of_event * ~self.is_hit)[self.group_end]
        nodules = int(weights @ self.nodules_of_scan)
        sensitivity = hits / nodules if nodules else np.full(len(hits), np.nan)
        start = 0.0 if nodules else math.nan
        return (
            np.concatenate([[np.inf], self.threshold]),
            np.concatenate([[0.0], wrong / int(weights.sum())]),
            np.concatenate([[start], sensitivity]),
        )


def _hits(centres_mm: _Floats, findings: Sequence[TrueNodule]) -> NDArray[np.bool_]:
    """Which mark lies in which finding: shape (findings, marks)."""
    where_mm = np.array([finding.centre_ras_mm for finding in findings], dtype=np.float64).reshape(-1, 1, 3)
    radius_mm = np.array([finding.diameter_mm / 2 for finding in findings], dtype=np.float64).reshape(-1, 1)
    apart = np.sum((centres_mm[None] - where_mm) ** 2, axis=2)
    return np.asarray(apart < radius_mm**2)


def _interpolated(rates: _Floats, fps: _Floats, sensitivity: _Floats) -> _Floats:
    """Sensitivity at rates; of several points at one rate the highest counts."""
    return np.asarray(np.interp(rates, fps, sensitivity), dtype=np.float64)


def _interval(values: _Floats) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the bootstrap samples in which there was a nodule."""
    usable = values[np.isfinite(values)]
    if usable.size == 0:
        return (math.nan, math.nan)
    low, high = np.percentile(usable, [2.5, 97.5])
    return (float(low), float(high))


def _share(count: int, total: int) -> float:
    return count / total if total else math.nan
