"""Pictures and pages of evaluations, of ordinary data and of data with hardly anything in it."""

import math
from pathlib import Path

import numpy as np
import pytest

from medai.domain import NoduleAssessment, NoduleKind
from medai.domain.assessment import RatedProbability
from medai.domain.detection_case import TrueNodule
from medai.evaluation.calibration import ReliabilityBins
from medai.evaluation.froc import Mark, ScanTruth
from medai.workflows.classification_report import ClassificationConfig, ClassificationReport, RatedScore
from medai.workflows.detection_report import DetectionConfig, DetectionReport
from medai.workflows.evaluation_figures import (
    draw_classification,
    draw_detection,
    draw_segmentation,
    figure_paths,
    roc_curves,
)
from medai.workflows.segmentation_report import NoduleScore, SegmentationConfig, SegmentationReport


def outlined(number: int, rng: np.random.Generator, *, distance_mm: float = 1.0) -> NoduleScore:
    probability = rng.random(200)
    bins = ReliabilityBins.of(probability, rng.random(200) < probability)
    return NoduleScore(
        case_id=f"<case {number}>",
        patient_id=f"p{number // 2}",
        diameter_mm=float(rng.uniform(3, 40)),
        texture=NoduleKind.SOLID if number % 2 else None,
        dice=float(rng.random()),
        dice_after=(0.5,),
        hausdorff95_mm=distance_mm,
        surface_mm=distance_mm,
        volume_mm3=100.0,
        volume_error_percent=-5.0,
        uncertainty=float(rng.random()),
        voxels=bins,
        doubtful_voxels=ReliabilityBins.of([], []) if number % 3 else bins,
        clicks=1,
        first_click_ijk=(1, 2, 3),
        seconds=0.1,
    )


def rated(number: int, rng: np.random.Generator, rating: float | None) -> RatedScore:
    value = float(rng.random())
    assessment = NoduleAssessment(
        malignancy=RatedProbability(value=value, low=value / 2, high=(1 + value) / 2),
        malignancy_rating=1 + 4 * value,
        ratings={"malignancy": 1 + 4 * value, "texture": 5.0},
        kind=NoduleKind.SOLID,
        kind_probabilities={NoduleKind.SOLID: 1.0},
    )
    return RatedScore(
        case_id=f"case {number}",
        patient_id=f"p{number}",
        diameter_mm=float(rng.uniform(3, 40)),
        voted={} if rating is None else {"malignancy": rating, "texture": 5.0},
        kind=NoduleKind.SOLID,
        reference=assessment,
        own=None if number % 5 == 4 else assessment,
    )


@pytest.mark.parametrize("count", [1, 12])
def test_outlines(count: int, tmp_path: Path, rng: np.random.Generator) -> None:
    scores = tuple(outlined(n, rng, distance_mm=math.nan if n == 1 else 1.0) for n in range(count))
    report = SegmentationReport(
        scores=scores,
        config=SegmentationConfig(clicks=2),
        skipped={"<torn>": "damaged & gone"},
        warnings=("take care",),
        model={"version_id": "starter", "weights_sha256": "0123456789ab"},
    )
    png, page = figure_paths(tmp_path / "plots", "seg")
    draw_segmentation(report, png, page)
    assert png.stat().st_size > 10_000
    text = page.read_text()
    assert "data:image/png;base64," in text
    assert "&lt;case 0&gt;" in text
    assert "damaged &amp; gone" in text
    assert "take care" in text
    assert "starter (01234567)" in text
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["seg.html", "seg.png"]


@pytest.mark.parametrize("nodules", [0, 1])
def test_detection(nodules: int, tmp_path: Path) -> None:
    nodule = TrueNodule(centre_ras_mm=(0.0, 0.0, 0.0), diameter_mm=6.0)
    report = DetectionReport.of(
        {"a": [Mark(centre_ras_mm=(0.0, 0.0, 1.0), probability=0.9)], "b": []},
        {"a": ScanTruth(nodules=(nodule,) * nodules), "b": ScanTruth()},
        DetectionConfig(),
        threshold=0.5,
        marks_from="detector",
        model={},
        seconds_of_scan={},
        skipped={},
        warnings=(),
    )
    png, page = figure_paths(tmp_path, "froc")
    draw_detection(report, png, page)
    assert png.stat().st_size > 10_000
    assert ("1.000 (95 % interval" in page.read_text()) == bool(nodules)


@pytest.mark.parametrize("ratings", [[5.0], [3.0], [None], [1.0, 5.0] * 10])
def test_ratings(ratings: list[float | None], tmp_path: Path, rng: np.random.Generator) -> None:
    scores = tuple(rated(n, rng, rating) for n, rating in enumerate(ratings))
    report = ClassificationReport(scores=scores, config=ClassificationConfig())
    png, page = figure_paths(tmp_path, "roc")
    draw_classification(report, png, page)
    assert png.stat().st_size > 10_000
    assert "size alone" in page.read_text()


def test_the_area_under_the_drawn_curve_is_the_auc(rng: np.random.Generator) -> None:
    scores = tuple(rated(n, rng, rating) for n, rating in enumerate([1.0, 2.0, 4.0, 5.0, 1.0] * 6))
    report = ClassificationReport(scores=scores, config=ClassificationConfig())
    figures = report.to_json()
    curves = {name: points for name, _, points in roc_curves(report)}
    assert set(curves) == {"with the folder's outline", "size alone"}
    for name, key in (("with the folder's outline", "auc"), ("size alone", "size_only_auc")):
        x, y = np.transpose(curves[name])
        assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(figures[key], abs=1e-4)
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
