import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError
from medai.evaluation.promotion import OldCases, PromotionRules, judge


def scores(values):
    return {f"case_{n:02}": float(value) for n, value in enumerate(values)}


def test_a_worse_challenger_is_refused_with_both_means(rng):
    verdict = judge(scores([0.8, 0.7]), scores([0.7, 0.7]), rng=rng)
    assert not verdict.publish
    assert verdict.reason == "Refused: worse, mean Dice 0.750 → 0.700 on 2 held-back patients."


def test_an_equal_challenger_is_refused(rng):
    verdict = judge(scores([0.8] * 6), scores([0.8] * 6), rng=rng)
    assert not verdict.publish
    assert "no better by more than 0.002" in verdict.reason


def test_a_gain_within_the_margin_is_refused(rng):
    assert not judge(scores([0.8] * 6), scores([0.8015] * 6), rng=rng).publish
    assert judge(scores([0.8] * 6), scores([0.8025] * 6), rng=rng).publish


def test_without_held_back_cases_nothing_is_published(rng):
    with pytest.raises(InputError, match="No case to compare"):
        judge({}, {}, rng=rng)


def test_a_gain_from_one_lucky_patient_is_refused(rng):
    champion = scores([0.70] * 10)
    challenger = scores([0.69] * 9 + [0.90])
    verdict = judge(champion, challenger, rng=rng)
    assert verdict.figures.difference > 0.01
    assert not verdict.publish
    assert "may be chance" in verdict.reason


def test_a_steady_gain_is_published_with_its_interval(rng):
    verdict = judge(scores([0.70] * 10), scores(0.72 + 0.002 * np.arange(10)), rng=rng)
    assert verdict.publish
    assert "90 % interval of the gain +0.02" in verdict.reason


def test_with_few_patients_no_single_one_may_lose(rng):
    champion, challenger = scores([0.5, 0.8]), scores([0.7, 0.75])
    verdict = judge(champion, challenger, rng=rng)
    assert not verdict.publish
    assert "one patient loses 0.050" in verdict.reason
    assert judge(champion, challenger, rules=PromotionRules(few_patient_loss=0.06), rng=rng).publish


def test_one_patient_can_carry_a_promotion(rng):
    verdict = judge(scores([0.6]), scores([0.65]), rng=rng)
    assert verdict.publish
    assert "on 1 held-back patient;" in verdict.reason


def test_scans_of_one_patient_do_not_make_many_patients(rng):
    champion, challenger = scores([0.7] * 6), scores([0.75] * 5 + [0.6])
    verdict = judge(champion, challenger, patient_of_case=dict.fromkeys(champion, "one patient"), rng=rng)
    assert verdict.figures.patient_count == 1
    # One nodule of the patient loses, the patient gains.
    assert verdict.figures.worst_difference == pytest.approx(-0.1)
    assert verdict.figures.worst_patient_difference == pytest.approx((5 * 0.05 - 0.1) / 6)
    assert verdict.publish


def test_a_patient_is_never_named_in_the_reason(rng):
    champion, challenger = scores([0.5, 0.8]), scores([0.7, 0.7])
    verdict = judge(champion, challenger, patient_of_case={"case_00": "Doe", "case_01": "Roe"}, rng=rng)
    assert not verdict.publish
    assert "Roe" not in str(verdict.to_json())


def test_verdict_survives_json(rng):
    verdict = judge(scores([0.7, 0.6]), scores([0.8, 0.7]), rng=rng)
    again = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert again["publish"] is True
    assert again["figures"]["difference"] == pytest.approx(0.1)
    assert again["challenger_score"] == {"case_00": 0.8, "case_01": 0.7}
    assert again["rules"]["margin"] == 0.002


def test_rules_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"'margin' is -0\.1"):
        PromotionRules(margin=-0.1)


def old_cases(loss_of_group, *, each=6, spread=0.0):
    """Cases of a size each, all solid; every one loses what is said of its size."""
    champion, challenger, groups = {}, {}, {}
    for group, loss in loss_of_group.items():
        for n in range(each):
            case_id = f"{group} {n}"
            champion[case_id] = 0.8
            challenger[case_id] = 0.8 - loss + spread * (n - (each - 1) / 2)
            groups[case_id] = {"size": group, "texture": "solid"}
    return OldCases(champion_score=champion, challenger_score=challenger, groups_of_case=groups)


def judged_with(old, rng, **rules):
    return judge(scores([0.7] * 8), scores([0.75] * 8), old_cases=old, rules=PromotionRules(**rules), rng=rng)


def test_a_subgroup_worse_beyond_doubt_is_named_with_its_figures(rng):
    verdict = judged_with(old_cases({"<6 mm": 0.05, "6-8 mm": -0.06}, spread=0.004), rng)
    assert not verdict.publish
    assert verdict.reason.startswith(
        "Refused: worse on old cases, size <6 mm: mean Dice 0.800 → 0.750 on 6 cases; 90 % interval of the change -0."
    )
    assert verdict.reason.endswith("a loss of 0.02 is accepted.")


