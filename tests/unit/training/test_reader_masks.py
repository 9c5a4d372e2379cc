"""Readers' outlines from a contour database are found again in a crop, wherever it was cut out."""

import sqlite3

import numpy as np
import pytest
from skimage.draw import polygon2mask, polygon_perimeter

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.training.reader_masks import with_readers, with_union

CROP = (200, 310)
"""The scan pixel (column, row) of the crop's first voxel: what the crop itself does not say."""


def octagon(centre, radius):
    angles = np.arange(8) * np.pi / 4
    corners = np.round(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + centre).astype(int)
    return [*corners.tolist(), corners[0].tolist()]


READERS = [octagon((215, 327), radius) for radius in (7, 8, 9)]
SLICES_MM = (-50.0, -48.0, -46.0)


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "contours.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE scans (id INTEGER, series_instance_uid TEXT, patient_id TEXT, pixel_spacing REAL);"
            "CREATE TABLE annotations (id INTEGER, scan_id INTEGER);"
            "CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion INTEGER, "
            "image_z_position REAL, coords TEXT);"
        )
        connection.execute("INSERT INTO scans VALUES (1, '1.2.3', 'P', 0.7)")
        outlines = [*READERS, octagon((400, 100), 6)]  # the last one is another nodule's
        for number, outline in enumerate(outlines, start=1):
            connection.execute("INSERT INTO annotations VALUES (?, 1)", (number,))
            text = "\n".join(f"{x},{y}" for x, y in outline)
            for z_mm in SLICES_MM:
                connection.execute(
                    "INSERT INTO contours (annotation_id, inclusion, image_z_position, coords) VALUES (?, 1, ?, ?)",
                    (number, z_mm, text),
                )
    return path


def inner(outline, shape=(40, 41)):
    points = np.array(outline) - CROP
    rim = np.zeros(shape, dtype=bool)
    rim[polygon_perimeter(points[:, 0], points[:, 1], shape=shape)] = True
    return polygon2mask(shape, points) & ~rim


def crop(mask, spacing=(0.7, 0.7, 2.0), first_mm=-50.0):
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (120.0, -80.0, first_mm)
    geometry = VolumeGeometry(shape_ijk=mask.shape, affine_ijk_to_ras_mm=affine)
    image_hu = np.where(mask, 30, -850).astype(np.int16)
    return ClickCase(case_id="c", patient_id="P", volume=Volume(geometry=geometry, image_hu=image_hu), mask=mask)


def test_the_mean_of_the_readers_is_found_wherever_the_crop_lies(database):
    union = np.repeat(inner(READERS[2])[..., None], 3, axis=2)
    (found,) = with_readers([crop(union)], {"c": "1.2.3"}, database)
    expected = np.mean([inner(outline) for outline in READERS], axis=0)
    np.testing.assert_allclose(found.readers, np.repeat(expected[..., None], 3, axis=2), atol=1e-6)
    np.testing.assert_array_equal(found.mask, union)


@pytest.mark.parametrize("series", [{}, {"c": "9.9"}], ids=["unlisted", "another scan"])
def test_a_case_of_an_unknown_scan_stays_as_it_is(database, series):
    (found,) = with_readers([crop(np.repeat(inner(READERS[2])[..., None], 3, axis=2))], series, database)
    assert found.readers is None


def test_a_mask_that_no_reader_drew_stays_as_it_is(database):
    mask = np.zeros((40, 41, 3), dtype=bool)
    mask[5, 6, 1] = True
    (found,) = with_readers([crop(mask)], {"c": "1.2.3"}, database)
    assert found.readers is None


def test_one_readers_resampled_cube_gets_the_union(database):
    drawn = np.repeat(inner(READERS[1])[..., None], 3, axis=2)
    fine = drawn.repeat(2, axis=2)  # 1 mm slices
    cube = crop(np.pad(fine, ((0, 0), (0, 0), (4, 4))), spacing=(0.7, 0.7, 1.0), first_mm=0.0)
    (found,) = with_union([cube], database)
    assert np.all(found.mask[cube.mask & (found.readers > 0)])
    widest = inner(READERS[2]).sum() * 3 * 2
    assert found.mask.sum() == pytest.approx(widest, rel=0.2)
    np.testing.assert_allclose(np.unique(found.readers), [0, 1 / 3, 2 / 3, 1], atol=1e-6)


def test_a_cube_that_no_outline_fits_is_left_out(database):
    mask = np.zeros((30, 31, 32), dtype=bool)
    mask[10:12, 10:30, 10:12] = True
    assert with_union([crop(mask, spacing=(1.0, 1.0, 1.0))], database) == []
