"""What a retraining simulation shows: a row an arm, an annotator and a round, and whether each claim holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medai.workflows.simulated_stream import READERS, ReaderKind, is_bad_round, readers_of
from medai.workflows.simulation_results import ArmResult, RoundOutcome


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


ARM_COLUMNS = ("seed", "gate", "Dice", "gain (90 % interval)", "promoted", "worst", "harmful", "harm refused", "fall")
ARM_CAPTION = (
    "worst: the promotion that cost most; harmful: promotions that cost more than the margin; harm refused: those "
    "refused that would have; fall: farthest below the best model so far"
)
READER_COLUMNS = (
    "annotator",
    "labels",
    "Dice to the truth",
    "quarantined",
    "left out",
    "trained",
    "judged",
    "bias in volume",
)
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
        f"{arm.first_dice:.3f} → {arm.last_dice:.3f}",
        gain,
        f"{len(arm.published)} of {len(arm.rounds)}",
        f"−{arm.largest_loss:.3f}" if arm.largest_loss else "no loss",
        _rounds(arm.harmful(margin)),
        _rounds(arm.kept_away(margin)),
        f"−{arm.deepest_fall:.3f}" if arm.deepest_fall else "none",
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
        counts = [
            str(sum(getattr(each, part) for each in own)) for part in ("quarantined", "left_out", "train", "judge")
        ]
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
            f"{quarantined} of the malicious annotator's {total} labels were quarantined, "
            f"{sum(each.left_out for each in own)} left out; "
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


def _rounds(outcomes: Sequence[RoundOutcome]) -> str:
    """How many, and in which rounds."""
    return f"{len(outcomes)} (round {', '.join(str(each.number) for each in outcomes)})" if outcomes else "0"