def test_a_subgroup_worse_within_the_margin_is_no_obstacle(rng):
    assert judged_with(old_cases({"<6 mm": 0.015, "6-8 mm": 0.0}), rng).publish


def test_a_loss_that_may_be_chance_is_no_obstacle(rng):
    verdict = judged_with(old_cases({"<6 mm": 0.03}, spread=0.04), rng)
    assert verdict.subgroups[0].figures.difference == pytest.approx(-0.03)
    assert verdict.subgroups[0].figures.high > 0
    assert verdict.publish


def test_a_certain_loss_is_refused_though_its_interval_reaches_into_the_margin(rng):
    verdict = judged_with(old_cases({"<6 mm": 0.03}, spread=0.01), rng)
    assert -0.02 < verdict.subgroups[0].figures.high < 0
    assert not verdict.publish


def test_too_few_cases_forbid_by_the_hard_limit_alone(rng):
    # All of them together are another rule's business.
    assert judged_with(old_cases({"<6 mm": 0.14}, each=4), rng, largest_probability_harm=0.9).publish
    verdict = judged_with(old_cases({"<6 mm": 0.16}, each=1), rng)
    assert not verdict.publish
    assert "0.800 → 0.640 on 1 case; no subgroup may lose more than 0.15" in verdict.reason


def test_one_patient_with_many_nodules_is_no_interval(rng):
    old = old_cases({"<6 mm": 0.05})
    one = OldCases(
        champion_score=old.champion_score,
        challenger_score=old.challenger_score,
        groups_of_case=old.groups_of_case,
        patient_of_case=dict.fromkeys(old.champion_score, "one patient"),
    )
    assert not judged_with(old, rng).publish
    assert judged_with(one, rng).publish


def test_a_texture_is_a_subgroup_of_its_own(rng):
    verdict = judged_with(old_cases({"<6 mm": 0.012, "6-8 mm": 0.012}), rng, subgroup_margin=0.01)
    assert [(s.by, s.group) for s in verdict.subgroups] == [("size", "6-8 mm"), ("size", "<6 mm"), ("texture", "solid")]
    assert not verdict.publish


def test_good_old_cases_do_not_help_a_challenger_that_is_no_better(rng):
    verdict = judge(scores([0.7] * 8), scores([0.7] * 8), old_cases=old_cases({"<6 mm": -0.1}), rng=rng)
    assert not verdict.publish
    assert "no better by more than" in verdict.reason
    assert json.loads(json.dumps(verdict.to_json()))["subgroups"][0]["figures"]["difference"] == pytest.approx(0.1)


def test_old_cases_of_one_model_alone_are_an_error(rng):
    old = old_cases({"<6 mm": 0.0})
    partial = OldCases(
        champion_score=old.champion_score, challenger_score={"<6 mm 0": 0.8}, groups_of_case=old.groups_of_case
    )
    with pytest.raises(InputError, match="only one was on <6 mm 1"):
        judged_with(partial, rng)


