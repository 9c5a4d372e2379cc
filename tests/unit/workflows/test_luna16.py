"""LUNA16's folder as it is downloaded, our own layout, and lists as people write them."""

from pathlib import Path

import pytest

from medai.errors import InputError
from medai.evaluation.froc import Mark
from medai.workflows.luna16 import read_detection_folder, read_findings, read_marks, read_scan_ids, write_marks

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def luna16(folder: Path) -> Path:
    """A download of two scans of three, with everything that lies around in one."""
    touch(folder / "CSVFILES" / "annotations.csv", HEADER + "1.2.3,-10.5,20,30,6.5\n1.2.9,1,2,3,5\n")
    touch(folder / "CSVFILES" / "candidates.csv", "seriesuid,coordX,coordY,coordZ,class\n1.2.3,0,0,0,0\n")
    lists = folder / "evaluationScript" / "annotations"
    touch(lists / "annotations_excluded.csv", HEADER + "1.2.3,1,2,3,-1.0\n1.2.4,4,5,6,4\n")
    touch(lists / "seriesuids.csv", "1.2.3\n1.2.4\n1.2.5\n")
    touch(folder / "subset0" / "1.2.3.mhd")
    touch(folder / "subset0" / "1.2.3.raw")
    touch(folder / "subset1" / "1.2.4.mhd")
    touch(folder / "seg-lungs-LUNA16" / "1.2.3.mhd")
    touch(folder / "seg-lungs-LUNA16" / "1.2.3.zraw")
    return folder


def test_a_download_is_read_as_it_is(tmp_path: Path) -> None:
    found = read_detection_folder(luna16(tmp_path))
    assert list(found.truths) == ["1.2.3", "1.2.4"]
    assert {scan: str(path.relative_to(tmp_path)) for scan, path in found.images.items()} == {
        "1.2.3": "subset0/1.2.3.mhd",
        "1.2.4": "subset1/1.2.4.mhd",
    }
    (nodule,) = found.truths["1.2.3"].nodules
    assert nodule.centre_ras_mm == (10.5, -20.0, 30.0)
    assert nodule.diameter_mm == 6.5
    assert found.truths["1.2.3"].irrelevant[0].diameter_mm == 10.0
    assert found.truths["1.2.4"].nodules == ()
    assert found.has_irrelevant_list
    assert any("1 of the 3 scans in seriesuids.csv have no file" in text for text in found.warnings)
    assert any("Nodules of 1 scans that do not count" in text for text in found.warnings)


def test_our_own_layout_needs_one_list(tmp_path: Path) -> None:
    touch(tmp_path / "annotations.csv", HEADER + "a,1,2,3,5\n")
    touch(tmp_path / "images" / "a.nii.gz")
    touch(tmp_path / "images" / "b.nii.gz")
    touch(tmp_path / "masks" / "a.nii.gz")
    found = read_detection_folder(tmp_path)
    assert list(found.truths) == ["a", "b"]
    assert found.images["a"] == tmp_path / "images" / "a.nii.gz"
    assert any("evaluationScript.zip" in text for text in found.warnings)


def test_a_folder_named_like_masks_is_read_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "lungs"
    touch(folder / "annotations.csv", HEADER + "a,1,2,3,5\n")
    touch(folder / "a.nii.gz")
    assert list(read_detection_folder(folder).images) == ["a"]


def test_lists_alone_are_enough_to_score_marks(tmp_path: Path) -> None:
    touch(tmp_path / "annotations.csv", HEADER + "a,1,2,3,5\n")
    assert list(read_detection_folder(tmp_path).truths) == ["a"]
    touch(tmp_path / "seriesuids.csv", "seriesuid\na\nb\n\n")
    assert list(read_detection_folder(tmp_path).truths) == ["a", "b"]
    assert read_detection_folder(tmp_path).images == {}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    luna16(tmp_path)
    (tmp_path / "subset0" / "again").symlink_to(tmp_path)
    assert len(read_detection_folder(tmp_path).truths) == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no annotations.csv"),
        ({"annotations.csv": "uid,x,y,z\n"}, "no column seriesuid, coordx, coordy, coordz, diameter_mm"),
        ({"annotations.csv": ""}, "no column seriesuid"),
        ({"annotations.csv": HEADER + "a,1,2,x,5\n"}, "annotations.csv, line 2: coordz is 'x'"),
        ({"annotations.csv": HEADER + "a,1,2\n"}, "line 2: 3 values under 5 columns"),
        ({"annotations.csv": HEADER + "a,1,2,nan,5\n"}, "three numbers"),
        ({"annotations.csv": HEADER}, "No scan was found"),
        ({"annotations.csv": HEADER, "subset0.zip": ""}, "Unpack the zip files"),
        ({"annotations.csv": HEADER + "a,1,2,3,4\n", "images/b.nii": ""}, "names none of the scans"),
        ({"annotations.csv": HEADER, "seriesuids.csv": "a\n", "images/b.nii": ""}, "Name the files by the ids"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        touch(tmp_path / name, text)
    with pytest.raises(InputError, match=words):
        read_detection_folder(tmp_path)


def test_lists_of_spreadsheets_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "annotations.csv"
    path.write_bytes("\ufeffSeriesUID; coordX;CoordY;coordZ;Diameter_mm;note\r\na;1;2;3;;x\r\n;;;;;\r\n".encode())
    assert read_findings(path)["a"][0].diameter_mm == 10.0
    quoted = touch(tmp_path / "ids.csv", '"a"\nb,1\na\n')
    assert read_scan_ids(quoted) == ["a", "b"]


def test_marks_come_back_as_they_were_written(tmp_path: Path) -> None:
    marks = {
        "a": [Mark(centre_ras_mm=(1.25, -2.0, 3.0), probability=0.125), Mark(centre_ras_mm=(0, 0, 0), probability=0.5)],
        "b": [],
    }
    path = tmp_path / "marks.csv"
    write_marks(path, marks)
    assert path.read_text().splitlines()[:2] == [
        "seriesuid,coordX,coordY,coordZ,probability",
        "a,0.0000,0.0000,0.0000,0.5",
    ]
    back = read_marks(path)
    assert [mark.probability for mark in back["a"]] == [0.5, 0.125]
    assert back["a"][1].centre_ras_mm == (1.25, -2.0, 3.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seriesuid,coordX,coordY,coordZ\n", "no column probability"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,3,high\n", "line 2: probability is 'high'"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,3,nan\n", "the probability is 'nan'"),
    ],
)
def test_marks_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_marks(touch(tmp_path / "marks.csv", text))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        read_detection_folder(tmp_path / "none")
