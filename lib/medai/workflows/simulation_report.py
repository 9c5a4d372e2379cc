"""What a retraining simulation shows: damage by each promotion, who was named, what became of the bad labels.

Pure functions of the rounds' results (``simulated_session``); the figures are Dice on patients who are in no study.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medai.errors import InputError
from medai.evaluation.paired import PairedDifference, paired_difference
from medai.workflows.simulated_stream import READERS, ReaderKind, is_bad_round, readers_of

BOOTSTRAP_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """One round of an arm.

    Attributes:
        number: from 1.
        dice: mean of the champion after the round, on the figure patients.
        change: the challenger less the champion before, there; None where nothing was trained.
        published: whether the challenger became the champion.
        reason: the verdict, or why nothing was trained.
        held_back_change: the same change on what the gate saw, the annotators' labels; None where nothing was trained.
        biased: who was named as biased after the round.
        outliers: who was named as labelling something else.
        seconds: of the round.
    """

    number: int
    dice: float
    change: PairedDifference | None
    published: bool
    reason: str
    held_back_change: float | None
    biased: tuple[str, ...]
    outliers: tuple[str, ...]
    seconds: float

    @property
    def loss(self) -> float:
        """Dice that publishing the challenger cost, or would have; 0 where it gained."""
        return max(0.0, -self.change.difference) if self.change is not None else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderLabels:
    """What became of a reader's labels.

    Attributes:
        reader: who.
        labels: submitted.
        quarantined: of them.
        train: not quarantined, of patients who train.
        judge: of patients who judge challengers.
        test: of patients who do neither.
        dice_to_truth: mean over the labels.
    """

    reader: str
    labels: int
    quarantined: int
    train: int
    judge: int
    test: int
    dice_to_truth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One arm.

    Attributes:
        seed: of the arm.
        gate_is_on: or every challenger was published.
        first_dice: of the network it began with.
        rounds: in order.
        gain: the last champion less the first network; None without a round.
        readers: their labels.
        bias_percent: reader to bias in volume, its low and high end, in percent; those with one.
    """

    seed: int
    gate_is_on: bool
    first_dice: float
    rounds: tuple[RoundOutcome, ...]
    gain: PairedDifference | None
    readers: tuple[ReaderLabels, ...]
    bias_percent: Mapping[str, tuple[float, float, float]]

    @classmethod
    def of(cls, seed: int, gate_is_on: bool, results: Sequence[Mapping[str, Any]]) -> ArmResult:
        """From the rounds' results, round 0 first.

        Raises:
            InputError: there is none.
        """
        if not results:
            raise InputError(f"Seed {seed} has no result yet: run the simulation again.")
        first, last = results[0]["figure"], results[-1]["figure"]
        rounds = tuple(_outcome(before, after) for before, after in itertools.pairwise(results))
        labels = [row for result in results[1:] for row in result["labels"] if row["dice_to_truth"] is not None]
        return cls(
            seed=seed,
            gate_is_on=gate_is_on,
            first_dice=_mean(first),
            rounds=rounds,
            gain=_difference(first, last) if rounds else None,
            readers=_reader_labels(results[-1]["labels"], labels) if rounds else (),
            bias_percent=_biases(results[-1]["annotators"]) if rounds else {},
        )

    @property
    def last_dice(self) -> float:
        """Of the champion at the end."""
        return self.rounds[-1].dice if self.rounds else self.first_dice

    @property
    def curve(self) -> tuple[float, ...]:
        """Mean Dice of the champion, before the first round and after each."""
        return (self.first_dice, *(outcome.dice for outcome in self.rounds))

    @property
    def published(self) -> tuple[RoundOutcome, ...]:
        """Rounds with a new champion."""
        return tuple(outcome for outcome in self.rounds if outcome.published)

    @property
    def refused(self) -> tuple[RoundOutcome, ...]:
        """Rounds whose challenger was refused."""
        return tuple(outcome for outcome in self.rounds if outcome.change is not None and not outcome.published)

    @property
    def largest_loss(self) -> float:
        """Dice that the worst promotion cost; 0 where all gained."""
        return max((outcome.loss for outcome in self.published), default=0.0)

    @property
    def deepest_fall(self) -> float:
        """Dice by which the champion ever lay below the best one before it."""
        curve = np.asarray(self.curve)
        return float(np.max(np.maximum.accumulate(curve) - curve))

    def harmful(self, margin: float) -> tuple[RoundOutcome, ...]:
        """Promotions that cost more than a margin."""
        return tuple(outcome for outcome in self.published if outcome.loss > margin)

    def kept_away(self, margin: float) -> tuple[RoundOutcome, ...]:
        """Refused challengers that would have cost more than a margin."""
        return tuple(outcome for outcome in self.refused if outcome.loss > margin)

    def named_from(self, kind: ReaderKind) -> int | None:
        """The first round from which on every reader of a kind stayed named; None where they are not at the end."""
        wanted = set(readers_of(kind))
        since: int | None = None
        for outcome in self.rounds:
            named = {*outcome.biased, *(outcome.outliers if kind is not ReaderKind.BIASED else ())}
            since = (since or outcome.number) if wanted <= named else None
        return since

    def labels_of(self, kind: ReaderKind) -> ReaderLabels:
        """The labels of all readers of a kind together."""
        own = [each for each in self.readers if READERS[each.reader] is kind]
        count = sum(each.labels for each in own)
        return ReaderLabels(
            reader=str(kind),
            labels=count,
            quarantined=sum(each.quarantined for each in own),
            train=sum(each.train for each in own),
            judge=sum(each.judge for each in own),
            test=sum(each.test for each in own),
            dice_to_truth=sum(each.labels * each.dice_to_truth for each in own) / count if count else float("nan"),
        )

    def to_json(self, margin: float) -> dict[str, Any]:
        """Plain values."""
        return {
            "seed": self.seed,
            "gate": "on" if self.gate_is_on else "off",
            "first_dice": self.first_dice,
            "last_dice": self.last_dice,
            "gain": asdict(self.gain) if self.gain else None,
            "promotions": len(self.published),
            "refusals": len(self.refused),
            "largest_loss": self.largest_loss,
            "harmful_promotions": [outcome.number for outcome in self.harmful(margin)],
            "harmful_challengers_refused": [outcome.number for outcome in self.kept_away(margin)],
            "deepest_fall": self.deepest_fall,
            "biased_named_from_round": self.named_from(ReaderKind.BIASED),
            "hostile_named_from_round": self.named_from(ReaderKind.HOSTILE),
            "bias_percent": {name: list(values) for name, values in self.bias_percent.items()},
            "labels": [asdict(each) for each in self.readers],
            "rounds": [asdict(outcome) for outcome in self.rounds],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something that the simulation was to show.

    Attributes:
        name: short, for JSON.
        holds: whether it did.
        words: with its numbers, a sentence.
    """

    name: str
    holds: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """All arms, and what they show.

    Attributes:
        arms: by seed, gate on before gate off.
        margin: Dice that no promotion may lose.
        claims: what was to be shown.
    """

    arms: tuple[ArmResult, ...]
    margin: float
    claims: tuple[Claim, ...]

    def of_gate(self, gate_is_on: bool) -> tuple[ArmResult, ...]:
        """The arms of one kind."""
        return tuple(arm for arm in self.arms if arm.gate_is_on is gate_is_on)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "margin": self.margin,
            "claims": [asdict(claim) for claim in self.claims],
            "holds": all(claim.holds for claim in self.claims),
            "arms": [arm.to_json(self.margin) for arm in self.arms],
        }


ARM_COLUMNS = (
    "seed", "gate", "Dice at first", "at last", "gain (90 % interval)", "promoted", "worst promotion",
    "promotions that harm", "harmful ones refused", "deepest fall",
)  # fmt: skip
READER_COLUMNS = ("annotator", "labels", "Dice to the truth", "quarantined", "trained", "judged", "bias in volume")
ROUND_COLUMNS = ("seed", "gate", "round", "Dice", "challenger's change", "gate's own figures", "verdict")


def summarise(arms: Sequence[ArmResult], margin: float) -> SimulationReport:
    """Say what the arms show.

    Args:
        arms: at least one of each kind.
        margin: Dice that no promotion may lose.
    """
    on = [arm for arm in arms if arm.gate_is_on]
    off = [arm for arm in arms if not arm.gate_is_on]
    claims = (
        _improves(on),
        _never_harms(on, margin),
        _names_biased(on),
        _hostile_is_harmless(on, margin),
        _off_harms(off, on, margin),
    )
    return SimulationReport(arms=tuple(arms), margin=margin, claims=claims)


def arm_row(arm: ArmResult, margin: float) -> list[str]:
    """An arm under ``ARM_COLUMNS``."""
    gain = "–"
    if arm.gain is not None:
        gain = f"{arm.gain.difference:+.3f} ({arm.gain.low:+.3f} to {arm.gain.high:+.3f})"
    return [
        str(arm.seed),
        "on" if arm.gate_is_on else "off",
        f"{arm.first_dice:.3f}",
        f"{arm.last_dice:.3f}",
        gain,
        f"{len(arm.published)} of {len(arm.rounds)}",
        f"−{arm.largest_loss:.3f}" if arm.largest_loss else "none lost",
        _rounds(arm.harmful(margin)),
        _rounds(arm.kept_away(margin)),
        f"−{arm.deepest_fall:.3f}",
    ]


def reader_rows(arms: Sequence[ArmResult]) -> list[list[str]]:
    """The labels of each annotator in several arms together, under ``READER_COLUMNS``."""
    rows = []
    for name in READERS:
        own = [each for arm in arms for each in arm.readers if each.reader == name]
        count = sum(each.labels for each in own)
        quality = sum(each.labels * each.dice_to_truth for each in own) / count if count else float("nan")
        biases = [arm.bias_percent[name] for arm in arms if name in arm.bias_percent]
        named = sum(name in arm.rounds[-1].biased for arm in arms if arm.rounds)
        outlying = sum(name in arm.rounds[-1].outliers for arm in arms if arm.rounds)
        bias = f"{np.mean([mean for mean, _, _ in biases]):+.0f} %" if biases else "–"
        bias += f", named in {named} of {len(arms)}" if named else ""
        bias += f", outlier in {outlying} of {len(arms)}" if outlying else ""
        counts = [str(sum(getattr(each, part) for each in own)) for part in ("quarantined", "train", "judge")]
        rows.append([name, str(count), f"{quality:.2f}", *counts, bias])
    return rows


def round_rows(arms: Sequence[ArmResult]) -> list[list[str]]:
    """Every round under ``ROUND_COLUMNS``."""
    rows = []
    for arm in arms:
        for outcome in arm.rounds:
            change = outcome.change
            words = f"{change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f})" if change else "–"
            seen = f"{outcome.held_back_change:+.3f}" if outcome.held_back_change is not None else "–"
            number = f"{outcome.number}{' (bad)' if is_bad_round(outcome.number) else ''}"
            gate = "on" if arm.gate_is_on else "off"
            rows.append([str(arm.seed), gate, number, f"{outcome.dice:.3f}", words, seen, outcome.reason])
    return rows


def _improves(on: Sequence[ArmResult]) -> Claim:
    gains = [arm.gain for arm in on if arm.gain is not None]
    holds = bool(gains) and all(gain.low > 0 for gain in gains)
    words = "; ".join(
        f"seed {arm.seed} {arm.first_dice:.3f} → {arm.last_dice:.3f}"
        + (f" (90 % interval of the gain {arm.gain.low:+.3f} to {arm.gain.high:+.3f})" if arm.gain else "")
        for arm in on
    )
    return Claim(name="corrections_raise_dice", holds=holds, words=f"Corrections raise held-back Dice: {words}.")


def _never_harms(on: Sequence[ArmResult], margin: float) -> Claim:
    promotions = sum(len(arm.published) for arm in on)
    harmful = sum(len(arm.harmful(margin)) for arm in on)
    worst = max((arm.largest_loss for arm in on), default=0.0)
    kept_away = sum(len(arm.kept_away(margin)) for arm in on)
    return Claim(
        name="no_promotion_harms",
        holds=promotions > 0 and harmful == 0,
        words=(
            f"With the gate on {harmful} of {promotions} promotions cost more than {margin:g} Dice; the worst one cost "
            f"{worst:.3f}. {kept_away} of {sum(len(arm.refused) for arm in on)} refused challengers would have."
        ),
    )


def _names_biased(on: Sequence[ArmResult]) -> Claim:
    since = [arm.named_from(ReaderKind.BIASED) for arm in on]
    honest = {name for arm in on if arm.rounds for name in arm.rounds[-1].biased} & set(readers_of(ReaderKind.HONEST))
    named = ", ".join(
        f"seed {arm.seed} from round {n}" if n else f"seed {arm.seed} not" for arm, n in zip(on, since, strict=True)
    )
    wrong = f" Honest ones named too: {', '.join(sorted(honest))}." if honest else " No honest one is."
    return Claim(
        name="biased_is_named",
        holds=bool(since) and all(since) and not honest,
        words=f"'medai annotators' names the biased annotator: {named}.{wrong}",
    )


def _hostile_is_harmless(on: Sequence[ArmResult], margin: float) -> Claim:
    own = [arm.labels_of(ReaderKind.HOSTILE) for arm in on]
    harmful = sum(len(arm.harmful(margin)) for arm in on)
    total, quarantined = sum(each.labels for each in own), sum(each.quarantined for each in own)
    return Claim(
        name="hostile_labels_are_harmless",
        holds=total > 0 and harmful == 0,
        words=(
            f"{quarantined} of the malicious annotator's {total} labels were quarantined; "
            f"{sum(each.train for each in own)} trained and {sum(each.judge for each in own)} judged, and "
            + ("no promotion did harm." if not harmful else f"{harmful} promotions did harm.")
        ),
    )


def _off_harms(off: Sequence[ArmResult], on: Sequence[ArmResult], margin: float) -> Claim:
    harmful = sum(len(arm.harmful(margin)) for arm in off)
    worst = max((arm.largest_loss for arm in off), default=0.0)
    fall = max((arm.deepest_fall for arm in off), default=0.0)
    ends = (
        f"{np.mean([arm.last_dice for arm in off]):.3f} against {np.mean([arm.last_dice for arm in on]):.3f}"
        if off and on
        else "–"
    )
    return Claim(
        name="gate_off_does_damage",
        holds=harmful > 0,
        words=(
            f"With the gate off {harmful} of {sum(len(arm.published) for arm in off)} promotions cost more than "
            f"{margin:g} Dice, the worst one {worst:.3f}; the model fell {fall:.3f} below its best, and ends at {ends} "
            "with the gate on."
        ),
    )


def _outcome(before: Mapping[str, Any], after: Mapping[str, Any]) -> RoundOutcome:
    challenger = after["challenger"]
    annotators = after["annotators"]["annotators"]
    return RoundOutcome(
        number=int(after["round"]),
        dice=_mean(after["figure"]),
        change=_difference(before["figure"], challenger) if challenger is not None else None,
        published=bool(after["published"]),
        reason=str(after["reason"]),
        held_back_change=after["held_back_change"],
        biased=tuple(row["name"] for row in annotators if row["bias"] and row["bias"]["is_biased"]),
        outliers=tuple(row["name"] for row in annotators if row["overlap"] and row["overlap"]["is_outlier"]),
        seconds=float(after["seconds"]),
    )


def _reader_labels(final: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]]) -> tuple[ReaderLabels, ...]:
    """From the rows after the last round, and from those of each round in which the labels were drawn."""
    found = []
    for name in READERS:
        own = [row for row in final if row["reader"] == name]
        free = [row for row in own if not row["quarantine"]]
        quality = [row["dice_to_truth"] for row in drawn if row["reader"] == name]
        found.append(
            ReaderLabels(
                reader=name,
                labels=len(own),
                quarantined=len(own) - len(free),
                train=sum(row["side"] == "train" for row in free),
                judge=sum(row["side"] == "validation" for row in free),
                test=sum(row["side"] == "test" for row in free),
                dice_to_truth=float(np.mean(quality)) if quality else float("nan"),
            )
        )
    return tuple(found)


def _biases(annotators: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    return {
        str(row["name"]): (row["bias"]["percent"], row["bias"]["percent_low"], row["bias"]["percent_high"])
        for row in annotators["annotators"]
        if row["bias"]
    }


def _difference(before: Mapping[str, float], after: Mapping[str, float]) -> PairedDifference:
    """Each figure nodule is of a patient of its own."""
    return paired_difference(before, after, rng=np.random.default_rng(BOOTSTRAP_SEED))


def _mean(scores: Mapping[str, float]) -> float:
    return float(np.mean(list(scores.values())))


def _rounds(outcomes: Sequence[RoundOutcome]) -> str:
    """How many, and in which rounds."""
    return f"{len(outcomes)} (round {', '.join(str(each.number) for each in outcomes)})" if outcomes else "0"
