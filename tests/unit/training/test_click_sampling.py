"""Training patches: the click lies in the nodule, and each variation does what it says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.training.click_sampling import SamplingConfig, _interpolated, sample_patch, second_look_spacing
from medai.training.lidc import continued

SPACING = (0.7, 0.7, 1.25)
PLAIN = replace(SamplingConfig().unvaried(), patch_shape=(24, 26, 28))


def at_click(patch):
    return tuple(round(n) for n in patch.click)


def case(shape=(50, 51, 30), radius_mm=5.0, centre=(25, 24, 15)):
    places = np.moveaxis(np.indices(shape), 0, -1) * SPACING
    mask = np.linalg.norm(places - np.array(centre) * SPACING, axis=-1) < radius_mm
    image_hu = np.where(mask, 40, -850).astype(np.int16)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*SPACING, 1.0]))
    return ClickCase(case_id="c", patient_id="p", volume=Volume(geometry=geometry, image_hu=image_hu), mask=mask)


def test_an_unvaried_patch_shows_the_nodule_as_it_is(rng):
    patch = sample_patch(case(), PLAIN, rng)
    assert patch.image_hu.shape == patch.target.shape == patch.known.shape == (24, 26, 28)
    assert np.all(np.abs(np.subtract(patch.click, (11.5, 12.5, 13.5))) <= 3.0 / patch.spacing_mm + 1)
    assert patch.known.all()
    inside = patch.target > 0.5
    assert (np.ptp(np.argwhere(inside), axis=0) + 1).max() == pytest.approx(0.55 * 24, abs=2)
    assert np.abs(np.argwhere(inside).mean(axis=0) - (11.5, 12.5, 13.5)).max() < 1.0
    volume_mm3 = patch.target.sum() * patch.spacing_mm**3
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 5.0**3, rel=0.06)
    assert patch.image_hu[inside].mean() > -150
    assert patch.image_hu[~inside].mean() < -800
    np.testing.assert_array_equal(patch.readers, patch.target)


@pytest.mark.parametrize("shape", [(31, 28, 19), (40, 33, 1)])
def test_images_are_interpolated_as_scipy_does_also_beyond_the_scan(rng, shape):
    sources = rng.normal(-500.0, 400.0, (3, *shape)).astype(np.float32)
    matrix, offset = np.eye(3) + rng.normal(0.0, 0.5, (3, 3)), rng.normal(4.0, 5.0, 3)
    found = _interpolated(sources, matrix, offset, (14, 15, 16))
    for drawn, source in zip(found, sources, strict=True):
        wanted = ndimage.affine_transform(
            source, matrix, offset, output_shape=(14, 15, 16), order=1, mode="nearest", prefilter=False
        )
        np.testing.assert_allclose(drawn, wanted, atol=0.05)


def test_the_same_seed_draws_the_same_patch():
    one, other = (sample_patch(case(), SamplingConfig(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image_hu, other.image_hu)
    np.testing.assert_array_equal(one.target, other.target)
    assert one.click == other.click


def test_image_and_target_stay_together_under_every_variation(rng):
    config = SamplingConfig(patch_shape=(32, 32, 32), noise_hu=0.0, shift_hu=0.0, gain=0.0, sharpness_fraction=0.0)
    for _ in range(20):
        patch = sample_patch(case(), config, rng)
        assert patch.target[at_click(patch)] > 0.2
        inside, bright = patch.target >= 0.5, (patch.image_hu > -405) & patch.known
        assert 2 * (bright & inside).sum() / (bright.sum() + inside.sum()) > 0.8
        assert not np.any(inside & ~patch.known)


def test_first_looks_are_around_the_click_at_about_one_spacing(rng):
    config = SamplingConfig(
        second_look_fraction=0.0, zoom_spread=0.0, offset_voxels=0, thick_fraction=0.0, enlarged_fraction=0.0
    )
    small = [sample_patch(case(radius_mm=4.0), config, rng) for _ in range(10)]
    assert {patch.spacing_mm for patch in small} == {0.9}
    assert all(np.allclose(patch.click, 15.5) for patch in small)
    large = [sample_patch(case(radius_mm=9.0), config, rng).spacing_mm for _ in range(25)]
    assert max(large) > 1.2
    assert max(large) <= 0.9 * 2.0
    assert min(large) >= 0.9


def test_second_looks_fit_the_nodule(rng):
    config = SamplingConfig(second_look_fraction=1.0, zoom_spread=0.0, thick_fraction=0.0, enlarged_fraction=0.0)
    spacings = [sample_patch(case(radius_mm=radius), config, rng).spacing_mm for radius in (2.5, 9.0)]
    assert spacings[0] == config.finest_mm
    assert spacings[1] == pytest.approx(second_look_spacing(18.0, config), rel=0.08)
    assert second_look_spacing(400.0, config) == config.coarsest_mm


def test_larger_nodules_are_shown_as_masses_and_small_ones_are_not(rng):
    config = replace(PLAIN, enlarged_fraction=1.0)
    masses = [sample_patch(case(radius_mm=9.0), config, rng) for _ in range(15)]
    extents_mm = [(np.ptp(np.argwhere(patch.target > 0.5), axis=0).max() + 1) * patch.spacing_mm for patch in masses]
    assert min(extents_mm) >= 15.0
    assert max(extents_mm) > 45.0
    assert max(extents_mm) <= config.largest_mm * 1.1
    small = sample_patch(case(radius_mm=4.0), config, np.random.default_rng(5))
    as_it_is = sample_patch(case(radius_mm=4.0), replace(config, enlarged_fraction=0.0), np.random.default_rng(5))
    np.testing.assert_array_equal(small.target, as_it_is.target)


def test_first_looks_at_masses_are_coarser_still(rng):
    config = SamplingConfig(second_look_fraction=0.0, zoom_spread=0.0, thick_fraction=0.0, enlarged_fraction=1.0)
    spacings = [sample_patch(case(radius_mm=9.5), config, rng).spacing_mm for _ in range(40)]
    assert max(spacings) > 2.0
    assert max(spacings) <= config.spacing_mm * config.coarsest_zoom


def test_the_mean_of_the_readers_goes_with_the_mask(rng):
    one = case()
    half = replace(one, readers=one.mask.astype(np.float32) * 0.5)
    patch = sample_patch(half, SamplingConfig(), rng)
    np.testing.assert_allclose(patch.readers, patch.target * 0.5, atol=1e-5)


def test_a_cut_hides_what_lies_beyond_the_end_of_the_scan(rng):
    config = replace(PLAIN, cut_fraction=1.0)
    patches = [sample_patch(case(), config, rng) for _ in range(12)]
    assert all(patch.known[at_click(patch)] for patch in patches)
    assert sum(not patch.known.all() for patch in patches) >= 6


def test_intensity_shift_moves_the_whole_patch(rng):
    config = replace(PLAIN, shift_hu=100.0)
    means = [sample_patch(case(), config, rng).image_hu.mean() for _ in range(8)]
    assert np.std(means) > 30


def test_a_crop_goes_on_without_the_nodule(rng):
    whole = case(centre=(25, 24, 15), shape=(50, 51, 30))
    kept = slice(11, 20)  # cut within the nodule's slices, as the crops of real nodules are
    crop = ClickCase(
        case_id="c",
        patient_id="p",
        volume=Volume(
            geometry=VolumeGeometry(shape_ijk=(50, 51, 9), affine_ijk_to_ras_mm=np.diag([*SPACING, 1.0])),
            image_hu=whole.volume.image_hu[..., kept],
        ),
        mask=whole.mask[..., kept],
    )
    longer = continued(crop, rng)
    added = (longer.mask.shape[2] - 9) // 2
    assert added * SPACING[2] >= 18.0
    np.testing.assert_array_equal(longer.mask[..., added:-added], crop.mask)
    np.testing.assert_array_equal(longer.volume.image_hu[..., added:-added], crop.volume.image_hu)
    assert not longer.mask[..., :added].any()
    assert longer.volume.image_hu[..., :added].max() < -500  # painted over
    np.testing.assert_allclose(
        longer.volume.geometry.ijk_to_ras([3, 4, added]), crop.volume.geometry.ijk_to_ras([3, 4, 0])
    )
