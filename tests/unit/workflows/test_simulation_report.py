"""Damage, named annotators and claims, from rounds whose figures are known."""

import json

import numpy as np
import pytest
from tests.support.simulated_rounds import CHANGES, MARGIN, label, off, on, played, scores

from medai.errors import InputError
from medai.evaluation.paired import paired_difference
from medai.evaluation.promotion import Verdict, judge
from medai.workflows.simulated_session import as_judged, publish_everything
from medai.workflows.simulated_stream import ReaderKind
from medai.workflows.simulation_report import (
    ARM_COLUMNS,
    READER_COLUMNS,
    ROUND_COLUMNS,
    arm_row,
    reader_rows,
    round_rows,
    summarise,
)
from medai.workflows.simulation_results import ArmResult


def test_damage_is_what_promotions_cost_and_what_was_kept_away_is_told_apart():
    assert on().curve == pytest.approx((0.5, 0.6, 0.65, 0.65, 0.68, 0.68, 0.68))
    assert (len(on().published), len(on().refused)) == (3, 2)
    assert on().largest_loss == 0.0
    assert on().harmful(MARGIN) == ()
    assert [outcome.number for outcome in on().kept_away(MARGIN)] == [3]
    assert on().deepest_fall == pytest.approx(0.0)
    assert off().largest_loss == pytest.approx(0.2)
    # A loss within the margin is no harm.
    assert [outcome.number for outcome in off().harmful(MARGIN)] == [3]
    assert off().kept_away(MARGIN) == ()
    assert off().deepest_fall == pytest.approx(0.2)
    assert off().gain.difference == pytest.approx(-0.03)


def test_a_biased_annotator_is_named_from_the_first_round_on_after_which_the_name_stays():
    assert on(biased_from=3).named_from(ReaderKind.BIASED) == 3
    assert on(biased_from=9).named_from(ReaderKind.BIASED) is None


def test_labels_are_counted_by_what_became_of_them():
    labels = [
        label("malicious Mal", quarantine="alone", quality=0.0),
        label("malicious Mal", side="validation", quality=0.1),
        label("malicious Mal", side="validation", quality=0.0, case="disputed"),
        label("honest Ann"),
        label("honest Ben", side="test"),
    ]
    hostile = on(labels=labels).labels_of(ReaderKind.HOSTILE)
    assert (hostile.labels, hostile.quarantined, hostile.train, hostile.judge, hostile.test) == (3, 1, 0, 1, 0)
    assert hostile.dice_to_truth == pytest.approx(0.1 / 3)
    assert hostile.left_out == 1
    honest = on(labels=labels).labels_of(ReaderKind.HONEST)
    assert (honest.labels, honest.train, honest.test) == (2, 1, 1)


def test_claims_hold_where_the_gate_did_its_work():
    labels = [label("malicious Mal", quarantine="alone", quality=0.0)]
    report = summarise([on(labels=labels), off(labels=labels)], MARGIN)
    assert [claim.name for claim in report.claims if not claim.holds] == []
    words = " ".join(claim.words for claim in report.claims)
    assert "With the gate on 0 of 3 promotions cost more than 0.02 Dice" in words
    assert "1 of 2 refused challengers would have" in words
    assert "With the gate off 1 of 5 promotions cost more than 0.02 Dice, the worst one 0.200" in words
    assert "1 of the malicious annotator's 1 labels were quarantined, 0 left out" in words
    assert report.to_json()["holds"]
    json.dumps(report.to_json())


def test_claims_fail_where_it_did_not():
    harmed = ArmResult.of(1, True, played((0.1, -0.1), is_published=lambda _: True, biased_from=9))
    report = summarise([harmed, off()], MARGIN)
    failed = {claim.name for claim in report.claims if not claim.holds}
    assert failed == {
        "corrections_raise_dice",
        "no_promotion_harms",
        "biased_is_named",
        "hostile_labels_are_harmless",
    }
    assert not report.to_json()["holds"]


def test_rows_fit_their_columns():
    arms = [on(labels=[label("honest Ann")]), off()]
    assert {len(arm_row(arm, MARGIN)) for arm in arms} == {len(ARM_COLUMNS)}
    assert {len(row) for row in reader_rows(arms[:1])} == {len(READER_COLUMNS)}
    assert {len(row) for row in round_rows(arms)} == {len(ROUND_COLUMNS)}
    assert arm_row(arms[1], MARGIN)[6] == "1 (round 3)"
    assert len(round_rows(arms)) == 2 * len(CHANGES)


def test_an_arm_without_results_says_so():
    with pytest.raises(InputError, match="Seed 3 has no result yet"):
        ArmResult.of(3, True, [])


def test_the_gate_that_is_off_publishes_what_was_refused_and_says_what_was_found():
    worse: Verdict = judge(scores(0.6), scores(0.4), rng=np.random.default_rng(1))
    better = judge(scores(0.4), scores(0.6), rng=np.random.default_rng(1))
    assert not as_judged(worse).publish
    opened = publish_everything(worse)
    assert opened.publish
    assert opened.reason.startswith("Gate off. Refused: worse")
    assert opened.figures == paired_difference(scores(0.6), scores(0.4), rng=np.random.default_rng(1))
    assert publish_everything(better) is better
