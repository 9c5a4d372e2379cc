"""Agreement of annotators, worked by hand; biased and hostile ones among honest ones."""

import numpy as np
import pytest

from medai.errors import GeometryError, InputError
from medai.evaluation.agreement import (
    ProposalComparison,
    ReadNodule,
    overlaps_with_peers,
    pair_agreements,
    rating_agreements,
    volume_biases,
)


def mask(voxels, start=0):
    flat = np.zeros(600, dtype=bool)
    flat[start : start + voxels] = True
    return flat.reshape(10, 12, 5)


def nodule(case_id, masks, readers=None, ratings=None):
    return ReadNodule(case_id=case_id, readers=tuple(readers or masks), masks=masks, ratings=ratings or {})


def rng():
    return np.random.default_rng(7)


def of(found, reader):
    return next(item for item in found if item.reader == reader)


def test_pairs_by_hand():
    nodules = [
        nodule("a", {"ann": mask(10), "bob": mask(10, 5)}),
        nodule("a", {"ann": mask(10)}, readers=["ann", "bob"]),
        nodule("b", {"ann": mask(10), "bob": mask(10)}),
        nodule("c", {"ann": mask(9)}),
    ]
    (pair,) = pair_agreements(nodules, rng())
    assert (pair.cases, pair.both, pair.only_first, pair.only_second) == (2, 2, 1, 0)
    assert pair.detection == pytest.approx(4 / 5)
    assert pair.dice.mean == pytest.approx(0.75)
    assert (pair.dice.low, pair.dice.high) == (0.5, 1.0)


def test_kappa_per_attribute_by_hand():
    def rated(case_id, ann, bob):
        return nodule(
            case_id, {"ann": mask(4), "bob": mask(4)}, ratings={"ann": {"malignancy": ann}, "bob": {"malignancy": bob}}
        )

    (found,) = rating_agreements([rated("a", 1, 1), rated("b", 5, 5), rated("c", 1, 5), nodule("d", {"ann": mask(4)})])
    # Observed: one of three pairs 16 apart. By chance ann 1,1,5 and bob 1,5,5: (2·2 + 1·1)/9 of pairs are 16 apart.
    assert found.kappa == pytest.approx(1 - (1 / 3) / (5 / 9))
    assert (found.attribute, found.nodules) == ("malignancy", 3)


def honest_and_biased(factor, cases=8, honest=2):
    draw = np.random.default_rng(11)
    return [
        nodule(
            f"case{n}",
            {
                **{f"honest{h}": mask(int(100 * np.exp(draw.normal(0, 0.03)))) for h in range(honest)},
                "large": mask(int(100 * factor)),
            },
        )
        for n in range(cases)
    ]


def test_the_biased_reader_is_named_and_the_honest_ones_are_not():
    found = volume_biases(honest_and_biased(1.5), [], rng())
    assert [bias.reader for bias in found if bias.is_biased] == ["large"]
    mean, low, high = of(found, "large").percent
    assert mean == pytest.approx(50, abs=4)
    assert 40 < low < mean < high < 60
    assert abs(of(found, "honest0").percent[0]) < 5
    assert of(found, "large").against_peers == 8


def test_too_small_is_a_bias_too():
    found = volume_biases(honest_and_biased(0.6), [], rng())
    assert [bias.reader for bias in found if bias.is_biased] == ["large"]
    assert of(found, "large").percent[0] == pytest.approx(-40, abs=3)


def test_within_the_margin_or_with_few_cases_nobody_is_named():
    assert not any(bias.is_biased for bias in volume_biases(honest_and_biased(1.08), [], rng()))
    assert not any(bias.is_biased for bias in volume_biases(honest_and_biased(1.5, cases=4), [], rng()))
    assert any(bias.is_biased for bias in volume_biases(honest_and_biased(1.08), [], rng(), margin=0.02))


def test_two_who_accuse_each_other_are_disputed():
    found = volume_biases(honest_and_biased(1.6, honest=1), [], rng())
    assert [(bias.reader, bias.is_biased, bias.is_disputed) for bias in found] == [
        ("honest0", False, True),
        ("large", False, True),
    ]
    assert of(found, "large").percent[0] == pytest.approx(60, abs=5)


def test_the_model_decides_between_two():
    nodules = honest_and_biased(1.6, honest=1)
    proposals = [
        ProposalComparison(case_id=f"case{n}", reader=reader, dice=0.9, log_volume_ratio=np.log(ratio))
        for n in range(8)
        for reader, ratio in (("honest0", 1.01), ("large", 1.6))
    ]
    found = volume_biases(nodules, proposals, rng())
    assert [bias.reader for bias in found if bias.is_biased] == ["large"]
    assert not any(bias.is_disputed for bias in found)
    assert of(found, "large").against_model == 8


