import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.nodule_features import as_vector, nodule_features
from medai.preprocessing.nodule_views import CHANNELS, nodule_views

SPACING = (0.7, 0.8, 1.5)
SHAPE = (70, 64, 30)


def _geometry(shape=SHAPE, spacing=SPACING, directions=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * np.asarray(spacing)
    affine[:3, 3] = (-40.0, 12.0, 100.0)
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)


def _ball(radius_mm=6.0, inside_hu=30.0, centre=(34.0, 31.0, 14.0), shape=SHAPE, spacing=SPACING):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    off_mm = np.linalg.norm((grid - np.asarray(centre)) * spacing, axis=-1)
    mask = off_mm <= radius_mm
    rng = np.random.default_rng(0)
    image = np.where(mask, inside_hu, -850.0) + rng.normal(0, 15, shape)
    # Something beyond the nodule's slices, which must not be looked at.
    image[20:50, 20:45, :4] = 60.0
    return image.astype(np.int16), mask


def _described(image, mask, geometry):
    box = IndexBox.of_mask(mask)
    return nodule_features(Volume(geometry=geometry, image_hu=image), box, mask[box.slices])


def test_a_ball_is_measured_as_one():
    image, mask = _ball()
    described = _described(image, mask, _geometry())
    assert np.exp(described["log_volume"]) == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.03)
    assert np.exp(described["log_long_axis"]) == pytest.approx(12.0, abs=1.0)
    assert described["hu_mean"] == pytest.approx(0.03, abs=0.005)
    assert described["sphericity"] > 0.9
    assert described["radius_variation"] < 0.1
    assert described["convexity"] > 0.9
    assert described["share_-50_100"] > 0.95
    assert described["touch_solid"] < 0.2
    assert all(np.isfinite(list(described.values())))


def test_the_numbers_are_those_the_weights_were_trained_on():
    """Written down before forms and distances were measured in the nodule's box alone: only rounding may differ."""
    image, mask = _ball(centre=(34.3, 31.4, 14.2))
    mask[34, 31:44, 13:16] = True
    described = _described(image, mask, _geometry())
    expected = {
        "sphericity": 0.94431837,
        "elongation": 0.99211435,
        "radius_variation": 0.06499728,
        "closed_in": 0.03418593,
        "log_depth": 1.71667092,
        "shell_5_mean": -0.64747290,
        "shell_8_mean": -0.83529663,
        "edge_gradient": 0.26891367,
        "touch_largest": 0.04335260,
        "blob_2_around": 0.02435411,
    }
    assert {name: described[name] for name in expected} == pytest.approx(expected, abs=2e-6)


def test_a_rough_and_a_calcified_nodule_differ_where_they_should():
    image, mask = _ball()
    round_one = _described(image, mask, _geometry())
    spiked = mask.copy()
    spiked[34, 15:48, 13:16] = spiked[20:50, 31, 13:16] = True
    rough = _described(image, spiked, _geometry())
    assert rough["sphericity"] < round_one["sphericity"] - 0.05
    assert rough["radius_variation"] > 2 * round_one["radius_variation"]
    calcified = image.copy()
    calcified[31:38, 28:35, 13:16] = 500
    assert _described(calcified, mask, _geometry())["calcified_mm3"] > 3 > round_one["calcified_mm3"]


def test_a_crop_that_ends_at_the_nodule_and_the_whole_scan_give_the_same_numbers():
    image, mask = _ball()
    whole = _described(image, mask, _geometry())
    box = IndexBox.of_mask(mask)
    start, stop = (2, 1, box.start_ijk[2]), (SHAPE[0] - 2, SHAPE[1] - 1, box.stop_ijk[2])
    crop = IndexBox(start_ijk=start, stop_ijk=stop)
    cropped = _described(image[crop.slices], mask[crop.slices], _geometry().crop(crop))
    assert whole == pytest.approx(cropped, abs=1e-9)


def test_the_order_and_direction_of_the_stored_axes_do_not_matter():
    image, mask = _ball()
    straight = _described(image, mask, _geometry())
    flipped = _described(image[::-1], mask[::-1], _geometry(directions=np.diag([-1.0, 1.0, 1.0])))
    assert flipped == pytest.approx(straight, rel=0.02, abs=0.02)


def test_the_slices_may_run_along_any_axis():
    image, mask = _ball()
    straight = _described(image, mask, _geometry())
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = SPACING[2], SPACING[0], SPACING[1], 1.0
    geometry = VolumeGeometry(shape_ijk=(SHAPE[2], SHAPE[0], SHAPE[1]), affine_ijk_to_ras_mm=affine)
    turned = _described(image.transpose(2, 0, 1), mask.transpose(2, 0, 1), geometry)
    assert turned == pytest.approx(straight, abs=1e-6)


def test_one_voxel_is_described_too():
    image, _ = _ball()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[0, 63, 29] = True
    described = _described(image, mask, _geometry())
    assert all(np.isfinite(list(described.values())))


def test_an_empty_outline_is_refused():
    image, mask = _ball()
    volume, box = Volume(geometry=_geometry(), image_hu=image), IndexBox.of_mask(mask)
    for look in (nodule_features, nodule_views):
        with pytest.raises(InputError, match="empty outline"):
            look(volume, box, np.zeros(box.shape_ijk, dtype=bool))


def test_a_measurement_that_is_not_taken_is_named():
    np.testing.assert_array_equal(as_vector({"one": 1.0, "two": 2.0}, ("two", "one")), [2.0, 1.0])
    with pytest.raises(InputError, match="not taken here: three"):
        as_vector({"one": 1.0}, ("three",))


def test_views_show_the_nodules_own_slices_alone():
    image, mask = _ball()
    box = IndexBox.of_mask(mask)
    views = nodule_views(Volume(geometry=_geometry(), image_hu=image), box, mask[box.slices])
    assert views.shape == (CHANNELS, 32, 32, 32)
    assert views.dtype == np.float32
    assert -1 <= views.min() <= views.max() <= 1
    # Eight slices of 1.5 mm: beyond 6 mm from the middle of the fixed view there is nothing.
    assert (views[:3, :, :, :9] == -1).all()
    assert (views[:3, :, :, 23:] == -1).all()
    assert views[2, 16, 16, 16] == pytest.approx(1.0)
    # The scaled view shows the nodule over half of its width.
    assert (views[5, :, 16, 16] > 0).sum() == pytest.approx(16, abs=2)


def test_views_of_a_crop_and_of_the_whole_scan_are_the_same():
    image, mask = _ball()
    box = IndexBox.of_mask(mask)
    whole = nodule_views(Volume(geometry=_geometry(), image_hu=image), box, mask[box.slices])
    crop = IndexBox(start_ijk=(0, 0, box.start_ijk[2]), stop_ijk=(SHAPE[0], SHAPE[1], box.stop_ijk[2]))
    volume = Volume(geometry=_geometry(), image_hu=image).crop(crop)
    inside = box.shift([-n for n in crop.start_ijk])
    np.testing.assert_allclose(nodule_views(volume, inside, mask[box.slices]), whole, atol=1e-6)
