"""What the rounds of a simulated arm came to: damage by each promotion, who was named, what became of the labels.

Pure functions of the rounds' results (``simulated_session``); the figures are Dice on patients who are in no study.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medai.errors import InputError
from medai.evaluation.paired import PairedDifference, paired_difference
from medai.workflows.simulated_stream import READERS, ReaderKind, readers_of

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
        left_out: not quarantined, of cases that the last training left out: in dispute, or by somebody who stands out.
        train: of the others, those of patients who train.
        judge: of patients who judge challengers.
        test: of patients who do neither.
        dice_to_truth: mean over the labels.
    """

    reader: str
    labels: int
    quarantined: int
    left_out: int
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
            readers=_reader_labels(results[-1]["labels"], labels, results[-1]["skipped"]) if rounds else (),
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
            left_out=sum(each.left_out for each in own),
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


def _reader_labels(
    final: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]], left_out: Collection[str]
) -> tuple[ReaderLabels, ...]:
    """From the rows after the last round, those of each round in which the labels were drawn, and cases not used."""
    found = []
    for name in READERS:
        own = [row for row in final if row["reader"] == name]
        counting = [row for row in own if not row["quarantine"]]
        free = [row for row in counting if row["case"] not in left_out]
        quality = [row["dice_to_truth"] for row in drawn if row["reader"] == name]
        found.append(
            ReaderLabels(
                reader=name,
                labels=len(own),
                quarantined=len(own) - len(counting),
                left_out=len(counting) - len(free),
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
