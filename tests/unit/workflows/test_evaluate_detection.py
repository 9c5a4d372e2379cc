"""The evaluation of a detector on a folder of scans, with stand-ins whose marks are known."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu
from tests.support.scan_factory import write_file

from medai.cli.output import write_json
from medai.domain import Candidate
from medai.errors import CancelledByUserError, InputError, StorageError
from medai.geometry import VolumeGeometry
from medai.workflows.detection_report import DetectionConfig
from medai.workflows.evaluate_detection import LIDC_SERIES, evaluate_detection
from medai.workflows.luna16 import read_marks

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
CONTRACT = {
    "n_scans",
    "n_nodules",
    "cpm",
    "cpm_ci95",
    "sensitivity_at",
    "sensitivity_at_1_fp_ge4mm",
    "scan_sensitivity",
    "scan_specificity",
}
GEOMETRY = VolumeGeometry(shape_ijk=(12, 11, 10), affine_ijk_to_ras_mm=np.diag([-4.0, -4.0, 5.0, 1.0]))
MODEL = {"version_id": "v1", "weights_sha256": "aa"}


@dataclass
class Marker:
    """Marks LPS (8, 8, 10) surely and (30, 30, 10) hardly in every scan, and counts them."""

    operating_probability: float = 0.4
    scans: list[str] = field(default_factory=list)
    stop_after: int = 99

    def detect_all(self, volume, lungs):
        self.scans.append(volume.geometry.describe())
        if len(self.scans) > self.stop_after:
            raise KeyboardInterrupt
        return [
            Candidate(centre_ras_mm=(-8.0, -8.0, 10.0), diameter_mm=6.0, probability=0.8),
            Candidate(centre_ras_mm=(-30.0, -30.0, 10.0), diameter_mm=6.0, probability=0.2),
        ]


def make_folder(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Scans of which the first has a nodule where the marker marks, and the second a small one elsewhere."""
    (folder / "subset0").mkdir(parents=True)
    for name in names:
        write_file(lung_hu((12, 11, 10), -700), GEOMETRY, folder / "subset0" / f"{name}.nii.gz")
    (folder / "annotations.csv").write_text(HEADER + f"{names[0]},8,8,10,6\n{names[1]},30,10,10,3.5\n")
    return folder


def evaluate(folder: Path, marker: Marker | None = None, *, marks: Path | None = None, model=MODEL, **settings):
    return evaluate_detection(
        folder, lambda: marker or Marker(), DetectionConfig(**settings), model=model, marks_file=marks
    )


