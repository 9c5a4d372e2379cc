"""FROC against a slow and simple count, and what the hand-worked cases in tests/golden/froc do not reach."""

import numpy as np
import pytest

from medai.domain.detection_case import TrueNodule
from medai.errors import InputError
from medai.evaluation.froc import LUNA16_RATES, Mark, ScanTruth, froc, match_scan, scan_level, wilson_interval


def nodule(x: float, diameter_mm: float = 10.0) -> TrueNodule:
    return TrueNodule(centre_ras_mm=(x, 0.0, 0.0), diameter_mm=diameter_mm)


def mark(x: float, probability: float) -> Mark:
    return Mark(centre_ras_mm=(x, 0.0, 0.0), probability=probability)


def random_scans(rng: np.random.Generator, count: int) -> tuple[dict[str, list[Mark]], dict[str, ScanTruth]]:
    """Scans of up to three nodules far apart, marks near and far, probabilities in tenths so that many are tied."""
    marks, truths = {}, {}
    for number in range(count):
        places = 50.0 * rng.permutation(6)
        nodules = tuple(nodule(x, rng.uniform(3, 20)) for x in places[: rng.integers(0, 4)])
        irrelevant = tuple(nodule(x, 6.0) for x in places[4 : 4 + rng.integers(0, 3)])
        near = [f.centre_ras_mm[0] + rng.normal(0, 4) for f in (*nodules, *irrelevant) for _ in range(2)]
        far = rng.uniform(400, 900, size=rng.integers(0, 6))
        truths[f"s{number}"] = ScanTruth(nodules=nodules, irrelevant=irrelevant)
        if rng.random() < 0.8:
            marks[f"s{number}"] = [mark(float(x), float(rng.integers(1, 10)) / 10) for x in (*near, *far)]
    return marks, truths


def counted_at(marks: dict, truths: dict, threshold: float) -> tuple[float, float]:
    """False positives a scan and sensitivity at one threshold, counted one by one."""
    found = total = wrong = 0
    for scan, truth in truths.items():
        shown = [m for m in marks.get(scan, ()) if m.probability >= threshold]

        def hits(m: Mark, finding: TrueNodule) -> bool:
            return bool(np.linalg.norm(np.subtract(m.centre_ras_mm, finding.centre_ras_mm)) < finding.diameter_mm / 2)

        total += len(truth.nodules)
        found += sum(any(hits(m, n) for m in shown) for n in truth.nodules)
        wrong += sum(not any(hits(m, f) for f in (*truth.nodules, *truth.irrelevant)) for m in shown)
    return wrong / len(truths), found / total


@pytest.mark.parametrize("seed", range(8))
def test_every_point_of_the_curve_is_what_counting_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks, truths = random_scans(rng, 12)
    result = froc(marks, truths, draws=5, rng=rng)
    assert result.fps_per_scan[0] == result.sensitivity[0] == 0
    for threshold, fps, sensitivity in zip(
        result.threshold[1:], result.fps_per_scan[1:], result.sensitivity[1:], strict=True
    ):
        assert (fps, sensitivity) == pytest.approx(counted_at(marks, truths, threshold))
        assert result.at_threshold(threshold) == pytest.approx((sensitivity, fps))
    assert result.cpm == pytest.approx(np.mean([result.sensitivity_at(rate) for rate in LUNA16_RATES]))
    assert result.cpm_ci95[0] <= result.cpm <= result.cpm_ci95[1] or result.cpm_ci95[0] < result.cpm_ci95[1]


def test_a_threshold_above_all_marks_finds_nothing(rng: np.random.Generator) -> None:
    result = froc({"a": [mark(0, 0.5)]}, {"a": ScanTruth(nodules=(nodule(0),))}, rng=rng, draws=5)
    assert result.at_threshold(0.6) == (0.0, 0.0)
    assert result.at_threshold(0.5) == (1.0, 0.0)


def test_the_bootstrap_draws_scans_and_keeps_to_its_seed() -> None:
    truths = {f"s{n}": ScanTruth(nodules=(nodule(0),)) for n in range(40)}
    marks = {f"s{n}": [mark(0 if n % 2 else 300, 0.5)] for n in range(40)}
    one, again = (froc(marks, truths, rng=np.random.default_rng(3)) for _ in range(2))
    assert one.cpm_ci95 == again.cpm_ci95
    low, high = one.at_rates_ci95[8.0]
    # Half of 40 nodules are found: a binomial interval is about 0.5 ± 0.15.
    assert low == pytest.approx(0.35, abs=0.06)
    assert high == pytest.approx(0.65, abs=0.06)


def test_marks_of_scans_that_do_not_count_are_passed_over(rng: np.random.Generator) -> None:
    truths = {"a": ScanTruth(nodules=(nodule(0),))}
    result = froc({"a": [mark(0, 0.9)], "elsewhere": [mark(5, 0.95)]}, truths, rng=rng, draws=5)
    assert (result.cpm, result.false_positives, result.scans) == (1.0, 0, 1)


def test_of_too_many_marks_with_one_probability_none_is_above_the_hundred_and_first() -> None:
    truth = ScanTruth(nodules=(nodule(0),))
    crowd = [mark(100.0 + 20 * n, 0.5) for n in range(100)]
    match = match_scan([mark(0, 0.5), *crowd], truth)
    assert match.cut == 101
    assert match.nodule_probability.tolist() == [-np.inf]
    assert match_scan([mark(0, 0.6), *crowd], truth).nodule_probability.tolist() == [0.6]


def test_scans_are_called_by_their_most_probable_mark_that_is_not_on_an_irrelevant_finding() -> None:
    truths = {
        "found": ScanTruth(nodules=(nodule(0),)),
        "missed": ScanTruth(nodules=(nodule(0),)),
        "clear": ScanTruth(),
        "scarred": ScanTruth(irrelevant=(nodule(0),)),
    }
    marks = {"found": [mark(0, 0.7)], "missed": [mark(0, 0.4)], "clear": [mark(0, 0.3)], "scarred": [mark(1, 0.9)]}
    result = scan_level(marks, truths, 0.5)
    assert (result.sensitivity, result.specificity) == (0.5, 1.0)
    assert (result.positives, result.negatives) == (2, 2)
    assert result.specificity_ci95[1] == pytest.approx(1.0)


def test_wilson_interval_of_eight_in_ten() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert all(np.isnan(wilson_interval(0, 0)))


def test_refusals(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="There is no scan"):
        froc({}, {}, rng=rng)
    with pytest.raises(InputError, match="finite place and probability"):
        mark(0, float("nan"))
