"""``medai evaluate`` as a person types it, with the models of the package, on small and odd data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import write_file

from medai.geometry import VolumeGeometry

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "froc"
SEGMENTATION_KEYS = {"n", "dice_mean", "dice_ci95", "dice_median", "hd95_mm_mean"}
DETECTION_KEYS = {
    "n_scans",
    "n_nodules",
    "cpm",
    "cpm_ci95",
    "sensitivity_at",
    "sensitivity_at_1_fp_ge4mm",
    "scan_sensitivity",
    "scan_specificity",
}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medai.cli", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def put_ball(folder: Path, name: str, diameter_mm: float, spacing_mm: tuple[float, float, float]) -> None:
    """A solid ball in lung, cropped at its first and last slice as the LIDC crops are."""
    shape = (60, 58, max(1, round(diameter_mm / spacing_mm[2])))
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing_mm
    off_mm = np.linalg.norm(places - (np.array(shape) - 1) / 2 * spacing_mm, axis=-1)
    noise = np.random.default_rng(1).normal(0, 20, shape)
    covered = np.clip(0.5 + (diameter_mm / 2 - off_mm) / spacing_mm[0], 0, 1)
    image = np.rint(-850 + 870 * covered + noise).astype(np.int16)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*spacing_mm, 1.0]))
    for kind, voxels in (("images", image), ("masks", (off_mm <= diameter_mm / 2).astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_file(voxels, geometry, folder / kind / f"{name}.nii.gz")


def test_outlines_of_a_folder_with_thin_thick_single_and_damaged_scans(tmp_path: Path) -> None:
    put_ball(tmp_path, "thin", 10.0, (0.7, 0.7, 1.0))
    put_ball(tmp_path, "thick", 14.0, (0.7, 0.7, 5.0))
    put_ball(tmp_path, "single", 5.0, (0.6, 0.6, 5.0))
    put_ball(tmp_path, "torn", 8.0, (0.7, 0.7, 1.0))
    (tmp_path / "images" / "torn.nii.gz").write_bytes(b"torn")
    (tmp_path / "nodules.csv").write_text(
        "case_id,patient_id,texture\nthin,p1,5\nthick,p1,\nsingle,p2,nan\ntorn,p3,1\ngone,p4,1\n"
    )
    target = tmp_path / "out" / "result.json"
    target.parent.mkdir()
    done = run("segmentation", "--data", tmp_path, "--json", target, "--clicks", "2", "--seed", "3")
    assert done.returncode == 0, done.stderr
    figures = json.loads(target.read_text())
    assert figures.keys() >= SEGMENTATION_KEYS
    assert (figures["n"], figures["clicks"], figures["seed"], figures["n_skipped"]) == (3, 2, 3, 2)
    assert set(figures["skipped"]) == {"torn", "gone"}
    by_name = {case["case_id"]: case for case in figures["per_case"]}
    assert by_name["thin"]["dice"] > 0.8
    assert figures["model"]["version_id"] == "starter"
    assert (target.parent / "result.png").stat().st_size > 10_000
    assert "thick" in (target.parent / "result.html").read_text()
    assert "left out" in done.stdout

    again = run("segmentation", "--data", tmp_path, "--json", "-", "--clicks", "2", "--seed", "3", "--limit", "1")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["per_case"][0]["dice"] == by_name["thin"]["dice"]


def test_anyones_marks_by_the_lists_alone(tmp_path: Path) -> None:
    case = GOLDEN / "four_scans"
    target = tmp_path / "froc.json"
    done = run("detection", "--data", case, "--marks", case / "marks.csv", "--json", target, "--threshold", "0.55")
    assert done.returncode == 0, done.stderr
    figures = json.loads(target.read_text())
    assert figures.keys() >= DETECTION_KEYS
    assert figures["cpm"] == pytest.approx(4.25 / 7, abs=1e-4)
    assert figures["scan_specificity"] == 1.0
    assert "CPM" in done.stdout
    assert (tmp_path / "froc.png").exists()

    plots = tmp_path / "plots"
    done = run("detection", "--data", case, "--marks", case / "marks.csv", "--plots", plots)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in plots.iterdir()) == ["detection.html", "detection.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("segmentation", "--data", "/no/such/folder"), "/no/such/folder"),
        (("segmentation", "--data", GOLDEN), "no folder images/"),
        (("segmentation", "--data", GOLDEN, "--click", "beside"), "centre, anywhere, innermost"),
        (("segmentation", "--data", GOLDEN, "--json", "/no/such/folder/x.json"), "Could not write"),
        (("segmentation", "--data", GOLDEN, "--weights", "/no/x.safetensors"), "no weights at"),
        (("detection", "--data", "/no/such/folder"), "/no/such/folder"),
        (("detection", "--data", GOLDEN / "tie"), "only lists"),
        (("detection", "--data", GOLDEN / "tie", "--marks", GOLDEN / "tie" / "annotations.csv"), "column probability"),
        (("classification", "--data", "/no/such/folder", "--outline", "mine"), "reference, click"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[object, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("medai: ")
    assert words in lines[0]


@pytest.mark.real_data
def test_held_back_nodules_of_real_patients(real_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "seg.json"
    done = run(
        "segmentation", "--data", real_data / "lidc_nodules", "--json", target, "--held-back-only", "--limit", "12"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(target.read_text())
    assert figures["n"] == figures["held_back"]["n"] == 12
    assert figures["dice_mean"] > 0.75
    assert figures["dice_ci95"][0] < figures["dice_mean"] < figures["dice_ci95"][1]
    assert figures["warnings"] == []