def test_figures_of_three_scans(tmp_path: Path) -> None:
    figures = evaluate(make_folder(tmp_path)).to_json()
    assert figures.keys() >= CONTRACT
    assert (figures["n_scans"], figures["n_nodules"]) == (3, 2)
    # 0.8: the first nodule, and two false positives in three scans; 0.2: three more.
    assert figures["curve"]["fps_per_scan"] == [0.0, pytest.approx(2 / 3, abs=1e-5), pytest.approx(5 / 3, abs=1e-5)]
    assert figures["curve"]["sensitivity"] == [0.0, 0.5, 0.5]
    assert figures["sensitivity_at"]["1"] == 0.5
    assert list(figures["sensitivity_at"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert figures["sensitivity_at_1_fp_ge4mm"] == 1.0
    assert figures["ge4mm"]["n_nodules"] == 1
    assert figures["operating_point"] == {"threshold": 0.4, "sensitivity": 0.5, "fps_per_scan": 0.6667}
    assert (figures["scan_sensitivity"], figures["scan_specificity"]) == (1.0, 0.0)
    assert figures["by_size"]["<4 mm"] == {"n": 1, "sensitivity_at_1_fp": 0.0, "found_at_any_probability": 0.0}
    assert figures["per_scan"][0]["found"] == 1


def test_a_threshold_of_ones_own(tmp_path: Path) -> None:
    figures = evaluate(make_folder(tmp_path), threshold=0.9).to_json()
    assert (figures["scan_sensitivity"], figures["scan_specificity"]) == (0.0, 1.0)


def test_a_damaged_scan_is_left_out_of_every_figure(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "subset0" / "a.nii.gz").write_bytes((folder / "subset0" / "a.nii.gz").read_bytes()[:-40])
    figures = evaluate(folder).to_json()
    assert (figures["n_scans"], figures["n_nodules"], figures["n_skipped"]) == (2, 1, 1)
    assert list(figures["skipped"]) == ["a"]
    assert any("1 of 3 scans could not be used" in text for text in figures["warnings"])
    for name in ("b", "c"):
        (folder / "subset0" / f"{name}.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"Not one scan .* could be used. The first: a"):
        evaluate(folder)


def test_marks_are_written_as_a_submission_and_scored_again_without_a_run(tmp_path: Path) -> None:
    folder, marks = make_folder(tmp_path / "data"), tmp_path / "marks.csv"
    first = evaluate(folder, marks=marks).to_json()
    assert [mark.probability for mark in read_marks(marks)["b"]] == [0.8, 0.2]
    marker = Marker()
    again = evaluate(folder, marker, marks=marks).to_json()
    assert marker.scans == []
    assert again["cpm"] == first["cpm"]
    assert again["cpm_ci95"] == first["cpm_ci95"]


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, marks = make_folder(tmp_path / "data"), tmp_path / "marks.csv"
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, Marker(stop_after=2), marks=marks)
    assert not marks.exists()
    with (tmp_path / "marks.csv.scans.jsonl").open("a") as stream:
        stream.write('{"scan": "c", "mar')
    marker = Marker()
    assert evaluate(folder, marker, marks=marks).to_json()["n_scans"] == 3
    assert len(marker.scans) == 1
    assert marks.exists()


def test_a_damaged_scan_is_tried_again(tmp_path: Path) -> None:
    folder, marks = make_folder(tmp_path / "data"), tmp_path / "marks.csv"
    scan = folder / "subset0" / "b.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[:-50])
    assert evaluate(folder, marks=marks).to_json()["n_scans"] == 2
    scan.write_bytes(whole)
    marker = Marker()
    assert evaluate(folder, marker, marks=marks).to_json()["n_scans"] == 3
    assert len(marker.scans) == 1


def test_marks_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    folder, marks = make_folder(tmp_path / "data"), tmp_path / "marks.csv"
    evaluate(folder, marks=marks)
    with pytest.raises(InputError, match="marks of another model"):
        evaluate(folder, marks=marks, model={"version_id": "v2", "weights_sha256": "bb"})
    (tmp_path / "marks.csv.scans.jsonl").unlink()
    figures = evaluate(folder, marks=marks, model={"version_id": "v2"}).to_json()
    assert figures["marks_from"] == "file marks.csv"
    assert figures["n_scans"] == 3


def test_anyones_marks_are_scored_without_the_scans(tmp_path: Path) -> None:
    (tmp_path / "annotations.csv").write_text(HEADER + "a,8,8,10,6\n")
    (tmp_path / "seriesuids.csv").write_text("a\nb\n")
    marks = tmp_path / "theirs.csv"
    marks.write_text("seriesuid,coordX,coordY,coordZ,probability\na,8,9,10,3.5\nb,0,0,0,-2\nz,0,0,0,1\n")
    figures = evaluate_detection(
        tmp_path, lambda: pytest.fail("no detector is needed"), DetectionConfig(), model={}, marks_file=marks
    ).to_json()
    assert (figures["cpm"], figures["n_scans"], figures["n_nodules"]) == (1.0, 2, 1)
    assert figures["operating_point"]["threshold"] == 0.5
    assert any("Marks of 1 scans that do not count" in text for text in figures["warnings"])
    assert not (tmp_path / "theirs.csv.scans.jsonl").exists()


def test_a_submission_that_was_edited_is_somebodys_own(tmp_path: Path) -> None:
    folder, marks = make_folder(tmp_path / "data"), tmp_path / "marks.csv"
    evaluate(folder, marks=marks)
    marks.write_text("seriesuid,coordX,coordY,coordZ,probability\na,8,8,10,0.9\n")
    figures = evaluate(folder, marks=marks).to_json()
    assert (figures["marks_from"], figures["n_false_positives"]) == ("file marks.csv", 0)
    assert marks.read_text().count("\n") == 2


def test_no_mark_at_all_is_a_result(tmp_path: Path) -> None:
    marks = tmp_path / "none.csv"
    marks.write_text("seriesuid,coordX,coordY,coordZ,probability\n")
    figures = evaluate(make_folder(tmp_path / "data"), marks=marks).to_json()
    assert (figures["cpm"], figures["scan_sensitivity"], figures["scan_specificity"]) == (0.0, 0.0, 1.0)


def test_marks_of_other_scans_are_an_error(tmp_path: Path) -> None:
    marks = tmp_path / "other.csv"
    marks.write_text("seriesuid,coordX,coordY,coordZ,probability\nz,1,2,3,0.5\n")
    with pytest.raises(InputError, match="names none of the 3 scans: it has z, the scans are a, b, c"):
        evaluate(make_folder(tmp_path / "data"), marks=marks)


def test_scans_without_a_nodule_have_no_cpm(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "annotations.csv").write_text(HEADER)
    figures = evaluate(folder).to_json()
    assert math.isnan(figures["cpm"])
    write_json(tmp_path / "out.json", figures)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["cpm"] is None
    assert written["scan_specificity"] == 0.0


def test_one_scan_limit_and_what_a_reader_should_know(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, (LIDC_SERIES + "1", LIDC_SERIES + "2"))
    figures = evaluate(folder, limit=1).to_json()
    assert (figures["n_scans"], figures["n_nodules"], figures["cpm_ci95"]) == (1, 1, [1.0, 1.0])
    assert math.isnan(figures["scan_specificity"])
    assert any("scans of LIDC-IDRI" in text for text in figures["warnings"])


def test_refusals(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    with pytest.raises(InputError, match="finite threshold"):
        DetectionConfig(threshold=float("nan"))
    with pytest.raises(StorageError, match="could not be written"):
        evaluate(folder, marks=tmp_path / "none" / "marks.csv")
    with pytest.raises(CancelledByUserError):
        evaluate_detection(folder, Marker, DetectionConfig(), model=MODEL, should_stop=lambda: True)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "annotations.csv").write_text(HEADER + "a,1,2,3,4\n")
    with pytest.raises(InputError, match="There is no scan file"):
        evaluate(tmp_path / "lists")
