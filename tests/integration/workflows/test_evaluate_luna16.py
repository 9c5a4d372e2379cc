"""A LUNA16 download in small: MetaImage scans with their voxels in a second file, lists in LPS, lung masks beside."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import SyntheticScan, make_scan, named_geometry

from medai.domain import Candidate
from medai.geometry.frames import affine_to_itk, points_ras_to_lps
from medai.workflows.detection_report import DetectionConfig
from medai.workflows.evaluate_detection import evaluate_detection

UIDS = {"axial": "1.2.840.1", "oblique": "1.2.840.2", "flipped": "1.2.840.3"}


class SeesTissueInLung:
    """Marks the middle of what is dense inside the lungs' hull: enough for balls in two empty lungs."""

    operating_probability = 0.5

    def __init__(self, scans: dict[str, SyntheticScan]) -> None:
        self.scans = list(scans.values())
        self.calls = 0

    def detect_all(self, volume, lungs):
        from scipy import ndimage

        scan = self.scans[self.calls]
        self.calls += 1
        dense = (np.asarray(volume.image_hu) > -400) & (scan.lungs > 0)
        numbered, count = ndimage.label(dense)
        middles = ndimage.center_of_mass(dense, numbered, range(1, count + 1))
        places = [volume.geometry.ijk_to_ras(middle) for middle in middles]
        return [
            Candidate(centre_ras_mm=tuple(map(float, place)), diameter_mm=10.0, probability=0.9) for place in places
        ]


def write_mhd(scan: SyntheticScan, path: Path) -> None:
    """As LUNA16 has it: a header of text and raw int16 voxels beside it."""
    origin, spacing, direction = affine_to_itk(scan.geometry.affine_ijk_to_ras_mm)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".raw").write_bytes(np.asarray(scan.volume.image_hu).astype("<i2").tobytes(order="F"))
    path.write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = {' '.join(map(repr, direction.T.ravel().tolist()))}\n"
        f"Offset = {' '.join(map(repr, origin.tolist()))}\nCenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\n"
        f"ElementSpacing = {' '.join(map(repr, spacing.tolist()))}\n"
        f"DimSize = {' '.join(map(str, scan.geometry.shape_ijk))}\nElementType = MET_SHORT\n"
        f"ElementDataFile = {path.with_suffix('.raw').name}\n"
    )


@pytest.fixture
def scans(rng: np.random.Generator) -> dict[str, SyntheticScan]:
    return {uid: make_scan(named_geometry(name), rng) for name, uid in UIDS.items()}


def make_download(folder: Path, scans: dict[str, SyntheticScan]) -> Path:
    lines = ["seriesuid,coordX,coordY,coordZ,diameter_mm"]
    for number, (uid, scan) in enumerate(scans.items()):
        write_mhd(scan, folder / f"subset{number}" / f"{uid}.mhd")
        (folder / "seg-lungs-LUNA16").mkdir(exist_ok=True)
        (folder / "seg-lungs-LUNA16" / f"{uid}.mhd").write_text("no scan")
        for nodule in scan.nodules:
            x, y, z = points_ras_to_lps(nodule.centre_ras_mm)
            lines.append(f"{uid},{x},{y},{z},{nodule.diameter_mm}")
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n")
    lists = folder / "evaluationScript" / "annotations"
    lists.mkdir(parents=True)
    (lists / "annotations.csv").write_text("\n".join(lines) + "\n")
    (lists / "annotations_excluded.csv").write_text(lines[0] + "\n")
    (lists / "seriesuids.csv").write_text("\n".join(scans) + "\n")
    return folder


def test_places_agree_on_every_grid_and_marks_come_back_from_the_submission(tmp_path: Path, scans) -> None:
    folder, marks = make_download(tmp_path / "LUNA16", scans), tmp_path / "marks.csv"
    settings = {"model": {"version_id": "x"}, "marks_file": marks}
    figures = evaluate_detection(folder, lambda: SeesTissueInLung(scans), DetectionConfig(), **settings).to_json()
    assert (figures["n_scans"], figures["n_nodules"], figures["n_skipped"]) == (3, 6, 0)
    assert figures["n_found"] == 6
    assert figures["sensitivity_at"]["8"] == 1.0
    assert figures["scan_sensitivity"] == 1.0

    (tmp_path / "marks.csv.scans.jsonl").unlink()
    again = evaluate_detection(folder, lambda: pytest.fail("marks are known"), DetectionConfig(), **settings).to_json()
    assert again["cpm"] == figures["cpm"]
    assert again["marks_from"] == "file marks.csv"


def test_a_scan_whose_voxels_are_missing_is_left_out(tmp_path: Path, scans) -> None:
    folder = make_download(tmp_path, scans)
    (folder / "subset2" / f"{UIDS['flipped']}.raw").unlink()
    figures = evaluate_detection(folder, lambda: SeesTissueInLung(scans), DetectionConfig(), model={}).to_json()
    assert (figures["n_scans"], figures["n_nodules"], figures["n_skipped"]) == (2, 4, 1)
    assert "which is not beside it" in figures["skipped"][UIDS["flipped"]]
