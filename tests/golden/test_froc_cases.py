"""FROC against cases worked by hand: tests/golden/froc/overview.md explains each answer."""

import json
from pathlib import Path

import numpy as np
import pytest

from medai.evaluation.froc import LUNA16_RATES, froc, scan_level
from medai.workflows.luna16 import read_detection_folder, read_marks

GOLDEN = Path(__file__).parent / "froc"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def numbers(values) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


@pytest.mark.parametrize("name", CASES)
def test_case_worked_by_hand(name: str, rng: np.random.Generator) -> None:
    expected = json.loads((GOLDEN / name / "expected.json").read_text())
    truths = read_detection_folder(GOLDEN / name).truths
    marks = read_marks(GOLDEN / name / "marks.csv")

    result = froc(marks, truths, least_diameter_mm=expected.get("least_diameter_mm", 0.0), draws=20, rng=rng)

    np.testing.assert_allclose(result.fps_per_scan, expected["fps"])
    np.testing.assert_allclose(result.sensitivity, numbers(expected["sensitivity"]))
    assert tuple(result.at_rates) == LUNA16_RATES
    np.testing.assert_allclose(list(result.at_rates.values()), numbers(expected["at_rates"]))
    np.testing.assert_allclose(result.cpm, numbers([expected["cpm"]])[0])
    for count in ("nodules", "found", "false_positives", "on_irrelevant", "repeated", "cut"):
        if count in expected:
            assert getattr(result, count) == expected[count], count
    if "scan_threshold" in expected:
        scans = scan_level(marks, truths, expected["scan_threshold"])
        np.testing.assert_allclose(
            [scans.sensitivity, scans.specificity],
            numbers([expected["scan_sensitivity"], expected["scan_specificity"]]),
        )


def test_every_case_is_explained() -> None:
    overview = (GOLDEN / "overview.md").read_text()
    assert len(CASES) == 12
    assert all(f"**{name}**" in overview for name in CASES)
