"""Training patches: the click lies in the nodule, and each variation does what it says."""

from dataclasses import replace

import numpy as np
import pytest

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.training.click_sampling import SamplingConfig, sample_patch
from medai.training.lidc import continued

SPACING = (0.7, 0.7, 1.25)
PLAIN = replace(SamplingConfig().unvaried(), patch_shape=(24, 26, 28))


def case(shape=(50, 51, 30), radius_mm=5.0, centre=(25, 24, 15)):
    places = np.moveaxis(np.indices(shape), 0, -1) * SPACING
    mask = np.linalg.norm(places - np.array(centre) * SPACING, axis=-1) < radius_mm
    image_hu = np.where(mask, 40, -850).astype(np.int16)
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*SPACING, 1.0]))
    return ClickCase(case_id="c", patient_id="p", volume=Volume(geometry=geometry, image_hu=image_hu), mask=mask)


def test_an_unvaried_patch_shows_the_nodule_as_it_is(rng):
    patch = sample_patch(case(), PLAIN, rng)
    assert patch.image_hu.shape == patch.target.shape == patch.known.shape == (24, 26, 28)
    assert patch.click == (12, 13, 14)
    assert patch.known.all()
    volume_mm3 = patch.target.sum() * patch.spacing_mm**3
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 5.0**3, rel=0.06)
    assert patch.image_hu[patch.target].mean() > -150
    assert patch.image_hu[~patch.target].mean() < -800


def test_the_same_seed_draws_the_same_patch():
    one, other = (sample_patch(case(), SamplingConfig(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image_hu, other.image_hu)
    np.testing.assert_array_equal(one.target, other.target)
    assert one.click == other.click


def test_image_and_target_stay_together_under_every_variation(rng):
    config = SamplingConfig(patch_shape=(32, 32, 32), noise_hu=0.0, shift_hu=0.0, gain=0.0, sharpness_fraction=0.0)
    for _ in range(20):
        patch = sample_patch(case(), config, rng)
        assert patch.target[patch.click]
        bright = patch.image_hu > -405
        shown = patch.known
        overlap = 2 * (bright & patch.target & shown).sum() / ((bright & shown).sum() + patch.target.sum())
        assert overlap > 0.8
        assert not np.any(patch.target & ~patch.known & (np.arange(32) != patch.click[2]))


def test_patch_spacing_stays_in_range_and_grows_for_large_nodules(rng):
    config = SamplingConfig(patch_shape=(16, 16, 16))
    small = [sample_patch(case(radius_mm=4.0), config, rng).spacing_mm for _ in range(25)]
    large = [sample_patch(case(radius_mm=9.0), config, rng).spacing_mm for _ in range(25)]
    assert min(small) >= 0.75 * 0.8
    assert max(small) <= 0.75 * 1.25
    assert max(large) > 1.0
    assert max(large) <= 0.75 * 2.5


def test_a_cut_hides_what_lies_beyond_the_end_of_the_scan(rng):
    config = replace(PLAIN, cut_fraction=1.0)
    patches = [sample_patch(case(), config, rng) for _ in range(12)]
    assert all(patch.known[patch.click] for patch in patches)
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
