"""Whether a challenger replaces the champion: the one gate between a training run and the annotators.

A retrained model is published only where patients that no training run has seen say that it is better. The rule:

1. Its mean score (over patients; a nodule's Dice, or what its family measures) beats the champion's by more than
   ``margin``.
2. With ``few_patients`` patients or more, a paired bootstrap over patients finds it worse in at most
   ``largest_probability_worse`` of the draws: the gain is not one lucky patient.
3. With fewer patients a bootstrap says nothing (with one patient every draw is the same), so a stricter and simpler
   rule takes its place: no single held-back patient may lose more than ``few_patient_loss``. Single nodules may: with
   two or three a patient, one of them turns for the worse in nearly every training that helps.
4. With no held-back case there is no verdict but an error: a model that cannot be verified is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medai.errors import InputError
from medai.evaluation.paired import PairedDifference, paired_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRules:
    """The thresholds of the gate.

    Attributes:
        margin: score by which the challenger's mean must be better; below it a run's own randomness decides.
        few_patients: from this many held-back patients on, the bootstrap decides.
        largest_probability_worse: 0–1, doubt that is still accepted.
        few_patient_loss: mean score that any single patient may lose where there are fewer patients.
    """

    margin: float = 0.002
    few_patients: int = 5
    largest_probability_worse: float = 0.1
    few_patient_loss: float = 0.02

    def __post_init__(self) -> None:
        limits = {
            "margin": self.margin,
            "largest_probability_worse": self.largest_probability_worse,
            "few_patient_loss": self.few_patient_loss,
        }
        for name, value in limits.items():
            if not 0 <= value < 1:
                raise InputError(f"The promotion rule '{name}' is {value}; it must lie between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision on a challenger, with the numbers it rests on.

    Attributes:
        publish: True where the challenger replaces the champion.
        reason: one sentence with the numbers, for the annotator.
        figures: the comparison.
        rules: the thresholds that held.
        measure: what the scores are.
        champion_score: case id to the champion's score on the held-back cases.
        challenger_score: the same of the challenger.
    """

    publish: bool
    reason: str
    figures: PairedDifference
    rules: PromotionRules
    measure: str
    champion_score: Mapping[str, float]
    challenger_score: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values for ``verdict.json`` and reports."""
        return {
            "publish": self.publish,
            "reason": self.reason,
            "figures": asdict(self.figures),
            "rules": asdict(self.rules),
            "measure": self.measure,
            "champion_score": dict(self.champion_score),
            "challenger_score": dict(self.challenger_score),
        }


def judge(
    champion_score: Mapping[str, float],
    challenger_score: Mapping[str, float],
    *,
    patient_of_case: Mapping[str, str] | None = None,
    rules: PromotionRules | None = None,
    measure: str = "Dice",
    rng: np.random.Generator,
) -> Verdict:
    """Decide whether the challenger is published (the module says by which rule).

    Args:
        champion_score: case id to score (0–1, higher is better) of the champion on the held-back cases.
        challenger_score: the same cases, the challenger.
        patient_of_case: case id to patient; None: each case is a patient of its own.
        rules: thresholds; None: the defaults.
        measure: what the scores are, for the reason.
        rng: draws the bootstrap samples.

    Returns:
        The verdict; its reason is a sentence with numbers.

    Raises:
        InputError: no case, the two were scored on different cases, or a score is not finite.
    """
    rules = rules or PromotionRules()
    figures = paired_difference(champion_score, challenger_score, patient_of_case=patient_of_case, rng=rng)
    publish, reason = _decide(figures, rules, measure)
    return Verdict(
        publish=publish,
        reason=reason,
        figures=figures,
        rules=rules,
        measure=measure,
        champion_score=dict(champion_score),
        challenger_score=dict(challenger_score),
    )


def _decide(figures: PairedDifference, rules: PromotionRules, measure: str) -> tuple[bool, str]:
    """The rule itself, and the sentence that tells it."""
    patients = f"{figures.patient_count} held-back patient" + ("" if figures.patient_count == 1 else "s")
    change = f"mean {measure} {figures.champion_mean:.3f} → {figures.challenger_mean:.3f} on {patients}"
    if figures.difference < 0:
        return False, f"Refused: worse, {change}."
    if figures.difference <= rules.margin:
        return False, f"Refused: no better by more than {rules.margin:g}, {change}."
    if figures.patient_count < rules.few_patients:
        if figures.worst_patient_difference < -rules.few_patient_loss:
            return False, (
                f"Refused: better on average ({change}) but one patient loses {-figures.worst_patient_difference:.3f}; "
                f"with fewer than {rules.few_patients} patients none may lose more than {rules.few_patient_loss:g}."
            )
        return True, f"Better: {change}; no patient loses more than {rules.few_patient_loss:g}."
    if figures.probability_worse > rules.largest_probability_worse:
        return False, (
            f"Refused: the gain may be chance, {change}; a bootstrap over patients finds it worse in "
            f"{100 * figures.probability_worse:.0f} % of the draws, {100 * rules.largest_probability_worse:.0f} % are "
            "accepted."
        )
    return True, (f"Better: {change}; 90 % interval of the gain {figures.low:+.3f} to {figures.high:+.3f}.")
