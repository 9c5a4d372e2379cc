"""Many promotions that each lose a little: what the gate adds up."""

import json

import numpy as np
import pytest

from medai.evaluation.drift import FormerScores, drift_from_anchor
from medai.evaluation.promotion import OldCases, PromotionRules, judge

CASES = tuple(f"old_{n}" for n in range(6))


def flat(value, *, spread=0.0):
    """A score for each old case; alternately a little more and less."""
    return {case: value + spread * (-1) ** n for n, case in enumerate(CASES)}


def gate(champion, challenger, former, *, rules=None, cases=CASES, seed=1):
    """The verdict on a challenger that is better on the study's own patients."""
    held_back = {f"patient {n}": 0.7 for n in range(8)}
    better = {name: 0.75 + 0.001 * n for n, name in enumerate(held_back)}
    old = OldCases(
        champion_score={case: champion[case] for case in cases},
        challenger_score={case: challenger[case] for case in cases},
        groups_of_case={case: {"size": "<6 mm"} for case in cases},
        former=tuple(FormerScores(version_id=name, score=score) for name, score in former),
    )
    return judge(held_back, better, old_cases=old, rules=rules, rng=np.random.default_rng(seed))


def promoted_in_a_row(loss, *, spread=0.0, rounds=20):
    """How many challengers are promoted where each loses a little, and the score that is left."""
    champion, line = flat(0.94, spread=spread), [("starter", flat(0.94, spread=spread))]
    for number in range(rounds):
        noise = spread * (-1) ** number
        challenger = {case: value - loss + noise * (n % 3 - 1) for n, (case, value) in enumerate(champion.items())}
        verdict = gate(champion, challenger, line, seed=number)
        if not verdict.publish:
            return number, float(np.mean(list(champion.values()))), verdict
        champion = challenger
        line.append((f"v{number + 1:04}-00000000", challenger))
    return rounds, float(np.mean(list(champion.values()))), None


@pytest.mark.parametrize("loss", [0.0045, 0.0085, 0.012, 0.019])
def test_losses_inside_the_margin_do_not_add_up_beyond_it(loss):
    promoted, left, verdict = promoted_in_a_row(loss)
    assert promoted == int(0.02 / loss)
    assert left >= 0.94 - 0.02 - 1e-9
    assert "Refused: small losses add up on old cases, size <6 mm: mean Dice 0.940 (starter) →" in verdict.reason
    assert "the present model is better there" in verdict.reason
    assert "a loss of 0.02 over time is accepted" in verdict.reason


def test_without_the_champions_before_the_same_losses_add_up():
    champion = flat(0.94)
    for number in range(8):
        challenger = {case: value - 0.015 for case, value in champion.items()}
        assert gate(champion, challenger, [], seed=number).publish
        champion = challenger
    assert np.mean(list(champion.values())) == pytest.approx(0.82)


@pytest.mark.parametrize("spread", [0.02, 0.04])
def test_losses_in_doubt_stop_at_the_limit_over_time(spread):
    _, left, verdict = promoted_in_a_row(0.01, spread=spread)
    assert verdict is not None
    assert left >= 0.94 - PromotionRules().drift_limit - 1e-9


def test_one_nodule_that_is_lost_bit_by_bit_stops_at_the_limit_over_time():
    champion, line = flat(0.9), [("starter", flat(0.9))]
    for number in range(20):
        challenger = {**champion, CASES[0]: champion[CASES[0]] - 0.1}
        verdict = gate(champion, challenger, line)
        if not verdict.publish:
            break
        champion = challenger
        line.append((f"v{number}", challenger))
    # Five nodules are as they were, so that the loss is never beyond the bootstrap's doubt.
    assert verdict.subgroups[0].drift.figures.high == pytest.approx(0.0)
    assert "0.05 is the most that may be lost over time" in verdict.reason
    assert 0.9 - np.mean(list(champion.values())) <= 0.05 + 1e-9


def test_a_champion_that_was_better_beyond_doubt_is_the_anchor():
    line = [("starter", flat(0.80)), ("v1", flat(0.88)), ("v2", flat(0.87))]
    verdict = gate(flat(0.87), flat(0.855), line)
    assert verdict.subgroups[0].drift.version_id == "v1"
    assert not verdict.publish
    assert "0.880 (v1) → 0.855" in verdict.reason


def test_a_lucky_draw_lifts_no_anchor():
    lucky = {case: 0.80 + (0.2 if n == 0 else -0.01) for n, case in enumerate(CASES)}
    verdict = gate(flat(0.80), flat(0.795), [("starter", flat(0.80)), ("lucky", lucky), ("v2", flat(0.80))])
    assert verdict.subgroups[0].drift.version_id == "starter"
    assert verdict.publish


def test_what_is_won_back_is_not_refused_for_what_was_lost_before():
    """Else a study whose champion lies below its anchor could never publish again."""
    verdict = gate(flat(0.85), flat(0.86), [("starter", flat(0.94)), ("v1", flat(0.85))])
    assert verdict.subgroups[0].drift.figures.difference == pytest.approx(-0.08)
    assert verdict.publish


def test_too_few_nodules_forbid_by_the_hard_limit_alone():
    line = [("starter", flat(0.94)), ("v1", flat(0.86))]
    assert gate(flat(0.86), flat(0.84), line, cases=CASES[:3]).publish
    verdict = gate(flat(0.80), flat(0.78), line, cases=CASES[:3])
    assert "no subgroup may lose more than 0.15" in verdict.reason


def test_cases_that_joined_later_are_compared_where_both_were_scored():
    early = dict.fromkeys(CASES[:4], 0.9)
    drift = drift_from_anchor(
        CASES,
        [FormerScores(version_id="starter", score=early)],
        flat(0.85),
        rng=np.random.default_rng(0),
    )
    assert drift is not None
    assert drift.figures.case_count == 4
    assert drift.figures.difference == pytest.approx(-0.05)
    few = [FormerScores(version_id="starter", score={CASES[0]: 0.9})]
    assert drift_from_anchor(CASES, few, flat(0.85), rng=np.random.default_rng(0)) is None
    assert drift_from_anchor(CASES, [], flat(0.85), rng=np.random.default_rng(0)) is None


def test_the_verdict_keeps_the_scores_and_the_drift_as_plain_values():
    told = json.loads(json.dumps(gate(flat(0.9), flat(0.91), [("starter", flat(0.9))]).to_json()))
    assert told["old_cases"]["challenger_score"] == flat(0.91)
    assert told["subgroups"][0]["drift"]["version_id"] == "starter"
    assert told["subgroups"][0]["drift"]["figures"]["difference"] == pytest.approx(0.01)
    assert told["rules"]["drift_limit"] == 0.05
