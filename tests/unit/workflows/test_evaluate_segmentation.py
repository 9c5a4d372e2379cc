"""The evaluation of outlines, with a stand-in for the network whose answers are known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.support.fake_models import BoxClicks
from tests.support.lung_voxels import lung_hu
from tests.support.scan_factory import write_file

from medai.cli.output import write_json
from medai.domain import NoduleKind
from medai.errors import CancelledByUserError, InputError
from medai.evaluation.simulated_clicks import ClickPlace
from medai.geometry import VolumeGeometry
from medai.training.dataset import is_validation_patient
from medai.workflows.evaluate_segmentation import evaluate_segmentation, texture_of_rating
from medai.workflows.segmentation_report import SegmentationConfig

CONTRACT = {"n", "dice_mean", "dice_ci95", "dice_median", "hd95_mm_mean"}
GROUPS = {"by_size", "by_texture", "volume_error", "calibration", "per_case"}


def put(folder: Path, name: str, sides: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
    """A case whose nodule is a block of so many voxels in the middle."""
    shape = (24, 23, max(sides[2], 9))
    mask = np.zeros(shape, dtype=np.uint8)
    start = [(n - side) // 2 for n, side in zip(shape, sides, strict=True)]
    mask[tuple(slice(s, s + side) for s, side in zip(start, sides, strict=True))] = 1
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*spacing_mm, 1.0]))
    for kind, voxels in (("images", lung_hu(shape, -700)), ("masks", mask)):
        (folder / kind).mkdir(exist_ok=True, parents=True)
        write_file(voxels, geometry, folder / kind / f"{name}.nii.gz")


def make_folder(folder: Path) -> Path:
    """Three nodules of two patients; the model's cube of 5 voxels is right for the first."""
    put(folder, "right", (5, 5, 5), (1.0, 1.0, 1.0))
    put(folder, "long", (11, 5, 5), (1.0, 1.0, 1.0))
    put(folder, "thick", (5, 5, 3), (0.7, 0.7, 5.0))
    (folder / "nodules.csv").write_text(
        "case_id,patient_id,diameter_mm,texture\nright,p1,5,5\nlong,p1,9,nan\nthick,p2,40,1\n"
    )
    return folder


def evaluate(folder: Path, **settings):
    return evaluate_segmentation(folder, BoxClicks(), SegmentationConfig(place=ClickPlace.INNERMOST, **settings))


def test_figures_of_three_nodules(tmp_path: Path) -> None:
    figures = evaluate(make_folder(tmp_path)).to_json()
    assert figures.keys() >= CONTRACT | GROUPS
    right, long, thick = figures["per_case"]
    assert right["dice"] == 1.0
    assert right["hd95_mm"] == 0.0
    assert long["dice"] == pytest.approx(2 * 125 / (125 + 275), abs=1e-4)
    assert long["volume_error_percent"] == pytest.approx(100 * (125 - 275) / 275, abs=0.01)
    # With slices this thick each is as deep as any other: the click lies in the first, two slices from the cube's end.
    assert thick["hd95_mm"] == pytest.approx(10.0)
    assert thick["volume_error_percent"] == pytest.approx(100 * 2 / 3, abs=0.01)
    assert figures["n"] == 3
    assert figures["n_patients"] == 2
    assert figures["dice_mean"] == pytest.approx(np.mean([c["dice"] for c in figures["per_case"]]), abs=1e-4)
    assert figures["dice_median"] == pytest.approx(np.median([c["dice"] for c in figures["per_case"]]), abs=1e-4)
    low, high = figures["dice_ci95"]
    assert low <= figures["dice_mean"] <= high
    assert {name: row["n"] for name, row in figures["by_size"].items()} == {"<6 mm": 1, "8-15 mm": 1, ">=30 mm": 1}
    assert {name: row["n"] for name, row in figures["by_texture"].items()} == {
        "solid": 1,
        "unrated": 1,
        "non-solid": 1,
    }


def test_more_clicks_and_what_each_was_worth(tmp_path: Path) -> None:
    figures = evaluate(make_folder(tmp_path), clicks=2).to_json()
    first, second = figures["dice_by_click"]
    assert second["dice_mean"] > first["dice_mean"]
    assert second["dice_mean"] == figures["dice_mean"]
    assert [case["clicks"] for case in figures["per_case"]] == [1, 2, 2]


def test_calibration_is_of_what_was_looked_at(tmp_path: Path) -> None:
    # The stand-in gives 0.9 to all 125 voxels it looks at; all of them are in the first two masks.
    put(tmp_path, "right", (5, 5, 5), (1.0, 1.0, 1.0))
    calibration = evaluate(tmp_path).to_json()["calibration"]
    assert calibration["ece"] == pytest.approx(0.1)
    assert calibration["bins"] == [
        {"low": 0.8, "high": 0.9, "share": 1.0, "mean_probability": pytest.approx(0.9), "observed": 1.0}
    ]


