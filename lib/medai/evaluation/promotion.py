"""Whether a challenger replaces the champion: the one gate between a training run and the annotators.

A retrained model is published only where patients that no training run has seen say that it is better. The rule:

1. Its mean score (over patients; a nodule's Dice, or what its family measures) beats the champion's by more than
   ``margin``.
2. With ``few_patients`` patients or more, a paired bootstrap over patients finds it worse in at most
   ``largest_probability_worse`` of the draws: the gain is not one lucky patient. Below ``witnesses`` patients that
   bootstrap sees little, and a gain of the held-back patients that it doubts counts all the same where the old cases
   bear it out: held-back and old cases together are of ``witnesses`` patients or more and a bootstrap over all of them
   finds the challenger worse in at most ``witnesses_doubt`` of the draws.
3. With fewer patients a bootstrap says nothing (with one patient every draw is the same), so a stricter and simpler
   rule takes its place: no single held-back patient may lose more than ``few_patient_loss``. Single nodules may: with
   two or three a patient, one of them turns for the worse in nearly every training that helps. Where the old cases bear
   the gain out as in rule 2, a patient may lose more, up to ``subgroup_limit``.
4. With no held-back case there is no verdict but an error: a model that cannot be verified is not published.
5. What was gained on the study is not paid for elsewhere. On the fixed old cases (``OldCases``) each subgroup counts by
   itself, by size and by texture: the challenger is refused where a subgroup of ``subgroup_patients`` patients or more
   loses more than ``subgroup_margin`` and is worse beyond the bootstrap's doubt (its whole 90 % interval is a loss), or
   a subgroup of any count loses more than ``subgroup_limit``.
6. Small losses do not add up. Each subgroup has an anchor (``evaluation.drift``): the first champion, or a later one
   that was better there beyond doubt. What rule 5 says of the champion holds for the anchor too, and a subgroup of
   ``subgroup_patients`` patients or more may not lie more than ``drift_limit`` below it, doubt or not. A challenger
   that is no worse there than the champion is not refused for what was lost before it.
7. A gain that is not sure must at least be no harm: over the held-back and the old cases together a bootstrap over
   patients finds a loss of more than ``harm_margin`` in at most ``largest_probability_harm`` of the draws. Without it a
   single held-back patient decides in a young study, whose network still changes a lot from training to training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medai.errors import InputError
from medai.evaluation.drift import DriftFromAnchor, FormerScores, drift_from_anchor
from medai.evaluation.paired import PairedDifference, paired_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRules:
    """The thresholds of the gate.

    Attributes:
        margin: score by which the challenger's mean must be better; below it a run's own randomness decides.
        few_patients: from this many held-back patients on, the bootstrap decides.
        largest_probability_worse: 0–1, doubt that is still accepted.
        few_patient_loss: mean score that any single patient may lose where there are fewer patients.
        witnesses: patients of held-back and old cases together from which on they can bear a doubtful gain out, as long
            as there are fewer held-back ones.
        witnesses_doubt: 0–1, doubt of held-back and old cases together that is still accepted then.
        subgroup_margin: mean score that a subgroup of the old cases may lose; below it two trainings of one network
            differ as much.
        subgroup_patients: from this many patients on, a subgroup's interval says something.
        subgroup_limit: mean score that no subgroup may lose, however few cases it has.
        drift_limit: mean score that a subgroup of ``subgroup_patients`` patients may lose over many promotions, be the
            loss in doubt or not.
        harm_margin: mean score over held-back and old cases together whose loss would be harm.
        largest_probability_harm: 0–1, doubt of no harm that is still accepted.
    """

    margin: float = 0.002
    few_patients: int = 5
    largest_probability_worse: float = 0.1
    few_patient_loss: float = 0.02
    witnesses: int = 20
    witnesses_doubt: float = 0.1
    subgroup_margin: float = 0.02
    subgroup_patients: int = 5
    subgroup_limit: float = 0.15
    drift_limit: float = 0.05
    harm_margin: float = 0.02
    largest_probability_harm: float = 0.05

    def __post_init__(self) -> None:
        limits = {
            "margin": self.margin,
            "largest_probability_worse": self.largest_probability_worse,
            "few_patient_loss": self.few_patient_loss,
            "witnesses_doubt": self.witnesses_doubt,
            "subgroup_margin": self.subgroup_margin,
            "subgroup_limit": self.subgroup_limit,
            "drift_limit": self.drift_limit,
            "harm_margin": self.harm_margin,
            "largest_probability_harm": self.largest_probability_harm,
        }
        for name, value in limits.items():
            if not 0 <= value < 1:
                raise InputError(f"The promotion rule '{name}' is {value}; it must lie between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldCases:
    """Both models on a fixed set of old cases, in subgroups.

    Attributes:
        champion_score: case id to score (0–1, higher is better).
        challenger_score: the same cases, the challenger.
        groups_of_case: case id to what it is grouped by and its group: ``{"size": "6-8 mm", "texture": "solid"}``.
        patient_of_case: case id to patient; None: each case is a patient of its own.
        former: the champions before, the first one first; their scores of the cases whose truth is still the same.
        truth_of_case: digest of the truth of each case, by which a later verdict knows which scores compare.
    """

    champion_score: Mapping[str, float]
    challenger_score: Mapping[str, float]
    groups_of_case: Mapping[str, Mapping[str, str]]
    patient_of_case: Mapping[str, str] | None = None
    former: tuple[FormerScores, ...] = ()
    truth_of_case: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What a later verdict needs of this one."""
        return {
            "champion_score": dict(self.champion_score),
            "challenger_score": dict(self.challenger_score),
            "truth_of_case": dict(self.truth_of_case),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupDifference:
    """The two models on one subgroup of the old cases.

    Attributes:
        by: what the cases are grouped by: "size", "texture".
        group: the subgroup's name: "6-8 mm".
        figures: the comparison.
        drift: the challenger against the subgroup's anchor; None where there was no champion before.
    """

    by: str
    group: str
    figures: PairedDifference
    drift: DriftFromAnchor | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        drift = None if self.drift is None else asdict(self.drift)
        return {"by": self.by, "group": self.group, "figures": asdict(self.figures), "drift": drift}


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
        subgroups: the old cases, subgroup by subgroup; empty where there were none to judge on.
        old_cases: their scores case by case; None where there were none.
        together: held-back and old cases in one comparison; None without old ones.
        probability_harm: share (0–1) of the draws in which they lose more than the harm margin; None likewise.
    """

    publish: bool
    reason: str
    figures: PairedDifference
    rules: PromotionRules
    measure: str
    champion_score: Mapping[str, float]
    challenger_score: Mapping[str, float]
    subgroups: tuple[SubgroupDifference, ...] = ()
    old_cases: OldCases | None = None
    together: PairedDifference | None = None
    probability_harm: float | None = None

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
            "subgroups": [subgroup.to_json() for subgroup in self.subgroups],
            "old_cases": None if self.old_cases is None else self.old_cases.to_json(),
            "together": asdict(self.together) if self.together is not None else None,
            "probability_harm": self.probability_harm,
        }


def judge(
    champion_score: Mapping[str, float],
    challenger_score: Mapping[str, float],
    *,
    patient_of_case: Mapping[str, str] | None = None,
    rules: PromotionRules | None = None,
    measure: str = "Dice",
    old_cases: OldCases | None = None,
    rng: np.random.Generator,
) -> Verdict:
    """Decide whether the challenger is published (the module says by which rule).

    Args:
        champion_score: case id to score (0–1, higher is better) of the champion on the held-back cases.
        challenger_score: the same cases, the challenger.
        patient_of_case: case id to patient; None: each case is a patient of its own.
        rules: thresholds; None: the defaults.
        measure: what the scores are, for the reason.
        old_cases: both models on the fixed old cases; None: the family has none.
        rng: draws the bootstrap samples.

    Returns:
        The verdict; its reason is a sentence with numbers.

    Raises:
        InputError: no case, the two were scored on different cases, or a score is not finite.
    """
    rules = rules or PromotionRules()
    figures = paired_difference(champion_score, challenger_score, patient_of_case=patient_of_case, rng=rng)
    subgroups = subgroup_differences(old_cases, rng=rng) if old_cases is not None else ()
    together, probability_harm = None, None
    if old_cases is not None:
        together, probability_harm = _together(
            champion_score, challenger_score, patient_of_case, old_cases, margin=rules.harm_margin, rng=rng
        )
    publish, reason = _decide(figures, together, rules, measure)
    if publish and (lost := _lost_subgroup(subgroups, rules, measure)):
        publish, reason = False, lost
    if publish and together is not None and probability_harm is not None:
        harm = _possible_harm(together, probability_harm, rules, measure)
        publish, reason = (False, harm) if harm else (publish, reason)
    return Verdict(
        publish=publish,
        reason=reason,
        figures=figures,
        rules=rules,
        measure=measure,
        champion_score=dict(champion_score),
        challenger_score=dict(challenger_score),
        subgroups=subgroups,
        old_cases=old_cases,
        together=together,
        probability_harm=probability_harm,
    )


def subgroup_differences(old_cases: OldCases, *, rng: np.random.Generator) -> tuple[SubgroupDifference, ...]:
    """Compare two models on each subgroup of the old cases.

    Args:
        old_cases: the scores and the groups; a case without a group of a kind is in none of that kind.
        rng: draws the bootstrap samples.

    Returns:
        By what the cases are grouped, then by the group's name.

    Raises:
        InputError: different cases, or a score that is not finite.
    """
    cases_of_group: dict[tuple[str, str], list[str]] = {}
    for case_id, groups in sorted(old_cases.groups_of_case.items()):
        for by, group in groups.items():
            cases_of_group.setdefault((by, group), []).append(case_id)
    found = []
    for (by, group), cases in sorted(cases_of_group.items()):
        figures = paired_difference(
            {case: old_cases.champion_score[case] for case in cases if case in old_cases.champion_score},
            {case: old_cases.challenger_score[case] for case in cases if case in old_cases.challenger_score},
            patient_of_case=old_cases.patient_of_case,
            rng=rng,
        )
        drift = drift_from_anchor(
            cases, old_cases.former, old_cases.challenger_score, patient_of_case=old_cases.patient_of_case, rng=rng
        )
        found.append(SubgroupDifference(by=by, group=group, figures=figures, drift=drift))
    return tuple(found)


def _together(
    champion_score: Mapping[str, float],
    challenger_score: Mapping[str, float],
    patient_of_case: Mapping[str, str] | None,
    old_cases: OldCases,
    *,
    margin: float,
    rng: np.random.Generator,
) -> tuple[PairedDifference, float]:
    """Held-back and old cases in one comparison, and the share of draws with a loss of more than the margin."""
    champion = {**old_cases.champion_score, **champion_score}
    challenger = {**old_cases.challenger_score, **challenger_score}
    patients = {case: case for case in champion} | dict(old_cases.patient_of_case or {}) | dict(patient_of_case or {})
    figures = paired_difference(champion, challenger, patient_of_case=patients, rng=rng)
    # A loss beyond the margin is a loss of a challenger who was given the margin.
    given = {case: score + margin for case, score in challenger.items()}
    return figures, paired_difference(champion, given, patient_of_case=patients, rng=rng).probability_worse


def _possible_harm(together: PairedDifference, probability_harm: float, rules: PromotionRules, measure: str) -> str:
    """Why a challenger that may well do harm is refused; "" where that is unlikely enough."""
    if probability_harm <= rules.largest_probability_harm:
        return ""
    return (
        f"Refused: it may do harm, mean {measure} {together.champion_mean:.3f} → {together.challenger_mean:.3f} on "
        f"held-back and old cases together ({together.patient_count} patients); a bootstrap finds a loss of more than "
        f"{rules.harm_margin:g} in {100 * probability_harm:.0f} % of the draws, "
        f"{100 * rules.largest_probability_harm:.0f} % are accepted. More held-back patients make it surer."
    )


def _lost_subgroup(subgroups: Sequence[SubgroupDifference], rules: PromotionRules, measure: str) -> str:
    """Why a subgroup forbids the promotion, the worst one first; "" where none does."""
    return _lost_now(subgroups, rules, measure) or _lost_over_time(subgroups, rules, measure)


def _lost_now(subgroups: Sequence[SubgroupDifference], rules: PromotionRules, measure: str) -> str:
    """Where the challenger is worse than the champion."""
    for subgroup in sorted(subgroups, key=lambda subgroup: subgroup.figures.difference):
        figures = subgroup.figures
        what = (
            f"worse on old cases, {subgroup.by} {subgroup.group}: mean {measure} {figures.champion_mean:.3f} → "
            f"{figures.challenger_mean:.3f} on {figures.case_count} case{'' if figures.case_count == 1 else 's'}"
        )
        if -figures.difference > rules.subgroup_limit:
            return f"Refused: {what}; no subgroup may lose more than {rules.subgroup_limit:g}."
        is_lost = -figures.difference > rules.subgroup_margin and figures.high < 0
        if is_lost and figures.patient_count >= rules.subgroup_patients:
            return (
                f"Refused: {what}; 90 % interval of the change {figures.low:+.3f} to {figures.high:+.3f}, a loss of "
                f"{rules.subgroup_margin:g} is accepted."
            )
    return ""


def _lost_over_time(subgroups: Sequence[SubgroupDifference], rules: PromotionRules, measure: str) -> str:
    """Where the challenger adds to small losses that together are too large."""
    drifting = [(s, s.drift) for s in subgroups if s.drift is not None and s.figures.difference < 0]
    for subgroup, drift in sorted(drifting, key=lambda pair: pair[1].figures.difference):
        figures = drift.figures
        loss, is_counted = -figures.difference, figures.patient_count >= rules.subgroup_patients
        what = (
            f"small losses add up on old cases, {subgroup.by} {subgroup.group}: mean {measure} "
            f"{figures.champion_mean:.3f} ({drift.version_id}) → {figures.challenger_mean:.3f} on "
            f"{figures.case_count} case{'' if figures.case_count == 1 else 's'}, and the present model is better there"
        )
        if loss > rules.subgroup_limit:
            return f"Refused: {what}; no subgroup may lose more than {rules.subgroup_limit:g}."
        if is_counted and loss > rules.drift_limit:
            return f"Refused: {what}; {rules.drift_limit:g} is the most that may be lost over time."
        if is_counted and loss > rules.subgroup_margin and figures.high < 0:
            return (
                f"Refused: {what}; 90 % interval of the change {figures.low:+.3f} to {figures.high:+.3f}, a loss of "
                f"{rules.subgroup_margin:g} over time is accepted."
            )
    return ""


def _decide(
    figures: PairedDifference, together: PairedDifference | None, rules: PromotionRules, measure: str
) -> tuple[bool, str]:
    """The rule itself, and the sentence that tells it."""
    patients = f"{figures.patient_count} held-back patient" + ("" if figures.patient_count == 1 else "s")
    change = f"mean {measure} {figures.champion_mean:.3f} → {figures.challenger_mean:.3f} on {patients}"
    if figures.difference < 0:
        return False, f"Refused: worse, {change}."
    if figures.difference <= rules.margin:
        return False, f"Refused: no better by more than {rules.margin:g}, {change}."
    if figures.patient_count < rules.few_patients:
        return _decide_of_few(figures, together, rules, change)
    if figures.probability_worse > rules.largest_probability_worse:
        if figures.patient_count < rules.witnesses and together is not None and _is_sure(together, rules):
            return True, (f"Better: {change}; that alone may be chance, but {_borne_out(together)}.")
        return False, (
            f"Refused: the gain may be chance, {change}; a bootstrap over patients finds it worse in "
            f"{100 * figures.probability_worse:.0f} % of the draws, {100 * rules.largest_probability_worse:.0f} % are "
            "accepted."
        )
    return True, (f"Better: {change}; 90 % interval of the gain {figures.low:+.3f} to {figures.high:+.3f}.")


def _decide_of_few(
    figures: PairedDifference, together: PairedDifference | None, rules: PromotionRules, change: str
) -> tuple[bool, str]:
    """The rule for a gain on fewer patients than a bootstrap can say anything of."""
    loss = -figures.worst_patient_difference
    if loss <= rules.few_patient_loss:
        return True, f"Better: {change}; no patient loses more than {rules.few_patient_loss:g}."
    if together is not None and loss <= rules.subgroup_limit and _is_sure(together, rules):
        return True, (f"Better: {change}; one patient loses {loss:.3f}, but {_borne_out(together)}.")
    return False, (
        f"Refused: better on average ({change}) but one patient loses {loss:.3f}; with fewer than {rules.few_patients} "
        f"patients none may lose more than {rules.few_patient_loss:g}."
    )


def _borne_out(together: PairedDifference) -> str:
    """How sure held-back and old cases together are, in words."""
    return (
        f"with the old cases ({together.patient_count} patients together) the gain is sure: worse in "
        f"{100 * together.probability_worse:.0f} % of a bootstrap's draws, 90 % interval {together.low:+.3f} to "
        f"{together.high:+.3f}"
    )


def _is_sure(together: PairedDifference, rules: PromotionRules) -> bool:
    """Whether held-back and old cases together speak for the challenger beyond doubt."""
    return together.patient_count >= rules.witnesses and together.probability_worse <= rules.witnesses_doubt
