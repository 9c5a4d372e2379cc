import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError
from medai.evaluation.promotion import PromotionRules, judge


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


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_never_published_unless_the_mean_is_better(pairs):
    champion, challenger = scores(a for a, _ in pairs), scores(b for _, b in pairs)
    verdict = judge(champion, challenger, rng=np.random.default_rng(0))
    gain = np.mean([b for _, b in pairs]) - np.mean([a for a, _ in pairs])
    if gain <= 0.002 - 1e-9:
        assert not verdict.publish
    # The opposite exchange is never published too: two models cannot both be better than each other.
    assert not (verdict.publish and judge(challenger, champion, rng=np.random.default_rng(0)).publish)
