"""Annotators compared from what they submitted: simulated ones, on anisotropic grids."""

from pathlib import Path

import numpy as np
import pytest

from medai.domain import LabelMap, Segment
from medai.domain.annotation import Annotation, Correction
from medai.errors import InputError, NotFoundError
from medai.geometry import VolumeGeometry
from medai.workflows.annotator_pictures import draw_annotators
from medai.workflows.annotators import compare_annotators, open_annotations
from medai.workflows.simulated_readers import Sabotage, biased_label, honest_label, hostile_label

SPACING_MM = (0.7, 0.8, 1.25)
SHAPE = (40, 36, 24)


class FakeSource:
    def __init__(self):
        self.kept = {}

    def add(self, case_id, annotator, labels, **known):
        number = len(self.kept)
        names = known.pop("names", ["Nodule 1"])
        shape = labels.shape
        correction = known.pop("correction", None)
        fields = {
            "tag": "final",
            "submitted_at_s": float(number),
            "volume_ml": 1.0,
            "is_current": False,
            "file_name": f"{number}.nii.gz",
            **known,
        }
        annotation = Annotation(
            annotation_id=f"id{number:03d}",
            case_id=case_id,
            annotator=annotator,
            seconds_spent=None,
            proposal_model=None,
            proposal_version=None,
            sha256="",
            nodules=1,
            correction=correction,
            **fields,
        )
        self.kept[annotation.annotation_id] = (
            annotation,
            LabelMap(
                geometry=VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*SPACING_MM, 1.0])),
                labels=labels.astype(np.uint8),
                segments=tuple(Segment(value=n, name=name) for n, name in enumerate(names, start=1)),
            ),
        )

    def annotations(self):
        return [annotation for annotation, _ in self.kept.values()]

    def label_map(self, annotation):
        if annotation.file_name == "damaged.nii.gz":
            raise InputError("damaged.nii.gz is damaged. Copy it again.")
        return self.kept[annotation.annotation_id][1]


def ball(radius_mm=4.5, middle=(12, 12, 9)):
    grid = np.indices(SHAPE).astype(float)
    return sum(((axis - c) * s) ** 2 for axis, c, s in zip(grid, middle, SPACING_MM, strict=True)) <= radius_mm**2


@pytest.fixture(scope="module")
def report():
    source, rng = FakeSource(), np.random.default_rng(5)
    for n in range(6):
        truth = ball(middle=(12 + n, 12, 9))
        source.add(f"case{n}", "ann", np.zeros(SHAPE))
        for name in ("ann", "bob"):
            label = honest_label(truth, SPACING_MM, rng)
            source.add(f"case{n}", name, label, names=[f"Nodule 1 malignancy {1 + n % 5}"])
        source.add(f"case{n}", "large", biased_label(truth, SPACING_MM, rng, margin_mm=1.3))
        bad = hostile_label(truth, SPACING_MM, rng, sabotage=Sabotage.WRONG_PLACE)
        source.add(f"case{n}", "mal", bad, quarantine_reason="far from everybody" if n == 0 else "")
    return compare_annotators(source)


def of(report, name):
    return next(each for each in report.annotators if each.name == name)


def test_the_biased_and_the_hostile_annotator_are_named_and_nobody_else(report):
    assert [each.name for each in report.annotators if each.bias and each.bias.is_biased] == ["large"]
    assert [each.name for each in report.annotators if each.overlap.is_outlier] == ["mal"]
    words = report.findings()
    assert len(words) == 2
    assert words[0].startswith("large outlines too large: volumes are +")
    assert words[1].startswith("mal labels something else than the others")


def test_the_latest_label_of_a_case_counts(report):
    assert of(report, "ann").cases == 6
    assert of(report, "ann").overlap.dice.mean > 0.7
    assert of(report, "mal").quarantined == 1


def test_ratings_come_from_the_names_of_segments(report):
    (rating,) = report.ratings
    assert (rating.attribute, rating.first, rating.second, rating.nodules) == ("malignancy", "ann", "bob", 6)
    assert rating.kappa == pytest.approx(1.0)


def test_pairs_and_staple(report):
    pair = next(p for p in report.pairs if (p.first, p.second) == ("ann", "bob"))
    assert (pair.cases, pair.both, pair.detection) == (6, 6, 1.0)
    assert 0.75 < pair.dice.mean < 0.95
    assert of(report, "large").staple.specificity < of(report, "ann").staple.specificity


def test_json_holds_the_bias_in_percent(report):
    figures = report.to_json()
    large = next(row for row in figures["annotators"] if row["name"] == "large")
    assert large["bias"]["percent_low"] > 10
    assert large["bias"]["is_biased"] is True
    assert figures["shared_cases"] == 6
    assert figures["findings"] == list(report.findings())


def test_the_picture_is_a_png(report, tmp_path):
    draw_annotators(report, tmp_path / "annotators.png")
    assert (tmp_path / "annotators.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"name it \.png"):
        draw_annotators(report, tmp_path / "annotators.pdf")


def test_one_annotator_a_case_is_compared_with_the_model():
    source = FakeSource()
    for n in range(6):
        change = Correction(
            dice=0.8, added_path_length_mm=1.0, volume_change_ml=0.5, nodules_added=int(n == 5), nodules_removed=0
        )
        source.add(f"case{n}", "" if n % 2 else "solo", ball(), volume_ml=1.5, correction=change)
    report = compare_annotators(source)
    assert [each.name for each in report.annotators] == ["solo", "unnamed"]
    assert of(report, "solo").bias.percent == pytest.approx((50, 50, 50))
    assert of(report, "unnamed").bias.against_model == 2
    assert report.findings()[0].startswith("Too little to judge anybody by")


def test_labels_that_cannot_be_compared_are_said():
    source = FakeSource()
    source.add("case", "ann", ball())
    source.add("case", "bob", ball())
    source.add("case", "cat", ball()[:-1])
    source.add("case", "dog", ball(), file_name="damaged.nii.gz")
    noise = np.zeros(SHAPE, dtype=bool)
    noise[::3, ::3, :] = True
    noise[:, :, 5::6] = False
    source.add("case", "eve", noise)
    report = compare_annotators(source)
    assert set(report.skipped) == {"id002", "id003", "id004"}
    assert "another grid" in report.skipped["id002"]
    assert "is damaged" in report.skipped["id003"]
    assert "parts: noise" in report.skipped["id004"]
    assert [(p.first, p.second) for p in report.pairs] == [("ann", "bob")]


def test_without_labels_there_is_nothing_to_compare():
    source = FakeSource()
    source.add("case", "model", ball(), tag="original")
    source.add("case", "ann", ball(), file_name="boxes.json")
    with pytest.raises(NotFoundError, match="Nobody has submitted"):
        compare_annotators(source)


def test_a_folder_without_history_is_refused(tmp_path: Path):
    pytest.importorskip("medai.store.annotations")
    with pytest.raises(NotFoundError, match="holds no history"):
        open_annotations(tmp_path)
