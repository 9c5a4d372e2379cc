import numpy as np
import pytest

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.preprocessing.blobs import BlobConfig, find_blobs
from medai.preprocessing.candidate_patches import candidate_views
from medai.preprocessing.lung_mask import LungMask

SHAPE = (96, 86, 40)
BALLS_RAS_MM = {(20.0, 14.0, 12.0): (6.0, 30), (48.0, 44.0, 40.0): (14.0, 30), (20.0, 45.0, 56.0): (10.0, -620)}


def _lung_with_balls(flips=(1, 1, 1), *, vessel=False):
    affine = np.diag([0.7 * flips[0], 0.7 * flips[1], 1.8 * flips[2], 1.0])
    affine[:3, 3] = [0 if f > 0 else (n - 1) * s for f, n, s in zip(flips, SHAPE, (0.7, 0.7, 1.8), strict=True)]
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    points = geometry.ijk_to_ras(index)
    image = np.full(SHAPE, -860.0)
    for centre, (diameter, hu) in BALLS_RAS_MM.items():
        image[np.linalg.norm(points - centre, axis=-1) <= diameter / 2] = hu
    if vessel:
        image[np.hypot(points[..., 0] - 50, points[..., 1] - 12) < 2.5] = 40
    volume = Volume(geometry=geometry, image_hu=image.astype(np.int16))
    return volume, LungMask(geometry=geometry, labels=np.ones(SHAPE, dtype=np.uint8), is_plausible=True)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_balls_of_any_size_and_density_are_found_where_they_are(flips):
    blobs = find_blobs(*_lung_with_balls(flips))
    for centre, (diameter, _) in BALLS_RAS_MM.items():
        best = min(blobs, key=lambda blob, c=centre: np.linalg.norm(np.subtract(blob.centre_ras_mm, c)))
        assert np.linalg.norm(np.subtract(best.centre_ras_mm, centre)) < 1.5
        assert 0.6 * diameter <= best.diameter_mm <= 1.5 * diameter


def test_a_straight_vessel_is_no_blob():
    with_vessel, lungs = _lung_with_balls(vessel=True)
    near = [
        blob
        for blob in find_blobs(with_vessel, lungs)
        if np.hypot(blob.centre_ras_mm[0] - 50, blob.centre_ras_mm[1] - 12) < 3 and 10 < blob.centre_ras_mm[2] < 60
    ]
    assert near == []


def test_outside_the_lungs_nothing_is_found():
    volume, lungs = _lung_with_balls()
    half = np.zeros(SHAPE, dtype=np.uint8)
    half[:, :, 20:] = 1
    found = find_blobs(volume, LungMask(geometry=lungs.geometry, labels=half, is_plausible=True))
    assert found
    assert all(blob.centre_ras_mm[2] > 30 for blob in found)
    empty = LungMask(geometry=lungs.geometry, labels=np.zeros(SHAPE, dtype=np.uint8), is_plausible=False)
    assert find_blobs(volume, empty) == []


def test_least_strength_is_honoured():
    volume, lungs = _lung_with_balls()
    strict = find_blobs(volume, lungs, BlobConfig(least_strength_hu=250.0))
    faint = (20.0, 45.0, 56.0)
    assert {blob.centre_ras_mm for blob in strict} < {blob.centre_ras_mm for blob in find_blobs(volume, lungs)}
    assert all(np.linalg.norm(np.subtract(blob.centre_ras_mm, faint)) > 5 for blob in strict)


def test_a_place_looks_the_same_however_the_scan_is_stored():
    centre = next(iter(BALLS_RAS_MM))
    views = candidate_views(_lung_with_balls()[0], centre, 6.0)
    assert views.shape == (2, 24, 24, 24)
    assert -1 <= views.min() < -0.7 < 0.3 < views.max() <= 1
    for flips in [(-1, -1, 1), (1, -1, -1)]:
        turned = candidate_views(_lung_with_balls(flips)[0], centre, 6.0)
        assert np.mean(np.abs(turned - views)) < 1e-3  # a voxel on the ball's rim may fall on either side


def test_a_large_place_is_seen_from_further_away():
    volume, _ = _lung_with_balls()
    near, far = (candidate_views(volume, (48.0, 44.0, 40.0), d)[0] > 0 for d in (14.0, 32.0))
    assert far.sum() == pytest.approx(near.sum() / 8, rel=0.35)