def test_a_subgroup_limit_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"'subgroup_limit' is 1"):
        PromotionRules(subgroup_limit=1.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_never_published_unless_the_mean_is_better(pairs):
    champion, challenger = scores(a for a, _ in pairs), scores(b for _, b in pairs)
    verdict = judge(champion, challenger, rng=np.random.default_rng(0))
    gain = np.mean([b for _, b in pairs]) - np.mean([a for a, _ in pairs])
    if gain <= 0.002 - 1e-9:
        assert not verdict.publish
    # The opposite exchange is never published too: two models cannot both be better than each other.
    assert not (verdict.publish and judge(challenger, champion, rng=np.random.default_rng(0)).publish)


def old(changes):
    """Old cases of one texture at a Dice of 0.6 that change so."""
    champion = {f"old_{n:02}": 0.6 for n in range(len(changes))}
    challenger = {f"old_{n:02}": 0.6 + change for n, change in enumerate(changes)}
    groups = {case: {"texture": "solid"} for case in champion}
    return OldCases(champion_score=champion, challenger_score=challenger, groups_of_case=groups)


def test_one_lucky_patient_promotes_nothing_that_may_well_do_harm(rng):
    """As seen on real nodules: a network that is still unsteady, one held-back patient, fourteen old cases."""
    unsteady = old([0.09, 0.15, 0.03, -0.18, -0.1, 0.07, 0.06, -0.03, -0.04, 0.03, -0.07, -0.02, 0.01, 0.24])
    verdict = judge(scores([0.779]), scores([0.796]), old_cases=unsteady, rng=rng)
    assert not verdict.publish
    assert verdict.together.difference > 0
    assert verdict.together.patient_count == 15
    assert 0.05 < verdict.probability_harm < 0.3
    assert verdict.reason.startswith("Refused: it may do harm, mean Dice 0.")
    assert "held-back and old cases together (15 patients)" in verdict.reason
    assert verdict.to_json()["together"]["patient_count"] == 15


def test_a_steady_network_is_promoted_by_one_patient(rng):
    steady = old([0.004, -0.005, 0.01, -0.008, 0.0, 0.006, -0.003, 0.002])
    verdict = judge(scores([0.779]), scores([0.796]), old_cases=steady, rng=rng)
    assert verdict.publish
    assert verdict.probability_harm == 0


def test_held_back_patients_outvote_a_doubt(rng):
    unsteady = [0.09, -0.15, 0.03, -0.14, 0.1, 0.07, -0.06]
    few = judge(scores([0.7] * 5), scores([0.74] * 5), old_cases=old(unsteady), rng=rng)
    many = judge(scores([0.7] * 30), scores([0.74] * 30), old_cases=old(unsteady), rng=rng)
    assert (few.publish, many.publish) == (False, True)


def test_a_case_that_is_held_back_and_old_counts_once(rng):
    cases = OldCases(
        champion_score={"case_00": 0.7},
        challenger_score={"case_00": 0.75},
        groups_of_case={"case_00": {"study texture": "solid"}},
    )
    verdict = judge(scores([0.7]), scores([0.75]), old_cases=cases, rng=rng)
    assert (verdict.publish, verdict.together.case_count) == (True, 1)


def witnesses(changes):
    """Old cases, each a patient, with these changes of the score from 0.6."""
    names = [f"old{n}" for n in range(len(changes))]
    return OldCases(
        champion_score=dict.fromkeys(names, 0.6),
        challenger_score={name: 0.6 + change for name, change in zip(names, changes, strict=True)},
        groups_of_case={name: {"size": "6-8 mm"} for name in names},
    )


CHAMPION_OF_TWO, CHALLENGER_OF_TWO = {"a": 0.6, "b": 0.6}, {"a": 0.8, "b": 0.55}


def test_old_cases_may_make_up_for_a_patients_loss_in_a_young_study(rng):
    sure = [0.05 + 0.01 * (n % 5) for n in range(20)]
    verdict = judge(CHAMPION_OF_TWO, CHALLENGER_OF_TWO, old_cases=witnesses(sure), rng=rng)
    assert verdict.publish
    assert "one patient loses 0.050, but with the old cases (22 patients together) the gain is sure" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "challenger"),
    [
        pytest.param([0.06] * 17, CHALLENGER_OF_TWO, id="too few witnesses"),
        pytest.param([0.3, -0.25] * 10, CHALLENGER_OF_TWO, id="no sure gain"),
        pytest.param([0.06] * 20, {"a": 0.9, "b": 0.44}, id="a loss too large"),
        pytest.param([0.06] * 20, {"a": 0.62, "b": 0.55}, id="no gain on the study"),
    ],
)
def test_they_make_up_for_nothing_else(changes, challenger, rng):
    assert not judge(CHAMPION_OF_TWO, challenger, old_cases=witnesses(changes), rng=rng).publish


DOUBTFUL_GAIN = [-0.06, -0.04, -0.02, 0.01, 0.02, 0.03, 0.04, 0.16]
"""Of eight held-back patients: 0.018 on average, and worse in more than a tenth of a bootstrap's draws."""


def test_old_cases_may_bear_out_a_gain_that_few_patients_leave_in_doubt(rng):
    champion, challenger = scores([0.7] * 8), scores(0.7 + np.array(DOUBTFUL_GAIN))
    assert "may be chance" in judge(champion, challenger, rng=rng).reason
    verdict = judge(champion, challenger, old_cases=witnesses([0.05 + 0.01 * (n % 5) for n in range(14)]), rng=rng)
    assert verdict.publish
    assert "that alone may be chance, but with the old cases (22 patients together) the gain is sure" in verdict.reason
    assert verdict.figures.probability_worse > verdict.rules.largest_probability_worse
    assert verdict.together.probability_worse <= verdict.rules.witnesses_doubt


@pytest.mark.parametrize(
    ("patients", "changes"),
    [
        pytest.param(8, [0.06] * 11, id="too few witnesses"),
        pytest.param(8, [0.3, -0.31] * 10, id="in doubt together too"),
        pytest.param(24, [0.06] * 20, id="held-back patients enough to speak for themselves"),
    ],
)
def test_they_bear_out_nothing_else(patients, changes, rng):
    gains = np.resize(DOUBTFUL_GAIN, patients) - (0.012 if patients > 8 else 0.0)
    verdict = judge(scores([0.7] * patients), scores(0.7 + gains), old_cases=witnesses(changes), rng=rng)
    assert not verdict.publish
    assert "may be chance" in verdict.reason