def test_one_nodule_of_one_patient_still_has_every_key(tmp_path: Path) -> None:
    put(tmp_path, "only", (5, 5, 5), (1.0, 1.0, 1.0))
    figures = evaluate(tmp_path).to_json()
    assert figures.keys() >= CONTRACT | GROUPS
    assert figures["dice_ci95"] == [1.0, 1.0]
    assert math.isnan(figures["calibration"]["uncertainty"]["spearman_with_dice"])
    assert any("one patient" in text for text in figures["warnings"])
    write_json(tmp_path / "out.json", figures)
    assert json.loads((tmp_path / "out.json").read_text())["n"] == 1


def test_the_interval_of_one_patient_draws_nodules(tmp_path: Path) -> None:
    for number, sides in enumerate([(5, 5, 5), (7, 5, 5), (9, 5, 5), (11, 5, 5)]):
        put(tmp_path, f"LIDC-IDRI-0001_R_{number}", sides, (1.0, 1.0, 1.0))
    figures = evaluate(tmp_path).to_json()
    assert figures["n_patients"] == 1
    assert figures["dice_ci95"][0] < figures["dice_mean"] < figures["dice_ci95"][1]


def test_a_click_does_not_depend_on_the_other_cases(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    config = SegmentationConfig(place=ClickPlace.ANYWHERE, seed=4)
    whole = evaluate_segmentation(folder, BoxClicks(), config).to_json()["per_case"]
    (folder / "nodules.csv").write_text("case_id,patient_id\nthick,p2\nlong,p1\n")
    part = evaluate_segmentation(folder, BoxClicks(), config).to_json()["per_case"]
    clicks = {case["case_id"]: case["first_click_ijk"] for case in whole}
    assert all(clicks[case["case_id"]] == case["first_click_ijk"] for case in part)


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    write_file(
        np.zeros((24, 23, 9), np.uint8),
        VolumeGeometry(shape_ijk=(24, 23, 9), affine_ijk_to_ras_mm=np.eye(4)),
        folder / "masks" / "right.nii.gz",
    )
    (folder / "masks" / "thick.nii.gz").unlink()
    figures = evaluate(folder).to_json()
    assert figures["n"] == 1
    assert figures["n_skipped"] == 2
    assert "is empty" in figures["skipped"]["right"]
    assert "no mask" in figures["skipped"]["thick"]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "a", (5, 5, 5), (1.0, 1.0, 1.0))
    (tmp_path / "images" / "a.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"Not one nodule .* could be evaluated. The first: a: The image cannot be"):
        evaluate(tmp_path)


def test_held_back_patients_alone(tmp_path: Path) -> None:
    names = [f"LIDC-IDRI-{number:04d}" for number in range(1, 40)]
    held_back = next(name for name in names if is_validation_patient(name))
    trained_on = next(name for name in names if not is_validation_patient(name))
    for name in (held_back, trained_on):
        put(tmp_path, f"{name}_R_1", (5, 5, 5), (1.0, 1.0, 1.0))
    whole = evaluate(tmp_path).to_json()
    assert whole["held_back"]["n"] == 1
    assert any("have trained on" in text for text in whole["warnings"])
    figures = evaluate(tmp_path, held_back_only=True).to_json()
    assert [case["case_id"] for case in figures["per_case"]] == [f"{held_back}_R_1"]
    assert figures["warnings"] == [text for text in figures["warnings"] if "trained" not in text]
    (tmp_path / "images" / f"{held_back}_R_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"None of the 1 nodules .* is of a patient who is held back"):
        evaluate(tmp_path, held_back_only=True)


def test_limit_stop_and_settings(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert evaluate(folder, limit=2).to_json()["n"] == 2
    with pytest.raises(CancelledByUserError):
        evaluate_segmentation(folder, BoxClicks(), SegmentationConfig(), should_stop=lambda: True)
    with pytest.raises(InputError, match="at least one click"):
        SegmentationConfig(clicks=0)


@pytest.mark.parametrize(
    ("rating", "kind"),
    [
        (1, NoduleKind.NON_SOLID),
        (2, NoduleKind.NON_SOLID),
        (3, NoduleKind.PART_SOLID),
        (3.5, NoduleKind.SOLID),
        (5, NoduleKind.SOLID),
        (None, None),
        (0, None),
        (7, None),
    ],
)
def test_texture_ratings(rating: float | None, kind: NoduleKind | None) -> None:
    assert texture_of_rating(rating) == kind
