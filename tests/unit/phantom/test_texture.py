"""Noise measured in a scan, and more of the same."""

import numpy as np
import pytest
from scipy import ndimage

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.phantom.texture import NoiseTexture


def scan(rng, *, blur=0.0, noise_hu=30.0, tissue_hu=45.0, shape=(120, 110, 14)):
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (blur, blur, 0))
    image = tissue_hu + noise_hu * noise / noise.std()
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([0.7, 0.8, 2.0, 1.0]))
    return Volume(geometry=geometry, image_hu=np.rint(image).astype(np.int16))


def step_correlation(noise):
    return float(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1])


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_more_noise_has_the_same_grain(rng, blur):
    volume = scan(rng, blur=blur)
    texture = NoiseTexture.measure(volume)
    sample = texture.sample(rng, (60, 70, 9))
    assert sample.shape == (60, 70, 9)
    assert sample.std() == pytest.approx(1.0, abs=0.1)
    # The calmest tiles are a little calmer than all.
    assert texture.strength_hu == pytest.approx(30.0, rel=0.2)
    wanted = step_correlation(volume.image_hu.astype(float))
    assert step_correlation(sample) == pytest.approx(wanted, abs=0.08)


def test_neighbouring_slices_share_what_the_scans_slices_share(rng):
    volume = scan(rng)
    image = volume.image_hu.astype(np.float32)
    image[..., 1:] = 45 + ((image[..., 1:] - 45) + 0.5 * (image[..., :-1] - 45)) / np.sqrt(1.25)
    texture = NoiseTexture.measure(Volume(geometry=volume.geometry, image_hu=image.astype(np.int16)))
    sample = texture.sample(rng, (60, 60, 30))
    here = float(np.corrcoef(sample[..., 1:].ravel(), sample[..., :-1].ravel())[0, 1])
    assert here == pytest.approx(0.4, abs=0.06)


def test_fine_share_is_what_a_high_pass_leaves(rng):
    texture = NoiseTexture.measure(scan(rng, blur=0.8))
    sample = texture.sample(rng, (80, 80, 10))
    fine = sample - ndimage.uniform_filter(sample, (3, 3, 1))
    assert fine.std() == pytest.approx(texture.fine_share, rel=0.1)


def test_without_soft_tissue_the_lung_says_how_strong_it_is(rng):
    texture = NoiseTexture.measure(scan(rng, tissue_hu=-850.0, noise_hu=40.0))
    assert texture.strength_hu == pytest.approx(40.0, rel=0.1)
    assert texture.neighbour == 0.0
