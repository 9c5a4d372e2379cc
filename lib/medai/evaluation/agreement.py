"""How far annotators agree, and which of them outlines too large, too small or something else altogether.

Whoever is found biased or outlying is no peer for the others any more: one reader who outlines far too large makes the
rest look as if they outlined too small. The model's proposals stand in for other annotators only of whom too few cases
were read by anybody else: a weak model outlines too small or too large itself, and would accuse everybody who corrects
it. numpy only; cases are drawn whole, nodules of one scan are alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.errors import GeometryError, InputError
from medai.evaluation.dice import MeanInterval, dice, mean_by_patient_bootstrap
from medai.evaluation.roc import quadratic_kappa

BIAS_MARGIN = 0.10
"""A mean volume this much off, interval and all, is a bias."""
FEWEST_CASES = 5
"""Of fewer cases nobody is named."""
OUTLIER_SPREADS = 3.0
LEAST_SPREAD = 0.03
"""Dice by which careful readers differ anyway: with three of them the median deviation may be next to nothing."""
_MAD_TO_SD = 1.4826
_BIAS_DRAWS = 20000
"""The expanded interval of five cases leaves out one draw in a thousand on each side."""
_TIE = 0.8
"""Two opposite biases of which the smaller is this much of the larger accuse each other."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadNodule:
    """One nodule of a case and who outlined it how.

    Attributes:
        case_id: the scan.
        readers: everybody who read the scan, with or without this nodule.
        masks: reader to outline, bool, all in one box; readers who did not mark it are missing.
        ratings: reader to attribute to rating, 1–5.
    """

    case_id: str
    readers: tuple[str, ...]
    masks: Mapping[str, NDArray[np.bool_]]
    ratings: Mapping[str, Mapping[str, int]]

    def __post_init__(self) -> None:
        if len({mask.shape for mask in self.masks.values()}) > 1:
            raise GeometryError(f"The outlines of a nodule of case '{self.case_id}' differ in shape: use one box.")
        strangers = sorted(self.masks.keys() - set(self.readers))
        empty = sorted(reader for reader, mask in self.masks.items() if not mask.any())
        if strangers or empty:
            raise InputError(
                f"Case '{self.case_id}' has outlines without a voxel ({', '.join(empty) or 'none'}) or of people who "
                f"are no readers of it ({', '.join(strangers) or 'none'}): leave them out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalComparison:
    """One annotator's label of a case against the model's proposal for it.

    Attributes:
        case_id: the scan.
        reader: the annotator.
        dice: of all nodules together, 0–1.
        log_volume_ratio: natural logarithm of the label's volume over the proposal's; None where nodules were added or
            removed, or a volume is 0.
    """

    case_id: str
    reader: str
    dice: float
    log_volume_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAgreement:
    """Two readers of the same cases.

    Attributes:
        first: a reader.
        second: another one.
        cases: that both read.
        both: nodules that both marked.
        only_first: nodules that the first marked alone.
        only_second: nodules that the second marked alone.
        detection: 2·both / (2·both + only_first + only_second), 0–1; None without a nodule.
        dice: of the nodules that both marked; None without one.
    """

    first: str
    second: str
    cases: int
    both: int
    only_first: int
    only_second: int
    detection: float | None
    dice: MeanInterval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingAgreement:
    """Two readers' ratings of one attribute.

    Attributes:
        attribute: what is rated.
        first: a reader.
        second: another one.
        nodules: that both rated.
        kappa: with quadratic weights; NaN where all ratings are the same one.
    """

    attribute: str
    first: str
    second: str
    nodules: int
    kappa: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeBias:
    """How much too large or small an annotator outlines.

    Attributes:
        reader: the annotator.
        log_ratio: mean of ln(volume / the peers' volume), with its 95 % interval by case.
        against_peers: nodules compared with other annotators.
        against_model: cases compared with the model's proposal: nobody else read them, and too few others.
        is_biased: the whole interval lies beyond the margin, and there are enough cases.
        is_disputed: two annotators differ from each other beyond the margin, and nothing says whose outlines are wrong.
    """

    reader: str
    log_ratio: MeanInterval
    against_peers: int
    against_model: int
    is_biased: bool
    is_disputed: bool

    @property
    def percent(self) -> tuple[float, float, float]:
        """Mean, low and high in percent of the volume; above 0 is too large."""
        mean, low, high = (
            100 * float(np.expm1(n)) for n in (self.log_ratio.mean, self.log_ratio.low, self.log_ratio.high)
        )
        return mean, low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapWithPeers:
    """How well an annotator's whole labels overlap those of the others.

    Attributes:
        reader: the annotator.
        dice: mean over cases of the Dice of all nodules together to the other annotators' (mean over them), or, with
            too few of those, to the model's proposal where nobody else read the case; nodules that one of them lacks
            count.
        limit: Dice below which this annotator is an outlier; None with fewer than three annotators of enough cases.
        is_outlier: below it.
        against_peers: cases compared with other annotators.
    """

    reader: str
    dice: MeanInterval
    limit: float | None
    is_outlier: bool
    against_peers: int


def pair_agreements(nodules: Sequence[ReadNodule], rng: np.random.Generator) -> tuple[PairAgreement, ...]:
    """Compare every two readers who share a case: detection, and Dice of what both marked."""
    found = []
    for first, second in itertools.combinations(_readers(nodules), 2):
        shared = [n for n in nodules if first in n.readers and second in n.readers]
        if not shared:
            continue
        both = [n for n in shared if first in n.masks and second in n.masks]
        only_first = sum(first in n.masks and second not in n.masks for n in shared)
        only_second = sum(second in n.masks and first not in n.masks for n in shared)
        marked = 2 * len(both) + only_first + only_second
        values = [dice(n.masks[first], n.masks[second]) for n in both]
        found.append(
            PairAgreement(
                first=first,
                second=second,
                cases=len({n.case_id for n in shared}),
                both=len(both),
                only_first=only_first,
                only_second=only_second,
                detection=2 * len(both) / marked if marked else None,
                dice=mean_by_patient_bootstrap(values, [n.case_id for n in both], rng) if both else None,
            )
        )
    return tuple(found)


def rating_agreements(nodules: Sequence[ReadNodule]) -> tuple[RatingAgreement, ...]:
    """Weighted kappa of every two readers and attribute of which both rated a nodule."""
    found = []
    attributes = sorted({name for n in nodules for ratings in n.ratings.values() for name in ratings})
    for attribute, (first, second) in itertools.product(attributes, itertools.combinations(_readers(nodules), 2)):
        pairs = [
            (n.ratings[first][attribute], n.ratings[second][attribute])
            for n in nodules
            if attribute in n.ratings.get(first, {}) and attribute in n.ratings.get(second, {})
        ]
        if pairs:
            kappa = quadratic_kappa([a for a, _ in pairs], [b for _, b in pairs])
            found.append(
                RatingAgreement(attribute=attribute, first=first, second=second, nodules=len(pairs), kappa=kappa)
            )
    return tuple(found)


def volume_biases(
    nodules: Sequence[ReadNodule],
    proposals: Sequence[ProposalComparison],
    rng: np.random.Generator,
    *,
    margin: float = BIAS_MARGIN,
    fewest_cases: int = FEWEST_CASES,
    no_peers: Collection[str] = (),
) -> tuple[VolumeBias, ...]:
    """Find who outlines too large or too small.

    Each nodule of an annotator is compared with the median (of logarithms) of the other annotators' volumes of it; with
    fewer such cases than anybody is named of, a case that nobody else marked is compared with the model's proposal. The
    most biased annotator is no peer from then on, and the others are looked at again. Where two accuse each other, both
    are compared with the model.

    Args:
        nodules: matched between annotators.
        proposals: annotators' labels against the model's.
        rng: draws the cases.
        margin: of volume, above 0 and below 1.
        fewest_cases: of which anybody is named.
        no_peers: whose volumes say nothing of the others': those who label something else altogether. One voxel here
            and half a lung there widen everybody's interval until no bias can be told.

    Raises:
        InputError: a margin out of range.
    """
    if not 0 < margin < 1:
        raise InputError(f"A margin of {margin} is out of range: give a share of the volume above 0 and below 1.")
    readers = sorted({*_readers(nodules), *(p.reader for p in proposals)})
    left_out = set(no_peers)
    named: set[str] = set()
    accused: set[str] = set()
    while True:
        found = {r: _volume_bias(r, nodules, proposals, left_out, rng, margin, fewest_cases) for r in readers}
        suspects = [b for r, b in found.items() if b is not None and b.is_biased and r not in named]
        if not suspects:
            break
        suspects.sort(key=lambda b: -abs(b.log_ratio.mean))
        worst = suspects[0]
        named.add(worst.reader)
        for other in suspects[1:]:
            if other.log_ratio.mean * worst.log_ratio.mean < 0 and (
                abs(other.log_ratio.mean) >= _TIE * abs(worst.log_ratio.mean)
            ):
                named.add(other.reader)
                accused |= {worst.reader, other.reader}
        left_out |= named
    return tuple(
        _disputed(reader, bias, accused, nodules, proposals, rng, margin, fewest_cases)
        for reader, bias in found.items()
        if bias is not None or reader in accused
    )


def overlaps_with_peers(
    nodules: Sequence[ReadNodule],
    proposals: Sequence[ProposalComparison],
    rng: np.random.Generator,
    *,
    fewest_cases: int = FEWEST_CASES,
) -> tuple[OverlapWithPeers, ...]:
    """Find whose labels are far from everybody else's.

    An outlier lies below the median of the annotators by three spreads (median absolute deviation, as a standard
    deviation, ``LEAST_SPREAD`` at least). The farthest is no peer from then on, and the others are looked at again.
    """
    readers = sorted({*_readers(nodules), *(p.reader for p in proposals)})
    outliers: dict[str, float] = {}
    while True:
        found = {r: _overlap(r, nodules, proposals, set(outliers), rng, fewest_cases) for r in readers}
        judged = {r: d.mean for r, (d, _) in found.items() if d is not None and d.cases >= fewest_cases}
        peers = [value for r, value in judged.items() if r not in outliers]
        limit = _limit(peers) if len(judged) >= 3 else None
        below = {r: value for r, value in judged.items() if limit is not None and value < limit and r not in outliers}
        if not below or limit is None:
            break
        outliers[min(below, key=lambda r: below[r])] = limit
    return tuple(
        OverlapWithPeers(
            reader=reader,
            dice=value,
            limit=outliers.get(reader, limit if reader in judged else None),
            is_outlier=reader in outliers,
            against_peers=against_peers,
        )
        for reader, (value, against_peers) in found.items()
        if value is not None
    )


def _limit(values: Sequence[float]) -> float:
    middle = float(np.median(values))
    spread = _MAD_TO_SD * float(np.median(np.abs(np.asarray(values) - middle)))
    return middle - OUTLIER_SPREADS * max(LEAST_SPREAD, spread)


def _readers(nodules: Sequence[ReadNodule]) -> list[str]:
    return sorted({reader for nodule in nodules for reader in nodule.readers})


def _volume_bias(
    reader: str,
    nodules: Sequence[ReadNodule],
    proposals: Sequence[ProposalComparison],
    no_peers: set[str],
    rng: np.random.Generator,
    margin: float,
    fewest_cases: int,
) -> VolumeBias | None:
    """One annotator against the peers that are left; None without anything to compare with."""
    values: list[float] = []
    cases: list[str] = []
    for nodule in nodules:
        peers = [other for other in nodule.masks if other != reader and other not in no_peers]
        if reader in nodule.masks and peers:
            volumes = [np.log(np.count_nonzero(nodule.masks[other])) for other in peers]
            values.append(float(np.log(np.count_nonzero(nodule.masks[reader])) - np.median(volumes)))
            cases.append(nodule.case_id)
    against_peers, with_peers = len(values), set(cases)
    for proposal in proposals if len(with_peers) < fewest_cases else ():
        if proposal.reader == reader and proposal.case_id not in with_peers and proposal.log_volume_ratio is not None:
            values.append(proposal.log_volume_ratio)
            cases.append(proposal.case_id)
    if not values:
        return None
    # Of five cases a plain bootstrap is a third too narrow: it named honest annotators after a few shared cases.
    interval = mean_by_patient_bootstrap(values, cases, rng, draws=_BIAS_DRAWS, expanded=True)
    beyond = interval.low > np.log1p(margin) or interval.high < np.log1p(-margin)
    return VolumeBias(
        reader=reader,
        log_ratio=interval,
        against_peers=against_peers,
        against_model=len(values) - against_peers,
        is_biased=bool(beyond and interval.patients >= fewest_cases),
        is_disputed=False,
    )


def _disputed(
    reader: str,
    bias: VolumeBias | None,
    accused: set[str],
    nodules: Sequence[ReadNodule],
    proposals: Sequence[ProposalComparison],
    rng: np.random.Generator,
    margin: float,
    fewest_cases: int,
) -> VolumeBias:
    """What stands of an annotator; of one whom nothing but the accuser judges, what the accuser says."""
    enough = bias is not None and bias.log_ratio.patients >= fewest_cases
    if bias is not None and (reader not in accused or enough):
        return bias
    against_all = _volume_bias(reader, nodules, proposals, set(), rng, margin, fewest_cases)
    if against_all is None:
        raise InputError(f"Annotator '{reader}' has nothing to be compared with: read the annotations again.")
    return VolumeBias(
        reader=reader,
        log_ratio=against_all.log_ratio,
        against_peers=against_all.against_peers,
        against_model=against_all.against_model,
        is_biased=False,
        is_disputed=True,
    )


def _overlap(
    reader: str,
    nodules: Sequence[ReadNodule],
    proposals: Sequence[ProposalComparison],
    no_peers: set[str],
    rng: np.random.Generator,
    fewest_cases: int,
) -> tuple[MeanInterval | None, int]:
    """Mean over cases of the Dice of whole labels, and how many of these cases others have read."""
    by_case: dict[str, list[ReadNodule]] = {}
    for nodule in nodules:
        if reader in nodule.readers:
            by_case.setdefault(nodule.case_id, []).append(nodule)
    scores: dict[str, float] = {}
    for case_id, found in by_case.items():
        peers = sorted({other for n in found for other in n.readers} - no_peers - {reader})
        values = [value for other in peers if (value := _label_dice(found, reader, other)) is not None]
        if values:
            scores[case_id] = float(np.mean(values))
    against_peers = len(scores)
    for proposal in proposals if against_peers < fewest_cases else ():
        if proposal.reader == reader:
            scores.setdefault(proposal.case_id, proposal.dice)
    return (mean_by_patient_bootstrap(list(scores.values()), list(scores), rng) if scores else None), against_peers


def _label_dice(nodules: Sequence[ReadNodule], first: str, second: str) -> float | None:
    """Dice of two readers' labels of one case; None where neither marked anything."""
    sizes = [int(np.count_nonzero(mask)) for n in nodules for who, mask in n.masks.items() if who in (first, second)]
    both = sum(
        int(np.count_nonzero(n.masks[first] & n.masks[second]))
        for n in nodules
        if first in n.masks and second in n.masks
    )
    return 2 * both / sum(sizes) if sizes else None