def test_one_reader_a_case_is_compared_with_the_model():
    nodules = [nodule(f"case{n}", {"solo": mask(100)}) for n in range(6)]
    proposals = [
        ProposalComparison(case_id=f"case{n}", reader="solo", dice=0.8, log_volume_ratio=np.log(1.3) if n else None)
        for n in range(6)
    ]
    (bias,) = volume_biases(nodules, proposals, rng())
    assert bias.percent == pytest.approx((30, 30, 30))
    assert (bias.is_biased, bias.against_peers, bias.against_model) == (True, 0, 5)
    (overlap,) = overlaps_with_peers(nodules, proposals, rng())
    assert (overlap.dice.mean, overlap.limit, overlap.is_outlier) == (pytest.approx(0.8), None, False)


def hostile_cases(cases=6):
    found = []
    for n in range(cases):
        readers = ["ann", "bob", "cat", "mal"]
        honest = {name: mask(100, start) for name, start in (("ann", 0), ("bob", 5), ("cat", 8 + n % 2))}
        found += [nodule(f"case{n}", honest, readers=readers), nodule(f"case{n}", {"mal": mask(80)}, readers=readers)]
    return found


def test_marks_in_the_wrong_place_make_an_outlier():
    found = overlaps_with_peers(hostile_cases(), [], rng())
    assert [overlap.reader for overlap in found if overlap.is_outlier] == ["mal"]
    assert of(found, "mal").dice.mean == 0
    # The outlier is no peer: (0.95 + 0.92 or 0.91) / 2.
    assert of(found, "ann").dice.mean == pytest.approx(0.9325)


def test_few_cases_make_no_outlier():
    assert not any(overlap.is_outlier for overlap in overlaps_with_peers(hostile_cases(4), [], rng()))


def test_a_reader_with_nothing_to_compare_is_left_out():
    nodules = [nodule("a", {"solo": mask(10)})]
    assert volume_biases(nodules, [], rng()) == ()
    assert overlaps_with_peers(nodules, [], rng()) == ()
    assert pair_agreements(nodules, rng()) == ()


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="no readers of it \\(bob\\)"):
        nodule("a", {"ann": mask(3), "bob": mask(3)}, readers=["ann"])
    with pytest.raises(InputError, match="without a voxel \\(ann\\)"):
        nodule("a", {"ann": mask(0)})
    with pytest.raises(GeometryError, match="differ in shape"):
        nodule("a", {"ann": mask(3), "bob": mask(3)[1:]})
    with pytest.raises(InputError, match=r"margin of 1\.5"):
        volume_biases([], [], rng(), margin=1.5)


def test_the_model_is_no_witness_where_others_have_read_enough():
    """A weak model outlines half of each nodule; who corrects it alone is not biased for that."""
    proposals = [
        ProposalComparison(case_id=f"alone{n}", reader="honest0", dice=0.5, log_volume_ratio=np.log(2))
        for n in range(30)
    ]
    found = volume_biases(honest_and_biased(1.5), proposals, rng())
    assert [bias.reader for bias in found if bias.is_biased] == ["large"]
    assert (of(found, "honest0").against_peers, of(found, "honest0").against_model) == (8, 0)
    overlap = of(overlaps_with_peers(honest_and_biased(1.5), proposals, rng()), "honest0")
    assert overlap.against_peers == overlap.dice.cases == 8


def test_who_labels_something_else_hides_no_bias():
    """Each case is read by one honest person, the biased one, and one who marks a voxel here and a lung there."""
    draw = np.random.default_rng(5)
    cases = [
        nodule(
            f"case{n}",
            {
                "honest0": mask(int(100 * np.exp(draw.normal(0, 0.03)))),
                "large": mask(150),
                "mal": mask((10, 1000)[n % 2]),
            },
        )
        for n in range(12)
    ] + [nodule(f"other{n}", {"honest0": mask(100), "honest1": mask(101)}) for n in range(6)]
    hidden = volume_biases(cases, [], rng())
    assert not any(bias.is_biased for bias in hidden)
    found = volume_biases(cases, [], rng(), no_peers={"mal"})
    assert [bias.reader for bias in found if bias.is_biased] == ["large"]
    assert of(found, "large").percent[0] == pytest.approx(50, abs=4)
    # Theirs is still told.
    assert of(found, "mal").against_peers == 12
