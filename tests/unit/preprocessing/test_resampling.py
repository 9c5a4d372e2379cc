import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.resampling import axis_weights, coarse_geometry, resample_region, resample_to_grid


def _geometry(shape=(20, 23, 14), spacing=(0.7, 0.8, 2.5), flips=(-1, 1, 1), turn_deg=0.0):
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.asarray(spacing) * flips)
    affine[:3, 3] = (30, -20, 100)
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)


def _ramp(geometry):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape_ijk], indexing="ij"), axis=-1)
    return geometry.ijk_to_ras(index) @ np.array([1.0, -2.0, 3.0])


@pytest.mark.parametrize("turn_deg", [0.0, 17.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_linear_image_stays_linear_in_the_patient(turn_deg, order):
    source = _geometry(turn_deg=turn_deg)
    target = source.crop(IndexBox(start_ijk=(4, 5, 3), stop_ijk=(16, 18, 11))).resampled([1.1, 1.0, 1.3])
    out = resample_to_grid(np.array(_ramp(source), order=order), source, target)
    assert out.shape == target.shape_ijk
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(out[inner], _ramp(target)[inner], atol=0.35)
    plain = resample_to_grid(np.array(_ramp(source), order=order), source, target, antialias=False)
    np.testing.assert_allclose(plain[inner], _ramp(target)[inner], atol=1e-3)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("spacing_mm", [(0.3, 0.5, 0.9), (3.0, 2.1, 3.0)])
def test_bands_give_what_the_whole_matrices_give(order, spacing_mm, rng):
    source = _geometry(shape=(41, 43, 37))
    target = source.crop(IndexBox(start_ijk=(3, -2, 5), stop_ijk=(39, 40, 44))).resampled(spacing_mm)
    plain = rng.integers(-1000, 400, source.shape_ijk).astype(np.int16)
    image = plain.transpose(order).copy().transpose(np.argsort(order))
    first, step = source.ras_to_ijk(target.origin_ras_mm), np.divide(target.spacing_mm, source.spacing_mm)
    weights = [
        axis_weights(source.shape_ijk[a], target.shape_ijk[a], first_index=float(first[a]), step=float(step[a]))
        for a in range(3)
    ]
    expected = np.einsum("ai,bj,ck,ijk->abc", *weights, plain.astype(np.float32), optimize=True)
    np.testing.assert_allclose(resample_to_grid(image, source, target), expected, atol=1e-3)


def test_weights_keep_a_constant_and_average_noise(rng):
    weights = axis_weights(101, 25, first_index=1.5, step=4.0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    noise = rng.normal(0, 100, 101).astype(np.float32)
    assert np.std(weights @ noise) < 60


def test_outside_the_scan_the_border_is_repeated():
    source = _geometry(shape=(10, 11, 12))
    target = source.crop(IndexBox(start_ijk=(-3, 0, 0), stop_ijk=(10, 11, 12)))
    image = np.arange(10 * 11 * 12, dtype=np.int16).reshape(10, 11, 12)
    out = resample_to_grid(image, source, target)
    np.testing.assert_allclose(out[:3], np.broadcast_to(image[:1], (3, 11, 12)))
    np.testing.assert_allclose(out[3:], image)


def test_grids_turned_against_each_other_are_refused():
    source = _geometry(shape=(10, 11, 12))
    with pytest.raises(GeometryError, match="turned against each other"):
        resample_to_grid(np.zeros((10, 11, 12)), source, _geometry(shape=(10, 11, 12), turn_deg=10))


def test_region_and_coarse_copy_cover_what_was_asked():
    geometry = _geometry()
    volume = Volume(geometry=geometry, image_hu=_ramp(geometry).astype(np.float32), case_id="a")
    box = IndexBox(start_ijk=(2, 3, 4), stop_ijk=(12, 15, 60))
    region = resample_region(volume, box, [1.0, 1.0, 1.0])
    assert region.geometry.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    assert region.geometry.shape_ijk == (7, 10, 25)
    coarse = coarse_geometry(geometry, 2.0)
    assert coarse.spacing_mm == pytest.approx((2.0, 2.0, 2.5))
